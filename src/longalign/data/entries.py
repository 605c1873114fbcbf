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

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from longalign.errors import LongalignError
from longalign.paths import is_remote

PICTURE_ERRORS = (UnidentifiedImageError, OSError, SyntaxError, EOFError, Image.DecompressionBombError)
IMAGE_KEYS = ("image", "file_name", "path", "file")
TEXT_KEYS = ("caption", "prompt", "text", "captions", "prompts", "texts")


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture (its file, local or of a URL, its encoded bytes, or itself) and its caption.

    ``name`` stands for it in messages.

    ``others``: further captions of the same picture, where the data have a list of them.
    """

    image: Path | bytes | Image.Image
    text: str
    name: str
    others: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All captions."""
        return (self.text, *self.others)

    def content(self) -> bytes:
        """What tells the picture from others.

        Raises:
            LongalignError: its file cannot be read.
        """
        if isinstance(self.image, bytes):
            return self.image
        if not isinstance(self.image, Image.Image):
            try:
                return self.image.read_bytes()
            except FileNotFoundError:
                raise LongalignError("no such image file") from None
            except OSError as error:
                raise LongalignError(f"cannot be read: {error.strerror or error}") from None
        return f"{self.image.mode} {self.image.size};".encode() + self.image.tobytes()

    def picture(self) -> Image.Image:
        """RGB, upright, on white; see `longalign.preference.images`.

        Raises:
            LongalignError: no picture, or a damaged one. The message does not name it.
        """
        from longalign.preference.images import load_image, to_rgb

        if isinstance(self.image, bytes):
            return decode(self.image, self.name)
        if is_remote(self.image):
            return decode(self.content(), self.name)
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

    def caption_counts(self) -> np.ndarray | None:
        """(rows,) how many captions each row has (at least 1, also where the row is a `Failure`); None: one each."""
        return None

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
    image = next((row[key] for key in IMAGE_KEYS if isinstance(row.get(key), str) and row[key]), None)
    if image is None:
        return Failure(where, f"names no picture: none of the keys {', '.join(IMAGE_KEYS)}")
    texts = texts_in(row, text_keys)
    if isinstance(texts, str):
        return Failure(where, texts)
    return CaptionedPicture(folder / image, texts[0], image, tuple(texts[1:]))


def texts_in(row: Mapping[str, Any], keys: Iterable[str]) -> list[str] | str:
    """The captions of the first key that has some: text, a number, or a list of these. Else why there are none."""
    empty = None
    for key in keys:
        texts = texts_of(row.get(key))
        if texts:
            return texts
        if key in row and isinstance(row[key], (list, tuple)):
            empty = key
    if empty is not None:
        return f"has no caption: the list {empty!r} is empty"
    return f"has no caption: none of the keys {', '.join(keys)}"


def texts_of(value: Any) -> list[str]:
    """The captions in one value. Of a list, empty ones are left out."""
    if isinstance(value, str):
        return [value] if value else []  # a blank one is told by its picture's name
    values = value if isinstance(value, (list, tuple)) else [value]
    texts = [
        str(v)
        for v in values
        if isinstance(v, (str, int, float)) and v is not True and v is not False and v == v
    ]
    return [text for text in texts if text.strip()]


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
    except PICTURE_ERRORS as error:
        raise LongalignError(not_a_picture(error)) from error


def not_a_picture(error: BaseException) -> str:
    """Why bytes could not be read as a picture, in words that are the same each time (Pillow names an address).

    Args:
        error: one of `PICTURE_ERRORS`.
    """
    if isinstance(error, UnidentifiedImageError):
        return "cannot be read as a picture: is none, or of a format that Pillow cannot read"
    return f"cannot be read as a picture: {error}"
