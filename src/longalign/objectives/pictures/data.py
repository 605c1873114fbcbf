"""Captioned pictures for an objective: from a cache or live."""

from __future__ import annotations

from typing import Any, TypedDict

from torch import Tensor

from longalign.data.cached import CachedPictures, is_cache
from longalign.data.captioned import CaptionedPictures
from longalign.data.entries import Failure
from longalign.data.sources import (
    named_source,
)
from longalign.errors import LongalignError
from longalign.objectives.pictures.settings import PictureDataSettings

Data = CaptionedPictures | CachedPictures


class Batch(TypedDict):
    """A micro-batch of B rows."""

    image: Tensor  # uint8 (B, 3, S, S), or (B, C, h, w) latents
    texts: list[Any]  # captions, or their TextStates
    skipped: list[Failure]


def load_pictures(name: str, data: PictureDataSettings, size_px: int, *, split: str, seed: int) -> Data:
    """A cache folder, or a source by name.

    Raises:
        LongalignError: no such data, or none in it.
    """
    if is_cache(name):
        return CachedPictures(name)
    source = named_source(
        name,
        split=split,
        seed=seed,
        count=data.count,
        objects=data.objects,
        referring=data.referring,
        images=data.images,
        column=data.column,
    )
    return CaptionedPictures(source, size_px, name)


def captions_of(held_out: Data, count: int) -> list[str]:
    """The first captions, as text.

    Raises:
        LongalignError: the data are a cache.
    """
    if isinstance(held_out, CachedPictures):
        raise LongalignError(
            f"{held_out.folder}: a cache does not hold captions as text, so none can be drawn: name the source itself "
            "as data.held_out, or set oracle_scenes=0"
        )
    entries = (held_out.source[i] for i in range(min(count, len(held_out))))
    return [entry.text for entry in entries if not isinstance(entry, Failure)]
