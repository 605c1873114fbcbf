"""Captioned pictures of a recipe's section ``data``: a cache, or a source by name."""

from __future__ import annotations

from longalign.data.buckets import Assignment, Buckets
from longalign.data.cached import CachedPictures, is_cache
from longalign.data.captioned import CaptionedPictures
from longalign.data.entries import Failure
from longalign.data.sources import named_source
from longalign.errors import LongalignError
from longalign.objectives.pictures.settings import PictureDataSettings

Data = CaptionedPictures | CachedPictures


def load_pictures(
    name: str, data: PictureDataSettings, size_px: int, buckets: Buckets | None, *, split: str, seed: int
) -> Data:
    """A cache folder, or a source by name.

    Args:
        name: folder or source, as `PictureDataSettings` describes them.
        data: further settings of the source.
        size_px: side of the squares that pictures are cut and scaled to, where there are no buckets.
        buckets: sizes that pictures are cut and scaled to instead, unless the source has squares only.
        split: ``train`` or ``validation``, of sources that have splits.
        seed: of sources that draw their rows.

    Raises:
        LongalignError: no such data, or no rows in it; a cache with buckets, and `data.buckets` is false.
    """
    if is_cache(name):
        cached = CachedPictures(name)
        if not data.buckets and cached.settings.get("bucket_step_px"):
            raise LongalignError(
                f"{name}: the cache keeps the shape of pictures, and data.buckets is false: run longalign cache "
                "--no-buckets with another --out, or leave data.buckets out"
            )
        if data.captions == "random":
            raise LongalignError(
                f"{name}: a cache has a row for each caption, so data.captions: random has no meaning: leave it out, "
                "or name the pictures themselves"
            )
        return cached
    source = named_source(
        name,
        split=split,
        seed=seed,
        count=data.count,
        objects=data.objects,
        referring=data.referring,
        images=data.images,
        column=data.column,
        captions=data.captions,
    )
    assignment = None if buckets is None or source.square else Assignment.of(source, buckets)
    return CaptionedPictures(source, size_px, name, assignment)


def captions_of(held_out: Data, count: int) -> list[str]:
    """The first ``count`` captions, as text.

    Raises:
        LongalignError: the data are a cache, which does not hold them.
    """
    if isinstance(held_out, CachedPictures):
        raise LongalignError(
            f"{held_out.folder}: a cache does not hold captions as text, so none can be drawn: name the source itself "
            "as data.held_out, or set oracle_scenes=0"
        )
    entries = (held_out.source[i] for i in range(min(count, len(held_out))))
    return [entry.text for entry in entries if not isinstance(entry, Failure)]
