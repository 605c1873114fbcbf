"""Pictures that are not square: aspect-ratio buckets (NovelAI, 2022; SDXL, arXiv 2307.01952, §2.3 and appendix I).

A bucket is a size (height, width) in pixels. Its sides are multiples of a step, from half to twice the model's own
side, and its area is at most that of the model's own square. For each height there is the widest such bucket, and for
each width the highest::

    side 512, step 64    256 × 1024 … 256 × 832, 320 × 768, 320 × 704, 384 × 640, 448 × 576, 512 × 512, 576 × 448 …

A picture goes to the bucket with the nearest aspect ratio, by the difference of logarithms. It is scaled until it
covers the bucket, and the middle is cut out. So a picture that is longer than every bucket loses its ends, and one that
is smaller than its bucket is enlarged; both are counted (`Assignment`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from longalign.data.entries import CaptionedPicture, Failure, Source
from longalign.errors import LongalignError
from longalign.picture_formats import picture_suffixes

if TYPE_CHECKING:
    from longalign.diffusion.denoiser import Denoiser

Size = tuple[int, int]  # height and width in pixels

STEP_PX = 64
_STEPS_A_SIDE = 8  # at least; 64 px for a model of 512 px
_LONGEST = 2  # sides are from side / 2 to 2 · side
_THREADS = 8
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: width and height are exchanged


class Frame(NamedTuple):
    """How a picture was cut; SDXL is told so.

    Attributes:
        height_px, width_px: of the picture itself, upright.
        top_px, left_px: what was cut off there, in pixels of the scaled picture.
    """

    height_px: int
    width_px: int
    top_px: int
    left_px: int

    @classmethod
    def of(cls, size: Size, bucket: Size) -> Frame:
        """The frame of a picture that is scaled until it covers the bucket, and cut in the middle."""
        scale = max(bucket[0] / size[0], bucket[1] / size[1])
        return cls(
            *size, *(round((side * scale - left) / 2) for side, left in zip(size, bucket, strict=True))
        )


@dataclass(frozen=True)
class Buckets:
    """The sizes that pictures are cut to.

    Attributes:
        side_px: side of the model's own square, which is one of the sizes.
        step_px: other sides are multiples of it.
        most_px: no side is longer; None: no limit but twice `side_px`.
    """

    side_px: int
    step_px: int
    most_px: int | None = None

    @classmethod
    def of(cls, denoiser: Denoiser, side_px: int, step_px: int | None = None) -> Buckets:
        """The buckets of a model.

        Args:
            side_px: side of its square pictures.
            step_px: None: 64, and less for a model of less than 512 px: an eighth of its side, in multiples of what
                the model takes.

        Raises:
            LongalignError: the model takes no sides that are multiples of the step.
        """
        unit, most = denoiser.backbone.sizes_px(denoiser.module, denoiser.vae_factor)
        if step_px is None:
            step_px = max(min(STEP_PX, side_px // _STEPS_A_SIDE) // unit, 1) * unit
        if step_px % unit:
            raise LongalignError(
                f"bucket_step_px {step_px}: the model takes pictures whose sides are multiples of {unit}: take "
                f"{max(round(step_px / unit), 1) * unit}, or leave it out"
            )
        return cls(side_px, step_px, most)

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """All buckets, from the widest to the highest; of two with one aspect ratio the larger."""
        side, step = self.side_px, self.step_px
        most = min(_LONGEST * side, self.most_px or _LONGEST * side)
        found: dict[float, Size] = {}
        for first in range(step, most + 1, step):
            second = min(side**2 // first, most) // step * step
            if _LONGEST * min(first, second) >= side:
                for size in ((first, second), (second, first)):
                    ratio = _log_ratio(size)
                    found[ratio] = max(found.get(ratio, size), size)
        found[0.0] = (side, side)
        return tuple(found[ratio] for ratio in sorted(found, reverse=True))

    def numbers_of(self, sizes: np.ndarray) -> np.ndarray:
        """(n,) places in `sizes` of the buckets nearest to (n, 2) heights and widths."""
        ratios = np.array([_log_ratio(size) for size in self.sizes])  # falling
        borders = (ratios[:-1] + ratios[1:]) / 2
        return np.searchsorted(-borders, -np.log(sizes[:, 1] / sizes[:, 0]))

    def nearest(self, size: Size) -> Size:
        """The bucket of a picture."""
        return self.sizes[int(self.numbers_of(np.array([size]))[0])]

    def are_beyond(self, sizes: np.ndarray) -> np.ndarray:
        """(n,) bool: which of (n, 2) heights and widths are longer than every bucket."""
        return np.abs(np.log(sizes[:, 1] / sizes[:, 0])) > _log_ratio(self.sizes[0])


@dataclass(frozen=True, eq=False)
class Assignment:
    """The bucket of each row of a source.

    Attributes:
        buckets: the sizes.
        numbers: (rows,) places in ``buckets.sizes``. A row whose picture cannot be read has that of the next row.
        enlarged: how many pictures are smaller than their bucket.
        beyond: how many are longer than every bucket, and lose their ends.
    """

    buckets: Buckets
    numbers: np.ndarray
    enlarged: int = 0
    beyond: int = 0

    @classmethod
    def of(cls, source: Source, buckets: Buckets) -> Assignment:
        """Reads the size of each picture, from the header of its file."""
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(lambda i: size_of(source[i]), range(len(source))))
        readable = [i for i, size in enumerate(found) if size is not None]
        if not readable:
            return cls(buckets, np.full(len(found), buckets.sizes.index((buckets.side_px,) * 2)))
        sizes = np.array([size for size in found if size is not None])
        own = buckets.numbers_of(sizes)
        following = np.searchsorted(readable, np.arange(len(found))) % len(readable)
        enlarged = are_enlarged(sizes, np.array(buckets.sizes)[own])
        return cls(buckets, own[following], int(enlarged.sum()), int(buckets.are_beyond(sizes).sum()))

    def size(self, row: int) -> Size:
        """The bucket of a row."""
        return self.buckets.sizes[int(self.numbers[row])]

    def __str__(self) -> str:
        return describe([self.size(row) for row in range(len(self.numbers))], self.enlarged, self.beyond)


def describe(sizes: Sequence[Size], enlarged: int, beyond: int) -> str:
    """One line: how many pictures are in how many buckets, enlarged, and cropped at their ends.

    Args:
        sizes: the bucket of each picture.
    """
    there = sorted(set(sizes), key=_log_ratio)
    ends = " to ".join(dict.fromkeys(f"{h} × {w}" for h, w in (there[0], there[-1])))
    line = f"{_some(len(sizes), 'picture')} in {_some(len(there), 'bucket')} (height × width {ends} px)"
    if enlarged:
        line += f"; {enlarged:,} smaller than the bucket and enlarged"
    if beyond:
        line += f"; {beyond:,} longer than every bucket and cropped at both ends"
    return line


def size_of(entry: CaptionedPicture | Failure) -> Size | None:
    """Height and width of an entry's picture, upright, from the header of its file; None if it cannot be read."""
    if isinstance(entry, Failure):
        return None
    if isinstance(entry.image, Image.Image):
        return entry.image.height, entry.image.width
    picture_suffixes()  # registers further formats with Pillow
    try:
        with Image.open(
            entry.image if isinstance(entry.image, Path) else io.BytesIO(entry.content())
        ) as image:
            # The base class's: that of PNG decodes the whole picture, in search of a tag behind it.
            turned = Image.Image.getexif(image).get(_ORIENTATION) in _TURNED
            size = (image.width, image.height) if turned else (image.height, image.width)
            return size if min(size) > 0 else None
    except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError):
        return None  # what is wrong with it is said when the picture itself is read


def cover(image: Image.Image, bucket: Size) -> np.ndarray:
    """Scaled until it covers the bucket, then the middle: uint8 (3, height, width)."""
    height, width = bucket
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).transpose(2, 0, 1).copy()


def grouped(bucket_of: np.ndarray | None, rows: Sequence[int]) -> list[list[int]]:
    """Rows by their bucket, each group in the order of ``rows``; without buckets all are one group."""
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(0 if bucket_of is None else int(bucket_of[row]), []).append(row)
    return list(groups.values())


def are_enlarged(sizes: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """(n,) bool: which pictures are smaller than their buckets, both (n, 2)."""
    return (buckets / sizes).max(1) > 1


def _log_ratio(size: Size) -> float:
    return math.log(size[1] / size[0])


def _some(count: int, one: str) -> str:
    return f"{count:,} {one}{'' if count == 1 else 's'}"
