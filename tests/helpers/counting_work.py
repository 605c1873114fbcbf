"""A work without models: a file a block."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from longalign.engine import Work, block_count, block_rows
from longalign.errors import LongalignError
from longalign.runs import atomic_write_text


@dataclass
class Squares(Work):
    """The squares of the numbers below `total`, a file a block; it notes who did which block.

    `refused` is a block that cannot be done, `seconds` how long one takes.
    """

    folder: str
    total: int = 10
    size: int = 3
    refused: int = -1
    seconds: float = 0.0
    opens: bool = True

    @property
    def blocks(self) -> int:
        return block_count(self.size, self.total)

    def part(self, block: int) -> Path:
        return Path(self.folder) / f"{block:05d}.txt"

    def has(self, block: int) -> bool:
        return self.part(block).is_file()

    def open(self) -> None:
        if not self.opens:
            raise LongalignError("there is no such model")
        self.opened = True

    def do(self, block: int) -> int:
        assert self.opened
        if block == self.refused:
            raise LongalignError(f"block {block} is refused")
        time.sleep(self.seconds)
        rows = block_rows(block, self.size, self.total)
        with open(Path(self.folder) / "done.log", "a") as file:
            file.write(f"{block} {os.getpid()}\n")
        atomic_write_text(self.part(block), "".join(f"{i * i}\n" for i in rows))
        return len(rows)

    def result(self) -> list[int]:
        """All parts in order."""
        return [int(x) for b in range(self.blocks) for x in self.part(b).read_text().split()]
