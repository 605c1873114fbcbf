"""A picture with its caption, wherever it comes from, and what is wrong with those that cannot be used.

Whatever is wrong with one of them becomes a `Failure` in its place: a long run does not end at line 800,000.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from longalign.errors import LongalignError

IMAGE_KEYS = ("image", "file_name", "path", "file")
TEXT_KEYS = ("caption", "prompt", "text")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture (its file, its encoded bytes, or itself) and its caption. ``name`` stands for it in messages."""

    image: Path | bytes | Image.Image
    text: str
    name: str

    def content(self) -> bytes:
        """What tells the picture from others.

        Raises:
            LongalignError: its file cannot be read.
        """
        if isinstance(self.image, bytes):
            return self.image
        if isinstance(self.image, Path):
            try:
                return self.image.read_bytes()
            except FileNotFoundError:
                raise LongalignError("no such image file") from None
            except OSError as error:
                raise LongalignError(f"cannot be read: {error.strerror}") from None
        return f"{self.image.mode} {self.image.size};".encode() + self.image.tobytes()

    def picture(self) -> Image.Image:
        """RGB, upright, on white; see `longalign.preference.images`.

        Raises:
            LongalignError: no picture, or a damaged one. The message does not name it.
        """
        from longalign.preference.images import load_image, to_rgb

        if isinstance(self.image, bytes):
            return decode(self.image, self.name)
        try:
            if isinstance(self.image, Path):
                return load_image(self.image)
            return to_rgb(self.image, self.name)
        except LongalignError as error:
            raise LongalignError(str(error).removeprefix(f"{self.image}: ")) from error


@dataclass(frozen=True)
class Failure:
    """What could not be used, and why."""

    name: str
    reason: str


class Source(ABC):
    """Entries by number, read when they are asked for. Nothing but the index is held in memory.

    Attributes:
        square: whether all pictures are known to be square. Else their sizes are read, to sort them into buckets.
    """

    square: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> CaptionedPicture | Failure: ...

    def __iter__(self) -> Iterator[CaptionedPicture | Failure]:
        return (self[i] for i in range(len(self)))


def entry_of(
    row: Mapping[str, Any], folder: Path, where: str, text_keys: Iterable[str] = TEXT_KEYS
) -> CaptionedPicture | Failure:
    """The entry in a row of named values.

    Args:
        folder: which picture paths are relative to.
        where: stands for the row in messages.
    """
    image, text = first_text(row, IMAGE_KEYS), first_text(row, text_keys)
    if image is None:
        return Failure(where, f"names no picture: none of the keys {', '.join(IMAGE_KEYS)}")
    if text is None:
        return Failure(where, f"has no caption: none of the keys {', '.join(text_keys)}")
    return CaptionedPicture(folder / image, text, image)


def first_text(row: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    """The first of the values that is text and not empty."""
    return next((row[key] for key in keys if isinstance(row.get(key), str) and row[key]), None)


def decode(data: bytes, where: str) -> Image.Image:
    """Encoded bytes → RGB.

    Raises:
        LongalignError: they are no picture, or a damaged one.
    """
    from longalign.preference.images import to_rgb

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image), where)
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise LongalignError(f"cannot be read as a picture: {error}") from error
