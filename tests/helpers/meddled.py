"""Training runs in processes of their own that are killed, refused the disk or told to stop at chosen moments.

The processes are forked from a server that has imported torch once, so one costs little more than its steps. An audit
hook of Python sees each of their file operations before it happens, and needs no change to the code that is tested.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

CONTEXT = get_context("forkserver")
# The last two are loaded at the first step and at the first report, and take longer than the tests.
CONTEXT.set_forkserver_preload(
    ["longalign.training.loop", "longalign.cli.main", "torch._dynamo", "jinja2.ext"]
)

Deed = Literal["kill", "full", "term"]
STEP_S = 0.01  # so that there is time between steps for a signal from outside
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


@dataclass
class Ended:
    """How a process ended.

    Attributes:
        status: −9 where it was killed.
        said: what `fit` returned, its error and its warnings, as far as it came.
        done: whether the deed was.
    """

    status: int | None
    said: dict[str, Any] = field(default_factory=dict)
    done: bool = False


def run(values: dict[str, Any], out: Path, deed: Deed | None = None, before: str = "") -> Ended:
    """`fit` the recipe of a line in `out`; before the first file operation that matches, do the deed.

    Args:
        values: what `line_recipe` takes.
        deed: kill: SIGKILL; full: the operation fails for want of space; term: SIGTERM.
        before: a regular expression for ``open /metrics.jsonl`` or ``os.rename /.model-12345678``: the operation, and
            its path within `out`. Only operations that change something are looked at.
    """
    process, told = _started(values, out, deed, before)
    ended = Ended(None)
    while (message := _received(told)) is not None:
        kind, value = message
        if kind == "said":
            ended.said = value
        elif kind == "done":
            ended.done = True
    process.join()
    ended.status = process.exitcode
    return ended


def killed_after(values: dict[str, Any], out: Path, step: int, wait_s: float) -> int | None:
    """`fit`, killed from outside, so long after a step is done. Its exit status.

    It waits for that two steps later at the most, so that it does not come to its end on a busy machine.
    """
    process, told = _started(values, out, None, "", step + 2)
    while (message := _received(told)) is not None and message != ("step", step):
        pass
    time.sleep(wait_s)
    process.kill()
    process.join()
    return process.exitcode


def command(arguments: Sequence[str], stderr: Path, term_after: int | None = None) -> int | None:
    """``longalign …`` with its standard error in a file; SIGTERM comes after that many lines of it. Its exit status."""
    process = CONTEXT.Process(target=_main, args=(list(arguments), str(stderr)))
    process.start()
    if term_after is not None:
        while process.is_alive() and (not stderr.exists() or stderr.read_text().count("\n") < term_after):
            time.sleep(0.002)
        process.terminate()
    process.join(60)
    process.kill()  # where it has not come to its end
    process.join()
    return process.exitcode


def _started(
    values: dict[str, Any], out: Path, deed: Deed | None, before: str, wait_at: int | None = None
) -> tuple[Any, Connection]:
    told, tell = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_fit, args=(values, str(out), deed, before, tell, wait_at))
    process.start()
    tell.close()  # so that reading ends with the process
    return process, told


def _received(told: Connection) -> tuple[str, Any] | None:
    try:
        message: tuple[str, Any] = told.recv()
        return message
    except EOFError:
        return None


def _fit(
    values: dict[str, Any], out: str, deed: Deed | None, before: str, tell: Connection, wait_at: int | None
) -> None:
    from line_objective import line_recipe, registered

    from longalign.errors import LongalignError
    from longalign.training import fit

    def on_step(step: int, row: Any) -> None:
        tell.send(("step", step))
        if wait_at is not None:
            time.sleep(STEP_S if step < wait_at else 60)

    if deed is not None:
        _meddle(out, deed, re.compile(before), tell)
    with registered(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            made = fit(line_recipe(**values), out, on_step=on_step)
            said = {"step": made.step, "stopped": made.stopped, "resumed_from": made.resumed_from}
        except LongalignError as error:
            said = {"error": str(error)}
    tell.send(("said", {**said, "warnings": [str(w.message) for w in warned]}))


def _main(arguments: list[str], stderr: str) -> None:
    from line_objective import registered

    from longalign.cli.main import main

    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - until the process ends
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["longalign", *arguments]
    with registered():
        main()


def _meddle(out: str, deed: Deed, before: re.Pattern[str], tell: Connection) -> None:
    done = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if done or event not in _OPERATIONS or (event == "open" and not arguments[2] & _WRITING):
            return
        path = str(arguments[0])
        # shutil.rmtree names what it removes relative to an open folder.
        if not path.startswith(out) and event not in ("os.remove", "os.rmdir"):
            return
        if before.search(f"{event} {path.removeprefix(out)}"):
            done = True
            tell.send(("done", None))
            if deed == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            os.kill(os.getpid(), signal.SIGKILL if deed == "kill" else signal.SIGTERM)

    sys.addaudithook(hook)
