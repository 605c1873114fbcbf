"""Captioned pictures listed in text files: JSONL, CSV, COCO's JSON, or a .txt file beside each picture."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from longalign.data.entries import (
    IMAGE_KEYS,
    TEXT_KEYS,
    CaptionedPicture,
    Failure,
    Source,
    entry_of,
    texts_in,
    texts_of,
)
from longalign.data.text_files import decode_text, delimiter_of, read_text
from longalign.errors import LongalignError
from longalign.paths import files_below
from longalign.picture_formats import is_picture, left_out, picture_suffixes

_SAMPLE_BYTES = 1 << 20


class JsonLines(Source):
    """A JSONL file of ``{"image": …, "caption": …}``; see `entry_of`. Only where its lines begin is held in memory.

    A file in UTF-16 is held in memory as a whole. A line that is not UTF-8 becomes a `Failure`.
    """

    def __init__(self, path: Path, folder: Path | None = None, text_keys: Sequence[str] = TEXT_KEYS) -> None:
        self.path, self.folder, self.text_keys = path, folder or path.parent, text_keys
        self._converted: bytes | None = None
        starts, numbers, counts, at = [], [], [], 0
        try:
            with path.open("rb") as file:
                if b"\0" in file.read(_SAMPLE_BYTES):  # UTF-16 of Windows
                    file.seek(0)
                    self._converted = decode_text(file.read(), str(path)).encode()
            with self._open() as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        starts.append(at)
                        numbers.append(number)
                        counts.append(self._count(line))
                    at += len(line)
        except OSError as error:
            raise LongalignError(f"{path}: cannot be read: {error.strerror}") from None
        self._starts, self._numbers = np.array(starts, np.int64), np.array(numbers, np.int64)
        self._counts = np.array(counts, np.int64)

    def caption_counts(self) -> np.ndarray | None:
        """Of lines with a list of captions."""
        return self._counts if (self._counts > 1).any() else None

    def _count(self, line: bytes) -> int:
        if b"[" not in line:
            return 1
        try:
            row = json.loads(line)
        except ValueError:
            return 1
        texts = texts_in(row, self.text_keys) if isinstance(row, dict) else ""
        return len(texts) if isinstance(texts, list) else 1

    def _open(self) -> IO[bytes]:
        return self.path.open("rb") if self._converted is None else io.BytesIO(self._converted)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> CaptionedPicture | Failure:
        with self._open() as file:
            file.seek(int(self._starts[index]))
            return self._entry(file.readline(), int(self._numbers[index]))

    def __iter__(self) -> Iterator[CaptionedPicture | Failure]:
        with self._open() as file:  # opened once
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield self._entry(line, number)

    def _entry(self, line: bytes, number: int) -> CaptionedPicture | Failure:
        where = f"{self.path}, line {number}"
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            return Failure(where, f"is not UTF-8 (save the file as UTF-8): {error}")
        except ValueError as error:
            return Failure(where, f"is no line of JSON: {error}")
        if not isinstance(row, dict):
            return Failure(where, "is no JSON object")
        return entry_of(row, self.folder, where, self.text_keys)


class JsonLineList(Sequence[dict[str, Any]]):
    """The objects of a JSONL file that this program has written. Memory holds where lines begin, 8 bytes a line.

    Args:
        path: the file.

    Raises:
        LongalignError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                lengths = np.fromiter(map(len, file), np.int64)
        except OSError as error:
            raise LongalignError(f"{path}: cannot be read: {error.strerror}") from None
        self._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if len(lengths) else lengths

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        with self.path.open("rb") as file:
            file.seek(int(self._starts[index]))
            return json.loads(file.readline())


