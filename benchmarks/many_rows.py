"""20,000 sticker rows through `cache`, `score --data`, `caption`, `generate`: here, and on a Ray cluster of two nodes.

    python benchmarks/many_rows.py --out many --stage local        # one process after the other
    python benchmarks/many_rows.py --out many --stage ray          # a cluster of two nodes of one core each
    python benchmarks/many_rows.py --out many --stage chaos        # score on Ray; a worker is killed every 20 s
    python benchmarks/many_rows.py --out many --stage compare      # are all files equal?
    python benchmarks/many_rows.py --out many --stage plot         # memory over rows

Each process has one thread. The vision-language model has random weights. Pictures are drawn with one sampling step.
Results are in OUT/results.json: seconds, rows a second between the first and the last block, the largest resident set
of each process; and with `--stage compare` how many files differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

HELPERS = Path(__file__).parents[1] / "tests" / "helpers"
COMMANDS = ("cache", "score", "caption", "generate")
SAMPLE_S = 2.0
# of each command: its parts, and the rows of one
PARTS = {
    "cache": ("blocks/*.safetensors", 1024),
    "score": ("scores/*.parquet", 256),
    "caption": ("captions.parts/0*.jsonl", 64),
    "generate": ("parts/*.jsonl", 64),
}
# what has to be equal: all that the command made, but pages and settings, which name folders
EQUAL = {
    "cache": ("latents/*", "texts/*", "rows.npy", "padding.safetensors"),
    "score": ("scores/*", "worst.jsonl"),
    "caption": ("captions.jsonl",),
    "generate": ("images/*", "parts/*", "metrics.jsonl"),
}


def arguments_of(command: str, rows: int, out: Path, vlm: Path) -> list[str]:
    """What is typed."""
    return {
        "cache": ["cache", "stickers", "--count", str(rows), "--out", str(out)],
        "score": ["score", "--data", f"stickers:{rows}", "--out", str(out)],
        "caption": [
            *("caption", f"stickers:{rows}", "--model", str(vlm), "--max-new-tokens", "8"),
            *("--out", str(out / "captions.jsonl")),
        ],
        "generate": [
            *("generate", f"@stickers:{rows}", "--steps", "1", "--guidance", "1", "--batch-size", "32"),
            *("--out", str(out)),
        ],
    }[command]


def started(arguments: list[str], **env: str) -> subprocess.Popen[bytes]:
    """The command, as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "longalign", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.DEVNULL,
    )


def watched(process: subprocess.Popen[bytes], command: str, out: Path, kill: Any = None) -> dict[str, Any]:
    """Waits for a command, and notes rows and resident sets, in MiB, as it goes."""
    pattern, size = PARTS[command]
    begun, samples, times = time.time(), [], []
    known = 0
    while process.poll() is None:
        time.sleep(SAMPLE_S)
        done = len(list(out.glob(pattern)))
        if done > known:
            known = done
            times.append((time.time() - begun, done * size))
        memory = {"driver": _rss(process.pid), **{f"worker {pid}": _rss(pid) for pid in ray_workers()}}
        samples.append((round(time.time() - begun, 1), done * size, {k: v for k, v in memory.items() if v}))
        if kill is not None:
            kill(process, time.time() - begun)
    seconds = time.time() - begun
    rate = None
    if len(times) > 2:
        (t0, r0), (t1, r1) = times[0], times[-1]
        rate = (r1 - r0) / (t1 - t0)
    peaks: dict[str, int] = {}
    for _, _, memory in samples:
        for name, mib in memory.items():
            peaks[name] = max(peaks.get(name, 0), mib)
    print(f"{command}: exit {process.returncode}, {seconds:.0f} s, {rate or 0:.1f} rows/s", flush=True)
    return {
        "exit": process.returncode,
        "seconds": round(seconds, 1),
        "rows_s": rate and round(rate, 2),
        "peak_mib": max(peaks.values(), default=0),
        "samples": samples,
    }


