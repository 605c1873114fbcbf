"""Captioned pictures to train on: pixels and captions, without those that cannot be used."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from longalign.data.buckets import Assignment, Frame, Size, cover
from longalign.data.entries import CaptionedPicture, Failure, Source
from longalign.errors import LongalignError
from longalign.runs import json_line

MOST_SKIPPED = 0.05
_COUNTED_FROM = 100  # rows: of a few one bad one may be many per cent
_IN_A_ROW = 100
SKIPPED_FILE = "skipped.jsonl"


@dataclass(frozen=True)
class Example:
    """A row to train on.

    Attributes:
        image: uint8 (3, H, W) pixels; or float (C, h, w) latents, from a cache.
        text: the caption; or its `longalign.data.text_states.TextStates`, from a cache.
        skipped: the rows that were passed over on the way to it.
        frame: how the picture was cut; None where a cache does not say.
        others: further captions, of which the objective draws one.
    """

    image: Tensor
    text: Any
    skipped: tuple[Failure, ...] = ()
    frame: Frame | None = None
    others: tuple[str, ...] = ()


class CaptionedPictures(Dataset[Example]):
    """The rows of a source. In place of one that cannot be used comes the next one that can.

    Which row that is depends on the files alone, so that runs stay repeatable. It is one of the same bucket, if there
    is one that can be used.

    Args:
        size_px: side of the squares that pictures are cut to, where there is no bucket.
        assignment: the buckets of the rows.

    Attributes:
        bucket_of: (rows,) the number of each row's bucket, for `longalign.training.batches`; None without buckets.

    Raises:
        LongalignError: nothing in it; and, when rows are asked for, a hundred in a row that cannot be used.
    """

    def __init__(
        self, source: Source, size_px: int, name: str = "the data", assignment: Assignment | None = None
    ) -> None:
        if not len(source):
            raise LongalignError(f"{name}: holds no picture")
        self.source, self.size_px, self.name, self.assignment = source, size_px, name, assignment
        self.bucket_of = None if assignment is None else assignment.numbers

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        skipped: list[Failure] = []
        size = (self.size_px,) * 2 if self.assignment is None else self.assignment.size(index)
        for row in self._candidates(index):
            entry = self.source[row]
            found = pixels_of(entry, size)
            if isinstance(found, Failure):
                skipped.append(found)
            else:
                assert isinstance(entry, CaptionedPicture)
                pixels, frame = found
                return Example(torch.from_numpy(pixels), entry.text, tuple(skipped), frame, entry.others)
        raise LongalignError(
            f"{self.name}: {len(skipped)} rows in a row cannot be used; {skipped[0].name}: {skipped[0].reason}"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        """The row and those after it: first of its own bucket, then of others."""

        def rows(same: bool) -> Iterator[int]:
            numbers = None if self.assignment is None else self.assignment.numbers
            for k in range(len(self)):
                row = (index + k) % len(self)
                if (numbers is None or numbers[row] == numbers[index]) == same:
                    yield row

        return chain(islice(rows(True), _IN_A_ROW), islice(rows(False), _IN_A_ROW))


def usable(entry: CaptionedPicture | Failure) -> CaptionedPicture | Failure:
    """The entry, unless its caption is empty."""
    if isinstance(entry, CaptionedPicture) and not entry.text.strip():
        return Failure(entry.name, "its caption is empty")
    return entry


def pixels_of(entry: CaptionedPicture | Failure, size: Size) -> tuple[np.ndarray, Frame] | Failure:
    """uint8 (3, height, width) of an entry with a caption, and how it was cut; or why not."""
    entry = usable(entry)
    if isinstance(entry, Failure):
        return entry
    try:
        image = entry.picture()
        return cover(image, size), Frame.of((image.height, image.width), size)
    except LongalignError as error:
        return Failure(entry.name, str(error))


class SkipLog:
    """Which rows were skipped, each counted and listed once, in ``skipped.jsonl``.

    A run that goes on lists only what the folder does not list yet, and counts on from its `state_dict`.

    Args:
        total: rows of the data.

    Attributes:
        seen: rows that were asked for.
    """

    def __init__(self, total: int, name: str = "the data") -> None:
        self.total, self.name = total, name
        self.seen = 0
        self.failures: dict[str, Failure] = {}
        self._path: Path | None = None
        self._listed: set[str] = set()

    def __len__(self) -> int:
        return len(self.failures)

    def open(self, folder: str | os.PathLike[str]) -> None:
        """List them in a folder from now on, those so far included."""
        self._path = Path(folder) / SKIPPED_FILE
        self._listed = set(_names(self._path))
        self._write(self.failures.values())

    def add(self, failures: Iterable[Failure], seen: int) -> None:
        """Note what was skipped among ``seen`` more rows.

        Raises:
            LongalignError: it is more than 5 % of what was seen (of a hundred rows at the least, and of all at the
                most).
        """
        self.seen += seen
        new = {f.name: f for f in failures if f.name not in self.failures}
        self.failures |= new
        self._write(new.values())
        rows = max(min(self.seen, self.total), min(_COUNTED_FROM, self.total))
        if len(self) > MOST_SKIPPED * rows:
            reasons = "; ".join(f"{f.name}: {f.reason}" for f in list(self.failures.values())[:3])
            listed = f" All are listed in {self._path}." if self._path else ""
            raise LongalignError(
                f"{self.name}: {len(self)} of {rows} rows cannot be used, more than {MOST_SKIPPED:.0%}: look at the "
                f"data before training on what is left of them ({reasons}).{listed}"
            )

    def state_dict(self) -> dict[str, Tensor]:
        """What to count on from: JSON as bytes, since checkpoints hold nothing but tensors."""
        named = {f.name: f.reason for f in self.failures.values()}
        data = json_line({"seen": self.seen, "failures": named}).encode(errors="backslashreplace")
        return {"rows_skipped": torch.frombuffer(bytearray(data), dtype=torch.uint8)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `state_dict` gave; without it nothing changes."""
        if "rows_skipped" in state:
            found = json.loads(bytes(state["rows_skipped"].tolist()))
            self.seen = found["seen"]
            self.failures = {name: Failure(name, reason) for name, reason in found["failures"].items()}
            self._write(self.failures.values())

    def _write(self, failures: Iterable[Failure]) -> None:
        new = {f.name: f for f in failures if f.name not in self._listed}
        lines = "".join(json_line({"name": f.name, "reason": f.reason}) for f in new.values())
        if lines and self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with open(self._path, "ab", buffering=0) as file:  # whole lines, also from several processes
                    data = lines.encode("utf-8", errors="backslashreplace")
                    while data:  # a disk that gets full takes a part first, and then says so
                        data = data[file.write(data) :]
            except OSError as error:
                raise LongalignError(
                    f"Cannot write {self._path}: {error.strerror}. Free some space, or write elsewhere."
                ) from error
            self._listed.update(new)


def _names(path: Path) -> Iterator[str]:
    """Names of the rows in a list of skipped ones. A last line that was cut off is ended: another may follow."""
    try:
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            with open(path, "ab") as file:
                file.write(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise LongalignError(f"Cannot read or write {path}: {error.strerror}") from error
    for line in data.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            yield json.loads(line)["name"]
