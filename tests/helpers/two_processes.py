"""Two gloo processes on this machine, as `accelerate launch` would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def two(*command: str, timeout_s: float = 120, machines: bool = False) -> list[str]:
    """What two processes of ``python COMMAND`` print: standard output of ranks 0 and 1.

    `machines`: with the variables of two machines of one process each, as docs/scale.md has them.

    Raises:
        AssertionError: one of them fails; the message has what both printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1" if machines else "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": "0" if machines else str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ends = [process.communicate(timeout=timeout_s) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], ends
    return [out for out, _ in ends]
