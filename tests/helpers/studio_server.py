"""A studio in a process of its own, on a free port of this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Studio:
    """A running studio.

    Attributes:
        process: its process.
        address: where it listens.
        out: its folder of runs.
        log: what it printed.
    """

    process: subprocess.Popen[bytes]
    address: str
    out: Path
    log: Path


@contextmanager
def studio(out: Path, *options: str, patience_s: float = 180) -> Iterator[Studio]:
    """Starts ``longalign studio`` and ends it.

    Args:
        out: its folder of runs.
        options: of the command.
        patience_s: how long it may take to start.
    """
    log = out.parent / f"{out.name}.log"
    command = [
        sys.executable,
        "-m",
        "longalign",
        "studio",
        "--port",
        "0",
        "--no-browser",
        "--out",
        str(out),
        *options,
    ]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:
        yield Studio(process, _address(process, log, patience_s), out, log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path, patience_s: float) -> str:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if found := re.search(r"http://\S+", log.read_text(errors="replace")):
            return found.group(0)
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise AssertionError(f"the studio did not start:\n{log.read_text(errors='replace')}")
