"""Prompts that are read when they are asked for: of large files, and of worlds."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from longalign.data.of_worlds import WorldPictures
from longalign.errors import LongalignError


class _Lazy(Sequence[str]):
    """A sequence of texts by number."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.text(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.text(index % len(self))

    def text(self, index: int) -> str:
        """The text of a number.

        Args:
            index: from 0 on.
        """
        raise NotImplementedError


class PromptLines(_Lazy):
    """The lines of a large UTF-8 file. Memory holds where they begin, 8 bytes a line.

    Args:
        path: the file.
        parse: bytes of a line and its place for messages → its prompt; a function that can be pickled.

    Raises:
        LongalignError: a line that `parse` refuses, or a file without prompts; later, a file that was changed.
    """

    def __init__(self, path: Path, parse: Any) -> None:
        self.path, self.parse = path, parse
        starts, at = array("q"), 0
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    parse(line, f"{path}, line {number}")
                    starts.append(at)
                at += len(line)
        if not starts:
            raise LongalignError(f"{path}: is empty; give one prompt a line, or JSONL")
        self._starts, self._bytes = np.array(starts, np.int64), at

    def __len__(self) -> int:
        return len(self._starts)

    def text(self, index: int) -> str:
        try:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size != self._bytes:
                    raise LongalignError(f"{self.path}: was changed while it was read. Start again")
                file.seek(int(self._starts[index]))
                line = file.readline()
        except OSError as error:  # every machine of a cluster has to have it
            raise LongalignError(f"{self.path}: cannot be read: {error.strerror}") from None
        found: str = self.parse(line, str(self.path))
        return found


class WorldPrompts(_Lazy):
    """Captions of a world's pictures; nothing is drawn.

    Args:
        named: which pictures.

    Raises:
        LongalignError: the world has none of them.
    """

    def __init__(self, named: WorldPictures) -> None:
        self.named = named
        self._pictures: Any = named.open()

    def __len__(self) -> int:
        return self.named.count

    def text(self, index: int) -> str:
        found: str = self._pictures.text(index)
        return found


class Joined(_Lazy):
    """Several sequences, one after the other.

    Args:
        parts: the sequences.
    """

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def text(self, index: int) -> str:
        part = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[part - 1]) if part else 0
        return self.parts[part][index - before]
