"""Captions that differ from a right one in a single sentence: harder negatives than those of other pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError
from longalign.worlds import world


def near_caption(
    text: str, others: Sequence[str], rng: np.random.Generator, oracle: str | None = None
) -> str:
    """The caption with one sentence changed.

    Where a world knows its captions, one word of it changes, which makes it false of the picture. Of other captions one
    sentence is exchanged for one of another caption; that this is false of the picture is likely, not certain.

    Args:
        text: the right one.
        others: captions to take sentences from; those that it has itself are left out.
        oracle: the world that the captions are about, as in `longalign.diffusion.pipelines.ModelSettings`.

    Raises:
        LongalignError: nothing can be exchanged.
    """
    sentences = [s.text for s in Segmenter()(text)]
    changed = world(oracle).false_caption(sentences, rng)
    if changed is not None:
        return " ".join(changed)
    foreign = list(dict.fromkeys(s.text for other in others for s in Segmenter()(other)))
    foreign = [sentence for sentence in foreign if sentence not in sentences]
    if not foreign:
        raise LongalignError(
            "contrastive.near_negatives: no caption of this batch has a sentence that another has not, so none can be "
            "exchanged; take a larger train.batch_size, or near_negatives=0"
        )
    sentences[rng.integers(len(sentences))] = foreign[rng.integers(len(foreign))]
    return " ".join(sentences)
