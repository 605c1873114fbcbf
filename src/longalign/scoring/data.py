"""Pairs of a picture and its caption, one after the other, from a JSONL file, a folder or the sticker world.

Whatever is wrong with one pair becomes a `Failure` in its place: a long run does not end at line 800,000.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longalign.errors import LongalignError

if TYPE_CHECKING:
    from longalign.preference.images import ImageLike

IMAGE_KEYS = ("image", "file_name", "path", "file")
TEXT_KEYS = ("caption", "prompt", "text")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Pair:
    """A picture, or its file, and the text it is judged against. ``name`` stands for it in reports."""

    image: ImageLike
    text: str
    name: str


@dataclass(frozen=True)
class Failure:
    """What could not be scored, and why."""

    name: str
    reason: str


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
        source: a JSONL file of ``{"image": …, "caption": …}`` (also ``file_name``, ``path``; ``prompt``, ``text``),
            files relative to its own folder; or a folder with such a ``metadata.jsonl``; or a folder of pictures,
            each with a ``.txt`` file of the same name beside it (subfolders included).

    Raises:
        LongalignError: no such file or folder, or nothing of that kind in it. A bad line is a `Failure`.
    """
    path = Path(source)
    if not path.exists():
        raise LongalignError(f"{path}: no such file or folder")
    if path.is_dir() and not (path / METADATA).is_file():
        return _with_text_files(path)
    return _lines(path / METADATA if path.is_dir() else path)


def count_pairs(source: str | os.PathLike[str]) -> int:
    """How many pairs `read_pairs` will give, failures included; reads no picture."""
    path = Path(source)
    if path.is_dir() and not (path / METADATA).is_file():
        return sum(1 for _ in _pictures(path))
    try:
        with open(path / METADATA if path.is_dir() else path, "rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError:
        return 0  # `read_pairs` says what is wrong


def _lines(path: Path) -> Iterator[Pair | Failure]:
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below, once the last line is read
    except OSError as error:
        raise LongalignError(f"{path}: cannot be read: {error.strerror}") from None

    def rows() -> Iterator[Pair | Failure]:
        with file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _pair(line, path.parent, f"{path}, line {number}")

    return rows()


def _pair(line: bytes, folder: Path, where: str) -> Pair | Failure:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:  # of JSON, or of UTF-8
        return Failure(where, f"is no line of JSON: {error}")
    if not isinstance(row, dict):
        return Failure(where, "is no JSON object")
    image, text = _first(row, IMAGE_KEYS), _first(row, TEXT_KEYS)
    if image is None:
        return Failure(where, f"names no picture: none of the keys {', '.join(IMAGE_KEYS)}")
    if text is None:
        return Failure(where, f"has no caption: none of the keys {', '.join(TEXT_KEYS)}")
    return Pair(folder / image, text, image)


def _first(row: dict[str, Any], keys: Iterable[str]) -> str | None:
    return next((row[key] for key in keys if isinstance(row.get(key), str) and row[key]), None)


def _pictures(folder: Path) -> Iterator[Path]:
    """Every picture file below ``folder``, in the order of its name within each folder."""
    for where, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(where) / name for name in sorted(files) if name.lower().endswith(SUFFIXES))


def _with_text_files(folder: Path) -> Iterator[Pair | Failure]:
    if next(_pictures(folder), None) is None:
        raise LongalignError(f"{folder}: holds no {METADATA} and no pictures ({', '.join(SUFFIXES)})")

    def found() -> Iterator[Pair | Failure]:
        for picture in _pictures(folder):
            name = str(picture.relative_to(folder))
            caption = picture.with_suffix(".txt")
            try:
                yield Pair(picture, caption.read_text("utf-8-sig").strip(), name)
            except FileNotFoundError:
                yield Failure(name, f"has no caption: there is no {caption.name} beside it")
            except (OSError, UnicodeDecodeError) as error:
                yield Failure(name, f"its caption cannot be read: {error}")

    return found()


def sticker_pairs(count: int, split: str = "test", objects: tuple[int, int] = (1, 9)) -> Iterator[Pair]:
    """Scenes of the sticker world, drawn as they are needed, with their captions."""
    from longalign.stickers.captions import caption, text_of
    from longalign.stickers.world import render, scene

    for i in range(count):
        drawn = scene(i, objects=objects, split=split)
        yield Pair(render(drawn), text_of(caption(drawn, i)), f"scene {i}")


def sticker_captions(count: int, split: str = "train", objects: tuple[int, int] = (1, 9)) -> Iterator[str]:
    """Captions of scenes, without drawing them."""
    from longalign.stickers.captions import caption, text_of
    from longalign.stickers.world import scene

    for i in range(count):
        yield text_of(caption(scene(i, objects=objects, split=split), i))
