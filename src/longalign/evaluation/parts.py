"""Finished blocks of an evaluation, on the disk or in memory.

A block is some prompts with all their pictures of all sets. What its metrics found is written when the whole block is
done. So a killed evaluation goes on from the last finished block, and blocks of several processes or machines fit
together: a block never depends on which blocks were measured before it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longalign.errors import LongalignError
from longalign.runs import atomic_path, atomic_write_text, json_line

Line = dict[str, Any]  # what was found of one picture
Features = np.ndarray | None  # (pictures, D) float32


class Parts(ABC):
    """Blocks by name of a pass and number."""

    @abstractmethod
    def has(self, name: str, block: int) -> bool:
        """Is this block finished?"""

    @abstractmethod
    def write(self, name: str, block: int, lines: Sequence[Line], features: Features = None) -> None:
        """Keeps a finished block.

        Args:
            name: of the pass.
            block: its number.
            lines: one a picture.
            features: (pictures, D) of those pictures that could be read.
        """

    @abstractmethod
    def read(self, name: str, block: int) -> list[Line]:
        """The lines of a finished block."""

    @abstractmethod
    def features(self, name: str, block: int) -> Features:
        """The features of a finished block; None if it has none."""

    def scratch(self, name: str, shape: tuple[int, int]) -> np.ndarray:
        """An empty float32 array for the features of a whole set.

        Args:
            name: of the set.
            shape: (N, D).
        """
        return np.empty(shape, np.float32)


class MemoryParts(Parts):
    """Blocks in memory, for small sets."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], tuple[list[Line], Features]] = {}

    def has(self, name: str, block: int) -> bool:
        return (name, block) in self._found

    def write(self, name: str, block: int, lines: Sequence[Line], features: Features = None) -> None:
        self._found[name, block] = ([json.loads(json_line(line)) for line in lines], features)

    def read(self, name: str, block: int) -> list[Line]:
        return self._found[name, block][0]

    def features(self, name: str, block: int) -> Features:
        return self._found[name, block][1]


class FolderParts(Parts):
    """Blocks as files: ``FOLDER/PASS/000012.jsonl``, and ``.npy`` for features, which is written first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str, block: int) -> bool:
        return self._file(name, block).is_file()

    def write(self, name: str, block: int, lines: Sequence[Line], features: Features = None) -> None:
        file = self._file(name, block)
        if features is not None:
            with atomic_path(file.with_suffix(".npy")) as temporary, open(temporary, "wb") as opened:
                np.save(opened, features)
        atomic_write_text(file, "".join(map(json_line, lines)))

    def read(self, name: str, block: int) -> list[Line]:
        file = self._file(name, block)
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise LongalignError(
                f"{file}: cannot be read ({error}). Remove it: the same command measures this block again"
            ) from None

    def features(self, name: str, block: int) -> Features:
        file = self._file(name, block).with_suffix(".npy")
        if not file.is_file():
            return None
        try:
            return np.asarray(np.load(file, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise LongalignError(
                f"{file}: cannot be read ({error}). Remove it and the .jsonl beside it: the same command measures "
                "this block again"
            ) from None

    def scratch(self, name: str, shape: tuple[int, int]) -> np.ndarray:
        folder = self.folder / "features"
        folder.mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float32, shape=shape)

    def _file(self, name: str, block: int) -> Path:
        return self.folder / name / f"{block:06d}.jsonl"


def numbers_in(lines: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The numbers in the values of pictures.

    Args:
        lines: N values of a metric, as mappings.

    Returns:
        key → (N,) float64, NaN where a value does not have the number.
    """
    keys = dict.fromkeys(
        key
        for line in lines
        for key, value in line.items()
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
    )
    return {key: np.array([_number(line.get(key)) for line in lines], np.float64) for key in keys}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")
