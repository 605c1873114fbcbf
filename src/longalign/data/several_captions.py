"""Pictures with several captions: a row for each caption, or one picture with all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from longalign.data.entries import CaptionedPicture, Failure, Source

Captions = Literal["all", "random"]


class EachCaption(Source):
    """A row for each caption of a source whose pictures have several.

    Args:
        source: the source.
        counts: (rows,) how many captions each of its rows has.
    """

    def __init__(self, source: Source, counts: np.ndarray) -> None:
        self.source, self.square = source, source.square
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> CaptionedPicture | Failure:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = int(np.searchsorted(self._ends, index, side="right"))
        caption = index - (int(self._ends[row - 1]) if row else 0)
        entry = self.source[row]
        if isinstance(entry, Failure) or not entry.others:
            return entry
        return replace(entry, text=entry.texts[caption], others=(), name=f"{entry.name}#{caption + 1}")


def with_captions(source: Source, captions: Captions = "all") -> Source:
    """A source as a user wants its captions.

    Args:
        captions: ``all``: a row for each caption. ``random``: a row for each picture; who reads it draws one of
            `CaptionedPicture.texts`.
    """
    counts = source.caption_counts() if captions == "all" else None
    return source if counts is None else EachCaption(source, counts)
