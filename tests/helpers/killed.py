"""Processes that are killed at a fixed moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def run_and_die(run: Callable[[], Any], out: Path, files: Iterable[int]) -> None:
    """Runs something again and again, each time in a process that is killed before some file gets its name.

    The processes are forked from this one, which must not have computed anything. It prints the signal that ended each,
    and how many unfinished files are in the folder then.

    Args:
        run: what is run.
        out: the folder that it writes.
        files: of each process, the number of the file at which it is killed; its first one is 0.
    """
    for file in files:
        if not (process := os.fork()):
            _die_at(file)
            run()
            os._exit(0)
        _, status = os.waitpid(process, 0)
        begun = [path for path in out.rglob(".*") if path.is_file()]
        print(os.WTERMSIG(status), len(begun), flush=True)


def _die_at(file: int) -> None:
    replace, left = os.replace, [file]

    def counted(*args: Any, **options: Any) -> None:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        replace(*args, **options)

    os.replace = counted