class CsvRows(Source):
    """A CSV file with a header, its columns separated by commas, semicolons, tabs or bars.

    It is read whole, since a quoted caption may hold line ends.
    """

    def __init__(self, path: Path, folder: Path | None = None, text_keys: Sequence[str] = TEXT_KEYS) -> None:
        self.path, self.folder, self.text_keys = path, folder or path.parent, text_keys
        try:
            text = decode_text(path.read_bytes(), str(path))
            delimiter = delimiter_of(text, (*IMAGE_KEYS, *text_keys))
            self._rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
        except (OSError, csv.Error) as error:
            raise LongalignError(f"{path}: cannot be read as CSV: {error}") from None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> CaptionedPicture | Failure:
        return entry_of(self._rows[index], self.folder, f"{self.path}, row {index + 1}", self.text_keys)


class CocoCaptions(Source):
    """COCO's captions: ``images`` (id, file_name) and ``annotations`` (image_id, caption); an entry a caption.

    Pictures are looked for beside the file, in ``images`` there, and, as COCO is unpacked
    (``annotations/captions_val2017.json``, ``val2017/``), in the folder above that the file's name ends in.

    Raises:
        LongalignError: no such JSON, or pictures that are nowhere.
    """

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                content = json.load(file)
            names = {image["id"]: image["file_name"] for image in content["images"]}
            self._rows = [
                (a["image_id"], a["caption"], a.get("id", i)) for i, a in enumerate(content["annotations"])
            ]
        except OSError as error:
            raise LongalignError(f"{path}: cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise LongalignError(
                f"{path}: is no COCO captions file (images with id and file_name, annotations with image_id and "
                f"caption): {error!r}"
            ) from None
        self._names: dict[Any, str] = names
        self.folder = folder or self._find()

    def _find(self) -> Path:
        beside, above = self.path.parent, self.path.parent.parent
        split = self.path.stem.rpartition("_")[2]
        places = [beside, beside / "images", above / split, above / "images" / split, above / "images"]
        first = next(iter(self._names.values()), "")
        for place in places:
            if (place / first).is_file():
                return place
        looked = ", ".join(str(p) for p in places)
        raise LongalignError(
            f"{self.path}: its pictures ({first}, …) are in none of {looked}: say where (images)"
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> CaptionedPicture | Failure:
        image_id, text, number = self._rows[index]
        where = f"{self.path}, annotation {number}"
        if image_id not in self._names:
            return Failure(where, f"is of image {image_id}, which is not listed")
        name = self._names[image_id]
        if not (texts := texts_of(text)):
            return Failure(where, "has no caption")
        return CaptionedPicture(self.folder / name, texts[0], f"{name}#{number}", tuple(texts[1:]))


class TextFiles(Source):
    """A folder of pictures, subfolders included, each with a ``.txt`` file of the same name beside it.

    Raises:
        LongalignError: no pictures.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._noted = folder, False
        self._pictures = [str(p.relative_to(folder)) for p in pictures_in(folder)]
        if not self._pictures:
            raise LongalignError(
                f"{folder}: holds no metadata.jsonl and no pictures ({', '.join(picture_suffixes())})"
            )

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> CaptionedPicture | Failure:
        name = self._pictures[index]
        picture = self.folder / name
        caption = picture.with_suffix(".txt")
        try:
            text, guessed = read_text(caption.read_bytes(), str(caption))
        except FileNotFoundError:
            return Failure(name, f"has no caption: there is no {caption.name} beside it")
        except (OSError, LongalignError) as error:
            return Failure(name, f"its caption cannot be read: {error}")
        if guessed is not None and not self._noted:
            self._noted = True  # once a folder
            warnings.warn(
                f"{caption}: is not UTF-8; read as {guessed}, and others likewise. Save them as UTF-8 if this is wrong",
                stacklevel=2,
            )
        return CaptionedPicture(picture, text.strip(), name)


def pictures_in(folder: Path) -> Iterator[Path]:
    """Every picture file below ``folder``, in the order of its name within each folder.

    A warning counts the files that are left out since they cannot be read here, by suffix.
    """
    others: list[str] = []
    for file in files_below(folder):
        if is_picture(file.name):
            yield file
        else:
            others.append(file.name)
    if (line := left_out(others)) is not None:
        warnings.warn(f"{folder}: {line}", stacklevel=2)
