"""A small cache, also made by a process that is killed."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import tiny
from captioned_files import Some
from killed import run_and_die

from longalign.data.cache import CacheBuilder
from longalign.data.entries import CaptionedPicture
from longalign.data.text_states import TextSide

LENGTH, SIDE_PX = 24, 16
CAPTIONS = ("A cat.", "A dog runs. " * 5, "A tree.", "The red house.")


class Long(Some):
    """Captions of different padded lengths, those of rows 0 and 4 alike."""

    def __getitem__(self, index: int) -> Any:
        found = super().__getitem__(index)
        if isinstance(found, CaptionedPicture):
            return CaptionedPicture(found.image, CAPTIONS[index % 4], found.name)
        return found


def builder(out: Path, pipe: Any, strategy: str = "clip-cat", t5: Any = None, **options: Any) -> CacheBuilder:
    side = TextSide(pipe, strategy, LENGTH, t5)
    return CacheBuilder(out, pipe, side, SIDE_PX, **{"stored": "float32", "at_once": 3, **options})


def hashes(out: Path) -> dict[str, str]:
    """Name → hash of all files of a folder."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    out, rows, *files = sys.argv[1:]
    run_and_die(
        lambda: builder(Path(out), tiny.tiny_sd15()).build(Long(int(rows))), Path(out), map(int, files)
    )
