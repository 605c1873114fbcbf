"""Rows that cannot be used, over the blocks of a long run: counted as blocks end, listed in order at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from longalign.data.captioned import SKIPPED_FILE, SkipLog
from longalign.data.entries import Failure
from longalign.engine import Work
from longalign.paths import is_remote
from longalign.runs import atomic_path, json_line


class BlockLog:
    """Counts failures, and ends the run where more than 5 % of the rows cannot be used.

    Args:
        work: what is done.
        total: rows of all blocks.
        name: of the data, for messages.
        folder: where `skipped.jsonl` is written.
        failures: number of a finished block → how many rows it has, and those that could not be used.
    """

    def __init__(
        self,
        work: Work,
        total: int,
        name: str,
        folder: Path,
        failures: Callable[[int], tuple[int, Sequence[Failure]]],
    ) -> None:
        self.work, self.folder, self.failures = work, folder, failures
        self.log = SkipLog(total, name)
        self._path = folder / SKIPPED_FILE
        self._remove()
        if not is_remote(
            folder
        ):  # nothing can be added to an object of a store: there the list is written at the end
            self.log.open(folder)

    def begin(self) -> None:
        """Counts the blocks that are finished already.

        Raises:
            LongalignError: too many rows cannot be used.
        """
        for block in range(self.work.blocks):
            if self.work.has(block):
                self.add(block)

    def add(self, block: int) -> None:
        """Counts a finished block.

        Args:
            block: its number.

        Raises:
            LongalignError: too many rows cannot be used.
        """
        rows, failures = self.failures(block)
        self.log.add(failures, rows)

    def write(self) -> int:
        """Lists all failures in the order of the blocks, and returns how many they are."""
        count = 0
        if not len(self.log):
            self._remove()
            return 0
        with atomic_path(self._path) as path, open(path, "wb") as file:
            for block in range(self.work.blocks):
                for failure in self.failures(block)[1]:
                    line = json_line({"name": failure.name, "reason": failure.reason})
                    file.write(line.encode("utf-8", errors="backslashreplace"))
                    count += 1
        return count

    def _remove(self) -> None:
        if self._path.is_file():
            self._path.unlink()
