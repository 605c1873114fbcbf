"""Ctrl-C and closed pipes: one line or none, no traceback, and the right exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "longalign"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_ctrl_c_in_generate_says_what_is_kept(tmp_path: Path) -> None:
    """A hundred pictures, one at a time; SIGINT once the second one is there."""
    run = tmp_path / "run"
    prompt = "A fox is in the top left."
    command = [
        *COMMAND,
        "generate",
        prompt,
        "--num",
        "100",
        "--batch-size",
        "1",
        "--steps",
        "4",
        "--out",
        str(run),
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    ) as process:
        deadline = time.monotonic() + 120
        while not (run / "images" / "0000-1.png").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and out == b""
    [line] = err.decode().splitlines()
    assert line.startswith("longalign: stopped: ") and "of 100 pictures are kept, with their report: " in line
    assert str(run / "report.html") in line and (run / "report.html").is_file()


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["segment", "A fox is here. A cat is there.", "--json"],
        ["recipes"],
        ["stickers", "check", "--sentences", "100", "--scenes", "0"],
    ],
    ids=lambda c: c[0],
)
def test_a_reader_that_has_read_enough_is_no_error(command: list[str]) -> None:
    """The other end of the pipe is closed before anything is written, as by ``| head -0``."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, *command], stdout=write, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=120
    )
    os.close(write)
    assert done.returncode == 0 and done.stderr == b""
