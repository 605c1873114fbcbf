"""How long an evaluation will take and how much memory it needs, measured on its first block."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from longalign.evaluation.drawing import Plan, draw, drawn_set
from longalign.evaluation.evaluate import EvaluationJob
from longalign.evaluation.measuring import Blocks
from longalign.report import Estimate, Table
from longalign.runs import RunFolder


@dataclass(frozen=True)
class Step:
    """A part of the work: its name, how many pictures it has, seconds a picture, and seconds to load its models."""

    name: str
    pictures: int
    per_picture_s: float
    loading_s: float

    @property
    def total_s(self) -> float:
        """Seconds in all."""
        return self.loading_s + self.pictures * self.per_picture_s


@dataclass(frozen=True)
class Forecast:
    """What an evaluation will take.

    Attributes:
        steps: drawing of each model, and measuring.
        peak_bytes: most memory that was taken while the first block was done; of the GPU where there is one.
        dropped: metrics that cannot be computed → the reason.
    """

    steps: list[Step]
    peak_bytes: int
    dropped: dict[str, str]

    @property
    def total_s(self) -> float:
        """Seconds in all."""
        return sum(step.total_s for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "seconds": self.total_s,
            "peak_bytes": self.peak_bytes,
            "steps": [{**vars(s), "seconds": s.total_s} for s in self.steps],
            "not computed": self.dropped,
        }

    def table(self) -> Table:
        """For the terminal."""
        rows: list[list[str | Estimate]] = [
            [s.name, f"{s.pictures:,}", f"{s.per_picture_s:.3f}", spoken(s.total_s)] for s in self.steps
        ]
        rows.append(["in all", "", "", spoken(self.total_s)])
        note = f"Measured on the first prompts. Memory at its peak: {self.peak_bytes / 2**30:.1f} GiB. "
        if self.dropped:
            note += "Not computed: " + "; ".join(f"{k}: {v}" for k, v in self.dropped.items()) + "."
        return Table(
            "What this evaluation will take", ["", "pictures", "seconds each", "time"], rows, note=note
        )


def estimated(job: EvaluationJob) -> Forecast:
    """Draws and measures the first block twice in a temporary folder; the second time says how fast it is.

    Args:
        job: the evaluation.
    """
    steps: list[Step] = []
    with tempfile.TemporaryDirectory(prefix="longalign-estimate-") as folder:
        sets = []
        for point, plan in job.plans():
            first = point.rows[: plan.prompts_at_once]
            block = Plan(first, point.seeds, plan.prompts_at_once)
            runs = [RunFolder(Path(folder) / f"{len(steps)}-{k}") for k in range(2)]
            one = Plan(first[:1], point.seeds[:1], 1)
            slow = timed(partial(draw, point.contender, one, runs[0]))
            fast = timed(partial(draw, point.contender, block, runs[1]))
            drawn = len(first) * len(point.seeds)
            loading = min(slow, fast)
            steps.append(
                Step(
                    f"drawing {point.contender.label}",
                    len(point.rows) * len(point.seeds),
                    max(0.0, fast - loading) / max(1, drawn - 1),
                    loading,
                )
            )
            sets.append(drawn_set(point.contender, block, runs[1].path))
        every = [*sets, *job.sets]
        blocks = Blocks(every, job.config.batch_size)
        keys = set(blocks.keys[: blocks.size])
        short = [s.only(keys) for s in every]
        slow = timed(lambda: job.measure(short))
        fast = timed(lambda: job.measure(short))
        measured = sum(map(len, short))
        total = sum(len(p.rows) * len(p.seeds) for p in job.points) + sum(map(len, job.sets))
        steps.append(Step("measuring", total, fast / max(1, measured), max(0.0, slow - fast)))
    return Forecast(steps, peak_bytes(job.config.device), dict(job.dropped))


def timed(work: Callable[[], Any]) -> float:
    """Seconds that some work took."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


def peak_bytes(device: str = "auto") -> int:
    """Most memory that this process has taken so far: of the GPU where it is used, else of the machine."""
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def spoken(seconds: float) -> str:
    """``1 h 05 min``, ``12 min``, ``40 s``."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60:,} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
