"""JSON lines that grow with the steps of a run: reading the whole ones, and dropping those that are too late."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from longalign.runs import atomic_write_text, json_line


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in `path`, where there is such a file; a line that was cut off is left out."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def drop_lines(path: Path, after: int) -> None:
    """Drop the lines of steps later than `after`."""
    if path.is_file():
        kept = [row for row in read_lines(path) if row.get("step", 0) <= after]
        atomic_write_text(path, "".join(map(json_line, kept)))
