"""A small cache, also made by a process that is killed."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import tiny
from captioned_files import Some

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


def build_and_die(out: Path, file: int, rows: int) -> None:
    """Builds, and is killed before a file gets its name; the first of them is file 0."""
    replace, left = os.replace, [file]

    def counted(*args: Any, **options: Any) -> None:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        replace(*args, **options)

    os.replace = counted
    builder(out, tiny.tiny_sd15()).build(Long(rows))


def main(out: str, rows: str, *files: str) -> None:
    """`build_and_die` again and again, in processes that this one forks before it computes anything.

    It prints the signal that ended each, and how many unfinished files each left.
    """
    for file in files:
        if not (process := os.fork()):
            build_and_die(Path(out), int(file), int(rows))
            os._exit(0)
        _, status = os.waitpid(process, 0)
        begun = [path for path in Path(out).rglob(".*") if path.is_file()]
        print(os.WTERMSIG(status), len(begun))


if __name__ == "__main__":
    main(*sys.argv[1:])
