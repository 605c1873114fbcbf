"""Kill `generate` and `score --data` twenty times each by SIGKILL, let them go on, and compare every byte.

    python tools/soak_rows.py                        # some twenty minutes on one core
    python tools/soak_rows.py --command score --kills 3

An undisturbed run comes first. Then the same command into another folder is killed at moments of a fixed seed, some
seconds after its start, until it has been killed so often, and ends at last. Exit code 1 if any file of the two folders
differs; config.yaml and report.html may differ in the name of the folder and in the date.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What is typed, without --out; the parts that say how far it is; how long it computes before it is killed, in seconds.
COMMANDS: dict[str, tuple[list[str], str, tuple[float, float]]] = {
    "generate": (["generate", "@stickers:960", "--steps", "2"], "images/*.png", (0.5, 5.0)),
    "score": (["score", "--data", "stickers:5120", "--rows", "64"], "scores/*", (0.5, 4.0)),
}
NAMED = ("config.yaml", "report.html")  # the page has the command line and the date
DATE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC")


def start(arguments: list[str], out: Path) -> subprocess.Popen[bytes]:
    """The command, into a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "longalign", *arguments, "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files."""
    found = {}
    for file in (f for f in folder.rglob("*") if f.is_file()):
        data = file.read_bytes()
        if file.name in NAMED:
            data = DATE.sub(b"DATE", data.replace(str(folder).encode(), b"OUT"))
        found[str(file.relative_to(folder))] = data
    return found


def soak(name: str, kills: int, folder: Path, seed: int) -> bool:
    """Whether a command that was killed gives what an undisturbed one gives."""
    arguments, pattern, (least, most) = COMMANDS[name]
    draw = random.Random(seed)
    whole, killed = folder / f"{name}-whole", folder / f"{name}-killed"
    assert start(arguments, whole).wait() == 0
    counts = []
    while len(counts) < kills:
        before = len(list(killed.glob(pattern)))
        process = start(arguments, killed)
        # Starting takes some seconds, in which there is nothing to lose: the time counts from the first new file.
        while process.poll() is None and len(list(killed.glob(pattern))) <= before:
            time.sleep(0.1)
        time.sleep(draw.uniform(least, most))
        if process.poll() is not None:
            print(f"{name}: it ended after {len(counts)} kills: nothing was left to kill")
            break
        process.kill()
        process.wait()
        counts.append(len(list(killed.glob(pattern))))
        print(f"{name}: kill {len(counts)}, {counts[-1]} files", flush=True)
    assert start(arguments, killed).wait() == 0
    a, b = contents(whole), contents(killed)
    wrong = sorted(f for f in {**a, **b} if a.get(f) != b.get(f))
    print(
        f"{name}: {len(counts)} kills, {len(a)} files, {len(wrong)} differ: {', '.join(wrong[:5])}",
        flush=True,
    )
    return not wrong and len(counts) == kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--command", choices=tuple(COMMANDS))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="longalign-soak-"))
    try:
        names = [options.command] if options.command else list(COMMANDS)
        equal = {name: soak(name, options.kills, folder, options.seed) for name in names}
        return 0 if all(equal.values()) else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
