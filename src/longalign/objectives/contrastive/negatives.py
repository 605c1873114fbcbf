"""Captions that differ from a right one in a single sentence: harder negatives than those of other pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError


def near_caption(
    text: str, others: Sequence[str], rng: np.random.Generator, oracle: str | None = None
) -> str:
    """The caption with one sentence changed.

    In the sticker world into a lie in one word (`longalign.stickers.captions.lie`), which is false of the picture. Of
    other captions, whose pictures nobody knows, one sentence is exchanged for one of another caption; that this is
    false of the picture is likely, not certain.

    Args:
        text: the right one.
        others: captions to take sentences from; those that it has itself are left out.
        oracle: the world that the captions are about, as in `longalign.diffusion.pipelines.ModelSettings`.

    Raises:
        LongalignError: nothing can be exchanged.
    """
    sentences = [s.text for s in Segmenter()(text)]
    if oracle == "stickers":
        changed = _lied(sentences, rng)
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


def _lied(sentences: list[str], rng: np.random.Generator) -> list[str] | None:
    """One of the sentences that stand for themselves made false; None where there is none."""
    from longalign.stickers.captions import is_true, lie, parse_all, sentence
    from longalign.stickers.world import BACKGROUND_NAMES, Scene, Sticker

    facts = parse_all(sentences)
    known = [f for f in facts if f is not None]
    whole = [i for i, f in enumerate(facts) if f is not None and (f.background or f.kind)]
    if not whole:
        return None
    ground = next((f.background for f in known if f.background), BACKGROUND_NAMES[0])
    discs = {f.cell: f.disc for f in known if f.disc}
    said = Scene(ground, tuple(Sticker(f.kind, f.cell, discs.get(f.cell)) for f in known if f.kind))  # type: ignore[arg-type]
    place = whole[rng.integers(len(whole))]
    fact = facts[place]
    assert fact is not None
    false = lie(said, fact, rng)
    while is_true(false, said):
        false = lie(said, fact, rng)
    return [*sentences[:place], sentence(false, rng).text, *sentences[place + 1 :]]
