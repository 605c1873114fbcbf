"""Memory of an evaluation over the number of its pictures: does it grow?

    python benchmarks/evaluate_memory.py --pictures 500 5000 --plot docs/evaluation-memory.png

Clean sticker scenes in a folder are measured by all metrics that can run here, in a process of their own each time. A
thread of this process reads the other one's resident memory twice a second.

    python benchmarks/evaluate_memory.py --distances 500 1024 5000

The distances between sets alone, on random features: what their peak adds to the memory of the loaded program.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from longalign.data.prompt_rows import read_prompt_rows
from longalign.worlds import world

METRICS = (
    "fid,kid,cmmd,precision,diversity,clipscore,pickscore,denscore,denscore_o,verdict,oracle,counting,looks"
)
MIB = 1 << 20


def folder_of(root: Path, count: int) -> Path:
    """Clean pictures with their prompts."""
    folder = root / f"pictures-{count}"
    folder.mkdir()
    rows = read_prompt_rows(f"stickers:{count}:objects=3-9")
    images = world("stickers").reference([r.prompt for r in rows])
    with open(folder / "metadata.jsonl", "w") as file:
        for row in rows:
            images[row.prompt].save(folder / f"{row.id}.png")
            file.write(json.dumps({"file_name": f"{row.id}.png", "text": row.prompt}) + "\n")
    return folder


def curve(folder: Path, out: Path) -> list[tuple[float, float]]:
    """(seconds, MiB) while the folder is evaluated."""
    process = subprocess.Popen(
        [
            *(
                sys.executable,
                "-m",
                "longalign",
                "evaluate",
                str(folder),
                "--metrics",
                METRICS,
                "--device",
                "cpu",
            ),
            *("--samples", "200", "--out", str(out)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    watched = psutil.Process(process.pid)
    start, found = time.monotonic(), []
    while process.poll() is None:
        try:
            found.append((time.monotonic() - start, watched.memory_info().rss / MIB))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"the evaluation ended with {process.returncode}")
    return found


def distances(counts: list[int]) -> None:
    """Prints the peak memory of FID, KID, CMMD, precision and recall of sets of 128 features, the smallest first."""
    import numpy as np

    from longalign.metrics.distances import cmmd, fid
    from longalign.metrics.kid import kid
    from longalign.metrics.precision import precision_recall

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB

    def features(count: int) -> np.ndarray:
        x = np.random.default_rng(count).normal(size=(count, 128)).astype(np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    formulas: dict[str, Callable[[Any, Any], Any]] = {
        "FID": fid,
        "KID": kid,
        "CMMD": cmmd,
        "precision": precision_recall,
    }
    for formula in formulas.values():
        formula(features(20), features(21))  # libraries are loaded
    start = peak()
    for count in sorted(counts):
        for name, formula in formulas.items():
            formula(features(count), features(count + 1))
            print(f"{count:6,} pictures: {start:.0f} MiB and {peak() - start:4.0f} after {name}")


def plot(curves: dict[int, list[tuple[float, float]]], file: Path) -> None:
    """The curves, each over the share of its time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for count, points in curves.items():
        end = points[-1][0]
        axes.plot(
            [100 * t / end for t, _ in points],
            [m for _, m in points],
            label=f"{count:,} pictures, {end:.0f} s",
        )
    axes.set_xlabel("share of the time, %")
    axes.set_ylabel("resident memory, MiB")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--distances", type=int, nargs="+", help="numbers of pictures")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    if args.distances:
        return distances(args.distances)
    curves = {}
    with tempfile.TemporaryDirectory() as root:
        for count in args.pictures:
            curves[count] = curve(folder_of(Path(root), count), Path(root) / f"out-{count}")
            peak = max(m for _, m in curves[count])
            last = [m for t, m in curves[count] if t > 0.5 * curves[count][-1][0]]
            print(
                f"{count:6,} pictures: {curves[count][-1][0]:6.0f} s, peak {peak:6.0f} MiB, second half from "
                f"{min(last):.0f} to {max(last):.0f} MiB"
            )
    if args.plot:
        plot(curves, args.plot)


if __name__ == "__main__":
    main()
