"""Preference models of which it is known what they see: pixels carry the embedding itself, or a scene's facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from longalign.encoding.segments import Segment, Segmenter
from longalign.evaluation.pairs import (
    Pairs,
)
from longalign.preference.decomposition import Decomposition


class TableModel:
    """Texts are looked up in a table; the first D values of a picture are its embedding, as they stand.

    So any vectors can be put in, and scores worked out by hand.
    """

    def __init__(
        self, texts: Mapping[str, Sequence[float]], decomposition: Decomposition | None = None
    ) -> None:
        self.texts = texts
        self.width = len(next(iter(texts.values())))
        self.decomposition = decomposition
        self.asked: list[str] = []

    def image(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1)[:, : self.width]

    def text(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        self.asked += texts
        return torch.tensor([list(self.texts[text]) for text in texts]).reshape(len(texts), self.width)

    def segments(self, text: str) -> list[Segment]:
        return Segmenter("sentence")(text)


def as_pixels(embedding: Sequence[float]) -> Tensor:
    """(D) → a picture (3, 1, W) that begins with these values."""
    width = -(-len(embedding) // 3)
    pixels = torch.zeros(3 * width)
    pixels[: len(embedding)] = torch.tensor(embedding)
    return pixels.reshape(3, 1, width)


def table_pairs(captions: Sequence[str], images: Sequence[Sequence[float]]) -> Pairs:
    return Pairs(captions, lambda i: as_pixels(images[i]), "a table")


def unit(n: int, width: int, seed: int) -> Tensor:
    """(n, width) random unit vectors."""
    return normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=-1)
