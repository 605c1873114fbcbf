"""Kill a training run again and again, resume it each time, and compare its weights with those of an undisturbed run.

    python tools/soak.py                  # 20 kills; some minutes on two cores
    python tools/soak.py --kills 3 --seed 1 --out runs/soak-3 --json

Both runs are `longalign train stickers-sft`, made small: the embedded model with a LoRA of rank 32, few
scenes a step, a checkpoint every few steps. Every kill is SIGKILL from outside, at a moment drawn from the seed: a
random time after the process started (so perhaps while it loads), after a step was done, or after the temporary folder
of a checkpoint appeared. Whether it hit the writing is read from what it left behind.

At the end the LoRA, everything in the last checkpoint (weights, moments, moving average) and the lines of metrics are
compared bit for bit. Exit status 0: equal; 1: not, or a process ended by itself with an error.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from longalign.cli.terminal import progress

ROOT = Path(__file__).resolve().parent.parent
RECIPE = "stickers-sft"
SMALL = (
    "train.batch_size=2",
    "train.micro_batch_size=1",
    "train.warmup_steps=5",
    "train.ema=0.99",
    "train.log_every=1",
    "train.keep_checkpoints=2",
    "train.tracker=none",
    "supervised.noisings=1",
    "data.objects=[1,4]",
    "supervised.oracle_scenes=0",
    "supervised.sample_pictures=0",
    "data.held_out_count=4",
)
TIMES = ("seconds", "samples_per_s")  # of a line of metrics
LEFT_ALONE = 5  # intervals between checkpoints, at the end
POLL_S = 0.002


@dataclass(frozen=True)
class Kill:
    """One SIGKILL.

    Attributes:
        aimed: loading, stepping or writing.
        resumed_from: the step that the killed process had started from.
        step: the last step that it reported, or 0.
        in_write: whether it left a half-written checkpoint.
        seconds: from its start.
    """

    aimed: str
    resumed_from: int
    step: int
    in_write: bool
    seconds: float


class Trained:
    """A `longalign train` process and what it says of its steps."""

    def __init__(self, out: Path, overrides: list[str]) -> None:
        self.step = 0
        self.began = time.monotonic()
        self._log = out.with_name(f"{out.name}.stderr")
        arguments = [sys.executable, "-m", "longalign", "train", RECIPE, *overrides, "--out", str(out)]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=log)
        self._reading = open(self._log)  # noqa: SIM115 - as long as the process lives

    def alive(self) -> bool:
        """After a short pause."""
        time.sleep(POLL_S)
        return self.process.poll() is None

    def look(self) -> int:
        """The last step that it told of."""
        for line in self._reading.read().splitlines():
            if found := re.match(r"step (\d+)/", line):
                self.step = int(found[1])
        return self.step

    def end(self) -> int:
        """Its exit status when it is over: 0, or −9 where it was killed."""
        status = self.process.wait()
        self.look()
        self._reading.close()
        if status not in (0, -9):
            said = self._log.read_text()[-2000:]
            raise SystemExit(f"soak: the training process ended with status {status}:\n{said}")
        return status


@dataclass(frozen=True)
class Times:
    """How long things take on this machine, as the undisturbed run shows."""

    loading_s: float
    step_s: float
    writing_s: float


def checkpoints(out: Path, pattern: str = "step-*") -> list[Path]:
    return sorted((out / "checkpoints").glob(pattern))


def newest(out: Path) -> int:
    """The step of the last checkpoint that has its name."""
    found = checkpoints(out)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def undisturbed(out: Path, overrides: list[str], steps: int) -> Times:
    """Trains to the end, and watches how long loading, a step and the writing of a checkpoint take."""
    run = Trained(out, overrides)
    loaded = began = 0.0
    writing_s: list[float] = []
    with progress("undisturbed run", steps) as advance:
        while run.alive():
            before = run.step
            advance(run.look() - before)
            if run.step and not loaded:
                loaded = time.monotonic()
            writing = bool(checkpoints(out, ".step-*"))
            if writing and not began:
                began = time.monotonic()
            elif not writing and began:
                writing_s.append(time.monotonic() - began)
                began = 0.0
    if run.end():
        raise SystemExit("soak: something else killed the undisturbed run")
    return Times(loaded - run.began, (time.monotonic() - loaded) / steps, median(writing_s or [0.1]))


def kill_once(
    out: Path, overrides: list[str], at: int, aimed: str, draw: random.Random, times: Times
) -> Kill:
    """Start it, or go on with it, and kill it: after step `at`, or while it loads."""
    resumed_from, before = newest(out), set(checkpoints(out, ".step-*"))
    run = Trained(out, overrides)
    if aimed == "loading":
        time.sleep(draw.uniform(0.3, 1.1) * times.loading_s)
    else:
        while run.look() < max(at, resumed_from + 1) and run.alive():
            pass
        if aimed == "writing":
            while not set(checkpoints(out, ".step-*")) - before and run.alive():
                pass
        time.sleep(draw.uniform(0, times.writing_s if aimed == "writing" else times.step_s))
    run.process.kill()
    if run.end() == 0:
        raise SystemExit(f"soak: the run was over before it was killed after step {at}: take more --steps")
    left = set(checkpoints(out, ".step-*")) - before
    return Kill(aimed, resumed_from, run.step, bool(left), round(time.monotonic() - run.began, 2))


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same, bit for bit, in two complete runs."""
    found = []
    files = sorted(
        p.relative_to(one) for p in [*(one / "model").rglob("*"), *checkpoints(one)[-1].rglob("*")]
    )
    for file in (f for f in files if f.suffix == ".safetensors"):
        a, b = (load_file(run / file) if (run / file).is_file() else {} for run in (one, other))
        if not a:
            found.append(f"{file}: is empty")
        for name in sorted({*a, *b}):
            x, y = a.get(name), b.get(name)
            if x is None or y is None or x.dtype != y.dtype or x.tobytes() != y.tobytes():
                found.append(f"{file}: {name}")
    if not any(f.suffix == ".safetensors" and f.parts[0] == "model" for f in files):
        found.append("model: holds no weights")
    if metrics(one) != metrics(other):
        found.append("metrics.jsonl")
    return found


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def shown(kills: list[Kill]) -> Table:
    table = Table("kill", "aimed at", "went on from", "last step told", "checkpoint half written", "after s")
    for number, kill in enumerate(kills, 1):
        written = "yes" if kill.in_write else "no"
        table.add_row(
            str(number), kill.aimed, str(kill.resumed_from), str(kill.step), written, f"{kill.seconds:.1f}"
        )
    return table


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kills", type=int, default=20, help="how many (default: 20)")
    add("--seed", type=int, default=0, help="of the moments (default: 0)")
    add("--steps", type=int, help="of training (default: 6 a kill, and what the last checkpoints need)")
    add("--every", type=int, default=4, help="steps between checkpoints (default: 4)")
    add("--out", type=Path, help="folder for both runs, which stay (default: a temporary one)")
    add("--json", action="store_true", help="print JSON on standard output")
    given = parser.parse_args()
    given.steps = given.steps or 6 * given.kills + LEFT_ALONE * given.every
    if given.kills < 1 or given.every < 1 or given.steps < given.kills + LEFT_ALONE * given.every:
        parser.error("a kill needs a step, and the last ones are left alone: take more --steps")
    if given.out is not None and given.out.exists() and any(given.out.iterdir()):
        parser.error(f"{given.out} already holds files: choose another --out")
    return given


