"""Captions and the picture of each, from JSONL files and folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from longalign.errors import LongalignError
from longalign.preference.images import ImageLike, to_pixels
from longalign.scoring import data


@dataclass(frozen=True)
class Pairs:
    """N captions, and a function that gives the picture of each: (3, H, W) in [0, 1].

    Attributes:
        source: what they are, in words.
        v_prompts: prompts disjoint from the captions, to fit V on where a model has none; None: there are none.
    """

    captions: Sequence[str]
    picture: Callable[[int], Tensor]
    source: str
    v_prompts: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.captions)


def read_pairs(path: Path) -> Pairs:
    """Pairs of a JSONL file of ``{"image": …, "caption": …}`` or a folder; see `longalign.scoring.data.read_pairs`.

    Pictures are read later, as they are needed.

    Raises:
        LongalignError: no such file, a line that is no such object (it is named), a picture that is not there, no
            pairs.
    """
    images: list[ImageLike] = []
    captions: list[str] = []
    for pair in data.read_pairs(path):
        if isinstance(pair, data.Failure):
            raise LongalignError(f"{pair.name}: {pair.reason}")
        if isinstance(pair.image, Path) and not pair.image.is_file():
            raise LongalignError(f"{path}: no such image file: {pair.image}")
        if not pair.text.strip():
            raise LongalignError(f"{path}: the caption of {pair.name} is blank")
        images.append(pair.image)
        captions.append(pair.text)
    if not captions:
        raise LongalignError(f"{path}: holds no pairs; give one a line")
    return Pairs(captions, lambda i: to_pixels(images[i]), f"{len(captions):,} pairs of {path.name}")