def _rss(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss >> 20
    except psutil.Error:
        return 0


def ray_workers() -> list[int]:
    """The actors of Ray Data on this machine."""
    return [
        p.pid
        for p in psutil.process_iter(["cmdline"])
        if "ray::MapWorker" in " ".join(p.info["cmdline"] or ())
    ]


@contextmanager
def cluster() -> Iterator[str]:
    """Two nodes of one core each; gives the address."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    try:
        yield found.address
    finally:
        found.shutdown()


class Chaos:
    """Kills a worker every 20 seconds, and the driver once."""

    def __init__(self, every_s: float, driver_at_s: float) -> None:
        self.every_s, self.driver_at_s = every_s, driver_at_s
        self.last, self.workers, self.drivers = 0.0, 0, 0

    def __call__(self, process: subprocess.Popen[bytes], now: float) -> None:
        if not self.drivers and now > self.driver_at_s:
            process.kill()
            self.drivers += 1
        elif now - self.last > self.every_s and (pids := ray_workers()):
            os.kill(pids[self.workers % len(pids)], signal.SIGKILL)
            self.last, self.workers = now, self.workers + 1


def compare(a: Path, b: Path, command: str) -> dict[str, int]:
    """How many files two runs have, and how many of them differ."""
    files = {
        str(f.relative_to(folder)): None
        for folder in (a, b)
        for pattern in EQUAL[command]
        for f in folder.glob(pattern)
    }

    def hashed(file: Path) -> bytes | None:
        return hashlib.blake2b(file.read_bytes()).digest() if file.is_file() else None

    return {"files": len(files), "differ": sum(hashed(a / f) != hashed(b / f) for f in files)}


def plot(results: dict[str, Any], file: Path) -> None:
    """Resident set of each process over rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6))
    for axis, command in zip(axes.flat, COMMANDS, strict=True):
        for stage, style in (("local", "-"), ("ray", "--")):
            samples = _rising(results.get(stage, {}).get(command, {"samples": []})["samples"])
            names = sorted({name for _, memory in samples for name in memory})
            if stage == "local":  # actors of another Ray are not of this run
                names = [name for name in names if name == "driver"]
            for k, name in enumerate(names):
                points = [(rows, memory[name]) for rows, memory in samples if name in memory]
                label = (
                    "one process" if stage == "local" else "Ray: command" if k == 0 else f"Ray: worker {k}"
                )
                if len(points) > 5:
                    axis.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2)
        axis.set_title(command)
        axis.set_xlabel("rows done")
        axis.set_ylabel("resident set, MiB")
        axis.set_ylim(0, axis.get_ylim()[1] * 1.15)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def _rising(samples: list[Any]) -> list[tuple[int, dict[str, int]]]:
    """Rows and resident sets, until the parts are joined and removed."""
    found: list[tuple[int, dict[str, int]]] = []
    for _, rows, memory in samples:
        if not found or rows >= found[-1][0]:
            found.append((rows, memory))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("many"))
    parser.add_argument("--stage", choices=("local", "ray", "chaos", "compare", "plot"), default="local")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between kills of workers")
    parser.add_argument("--driver-at", type=float, default=90.0, help="when the driver is killed, in seconds")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    vlm = out / "vlm"
    if not vlm.is_dir():
        sys.path.insert(0, str(HELPERS))
        from tiny_vlm import save_llava

        save_llava(vlm)
    commands = options.commands.split(",")
    if options.stage == "plot":
        return plot(results, out / "memory.png")
    if options.stage == "compare":
        results["compare"] = {
            f"{command}, {stage}": compare(out / "local" / command, out / stage / command, command)
            for stage in ("ray", "chaos")
            for command in commands
            if (out / stage / command).is_dir()
        }
        print(json.dumps(results["compare"], indent=1))
        file.write_text(json.dumps(results))
        return None
    mine = results.setdefault(options.stage, {})

    def run(command: str, *more: str, kill: Any = None, **env: str) -> dict[str, Any]:
        target = out / options.stage / command
        target.parent.mkdir(exist_ok=True)
        return watched(
            started([*arguments_of(command, options.rows, target, vlm), *more], **env), command, target, kill
        )

    if options.stage == "local":
        for command in commands:
            shutil.rmtree(out / "local" / command, ignore_errors=True)
            mine[command] = run(command)
            file.write_text(json.dumps(results))
        return None
    with cluster() as address:
        ray = ("--on", "ray", "--workers", str(options.workers))
        if options.stage == "ray":
            for command in commands:
                shutil.rmtree(out / "ray" / command, ignore_errors=True)
                mine[command] = run(command, *ray, RAY_ADDRESS=address)
                file.write_text(json.dumps(results))
            return None
        for command in commands:
            shutil.rmtree(out / "chaos" / command, ignore_errors=True)
            chaos = Chaos(options.every, options.driver_at)
            ends = []
            while not ends or ends[-1]["exit"]:
                ends.append(run(command, *ray, kill=chaos, RAY_ADDRESS=address))
                assert len(ends) < 4, "it does not end"
            mine[command] = {
                "workers_killed": chaos.workers,
                "drivers_killed": chaos.drivers,
                "runs": len(ends),
            }
            print(mine[command])
            file.write_text(json.dumps(results))
    return None


if __name__ == "__main__":
    main()