def soak(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both runs and their comparison."""
    began = time.monotonic()
    draw = random.Random(given.seed)
    overrides = [*SMALL, f"train.steps={given.steps}", f"train.checkpoint_every_steps={given.every}"]
    overrides.append(f"train.evaluate_every={max(given.steps // 4, 1)}")
    one, other = folder / "undisturbed", folder / "killed"
    times = undisturbed(one, overrides, given.steps)
    # One in each stretch of the run, but for its end: the process would be over before it is killed.
    stretch = (given.steps - LEFT_ALONE * given.every) / given.kills
    moments = [1 + int((i + draw.random()) * stretch) for i in range(given.kills)]
    kinds = [("writing", "stepping", "writing", "stepping", "loading")[i % 5] for i in range(given.kills)]
    draw.shuffle(kinds)
    kills: list[Kill] = []
    with progress("kills", given.kills) as advance:
        for at, aimed in zip(moments, kinds, strict=True):
            kills.append(kill_once(other, overrides, at, aimed, draw, times))
            advance(1)
    if Trained(other, overrides).end():
        raise SystemExit("soak: something else killed the last run")
    left = [sum(f.stat().st_size for f in p.rglob("*")) for p in checkpoints(other, ".step-*")]
    return {
        "kills": [asdict(kill) for kill in kills],
        "in_write": sum(kill.in_write for kill in kills),
        "steps": given.steps,
        "seed": given.seed,
        "times": asdict(times),
        "left_over": {"folders": len(left), "bytes": sum(left)},
        "differences": differences(one, other),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    given = parse()
    with tempfile.TemporaryDirectory() as temporary:
        found = soak(given, given.out or Path(temporary))
    if given.json:
        print(json.dumps(found))
    else:
        Console().print(shown([Kill(**kill) for kill in found["kills"]]))
        left = found["left_over"]
        print(
            f"{len(found['kills'])} kills in {found['steps']} steps, {found['in_write']} while a checkpoint was "
            f"written ({left['folders']} such folders, {left['bytes'] / 1e6:.0f} MB, are left); "
            f"{found['seconds']:.0f} s"
        )
        for text in found["differences"][:20]:
            print(f"differs: {text}")
        same = "differ from" if found["differences"] else "are, bit for bit,"
        print(f"LoRA, last checkpoint and metrics {same} those of the undisturbed run")
    return 1 if found["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
