"""Pairs of a picture and its caption, one after the other, from files.

Whatever is wrong with one pair becomes a `Failure` in its place: a long run does not end at line 800,000.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longalign.data.entries import TEXT_KEYS, CaptionedPicture, Failure, Source
from longalign.data.sources import METADATA as _METADATA
from longalign.data.sources import named_source
from longalign.errors import LongalignError
from longalign.paths import is_remote

if TYPE_CHECKING:
    from longalign.preference.images import ImageLike

METADATA = _METADATA[0]
WORLD_PAIRS = 1000  # pairs of a world, which has no end of its own
__all__ = [
    "METADATA",
    "TEXT_KEYS",
    "Failure",
    "Pair",
    "count_pairs",
    "pairs_of",
    "read_pairs",
]


@dataclass(frozen=True)
class Pair:
    """A picture, or its file, and the text it is judged against. ``name`` stands for it in reports."""

    image: ImageLike
    text: str
    name: str


def pairs_of(images: Sequence[str | os.PathLike[str]], prompts: Sequence[str]) -> list[Pair]:
    """Files with one prompt for all of them, or one for each.

    Raises:
        LongalignError: no image, or another number of prompts.
    """
    if not images:
        raise LongalignError("no image given: name picture files, or a data set with --data")
    if len(prompts) not in (1, len(images)):
        raise LongalignError(
            f"{len(prompts)} prompts for {len(images)} images: give one prompt, or one an image "
            "(a file holds one prompt a line)"
        )
    texts = prompts if len(prompts) == len(images) else list(prompts) * len(images)
    return [Pair(Path(image), text, str(image)) for image, text in zip(images, texts, strict=True)]


def read_pairs(source: str | os.PathLike[str]) -> Iterator[Pair | Failure]:
    """The pairs of a data set, read as they are needed.

    Args:
        source: a file or a folder as in `longalign.data.sources.open_source`; or the name of a world, which gives
            `WORLD_PAIRS` held-out pictures of it, or as many as the name says (``stickers:20000``).

    Raises:
        LongalignError: no such file or folder, or nothing of that kind in it. A bad row is a `Failure`.
    """
    return map(_pair, open_pairs(source))


def count_pairs(source: str | os.PathLike[str]) -> int:
    """How many pairs `read_pairs` will give, failures included; reads no picture."""
    try:
        return len(open_pairs(source))
    except LongalignError:
        return 0  # `read_pairs` says what is wrong


def open_pairs(source: str | os.PathLike[str]) -> Source:
    """The data set that `read_pairs` reads.

    Args:
        source: as of `read_pairs`.

    Raises:
        LongalignError: as `read_pairs`.
    """
    return named_source(os.fspath(source), split="test", count=WORLD_PAIRS)


def pair_at(source: Source, row: int) -> Pair | Failure:
    """A pair by its number.

    Args:
        source: of `open_pairs`.
        row: the number.
    """
    return _pair(source[row])


def _pair(entry: CaptionedPicture | Failure) -> Pair | Failure:
    if isinstance(entry, Failure):
        return entry
    if isinstance(entry.image, bytes) or is_remote(entry.image):
        try:
            return Pair(entry.picture(), entry.text, entry.name)
        except LongalignError as error:
            return Failure(entry.name, str(error))
    return Pair(entry.image, entry.text, entry.name)
