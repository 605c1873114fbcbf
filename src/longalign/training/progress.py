"""Progress and result of a training run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator

from longalign.training.processes import Means
from longalign.training.recipe import BestSettings

Stopped = Literal["", "early", "signal", "time"]
STOPPED: dict[str, str] = {
    "early": "early, since evaluations were getting no better (train.best.patience),",
    "signal": "by a signal",
    "time": "by train.stop_after_s",
}


@dataclass(frozen=True)
class Best:
    """The best evaluation so far: the metric that decides, and its mode (`max` or `min`)."""

    metric: str
    mode: str
    step: int
    value: float

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4g} at step {self.step:,}"


@dataclass
class Progress:
    """Progress of a run, as a checkpoint's `state.json` stores it."""

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    evaluated_step: int = -1
    seconds: float = 0.0
    window: Means = field(default_factory=Means)
    best: Best | None = None
    evaluations_since_best: int = 0

    def state(self, accelerator: Accelerator) -> dict[str, Any]:
        """The state as plain values. Every process has to call this, since it sums metrics over processes."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        best = None if self.best is None else dataclasses.asdict(self.best)
        return {**plain, "best": best, "window": self.window.gather(accelerator)}

    @classmethod
    def of(cls, state: Mapping[str, Any], accelerator: Accelerator) -> Progress:
        """Restore what `state` gave. Values that an older version did not write keep their defaults."""
        known = {f.name: state[f.name] for f in dataclasses.fields(cls) if f.name in state}
        best = None if known.get("best") is None else Best(**known["best"])
        window = Means(state["window"] if accelerator.is_main_process else None)
        return cls(**{**known, "best": best, "window": window})

    def follow(self, wanted: BestSettings | None) -> None:
        """Forget the best evaluation if the recipe now names another metric or mode."""
        best = self.best
        if best is not None and (wanted is None or (best.metric, best.mode) != (wanted.metric, wanted.mode)):
            self.best, self.evaluations_since_best = None, 0

    def compare(self, value: float, wanted: BestSettings) -> bool:
        """Is this step's evaluation the best so far? Of equal values the first counts; a value must be finite."""
        sign = 1 if wanted.mode == "max" else -1
        if math.isfinite(value) and (self.best is None or sign * value > sign * self.best.value):
            self.best, self.evaluations_since_best = Best(wanted.metric, wanted.mode, self.step, value), 0
            return True
        self.evaluations_since_best += 1
        return False

    def exhausted(self, wanted: BestSettings | None) -> bool:
        """Have the last `patience` evaluations brought no better one?"""
        patience = None if wanted is None else wanted.patience
        return patience is not None and self.evaluations_since_best >= patience


@dataclass(frozen=True)
class FitResult:
    """The result of a run.

    Attributes:
        folder: the run folder.
        step, steps: steps done, and those of the recipe.
        resumed_from: the step of the checkpoint that it went on from; None for a run from the start.
        skipped: steps without a finite loss and gradient, in which no weight was changed.
        metrics: the last means of training. evaluation: the last figures on held-out data.
        stopped: why it ended before its last step: "signal" or "time" (it can go on), "early" (`train.best.patience`
            is at its end, and so is the run), or "" when it took all of them.
        model: what users load; None while the run is not complete.
        best: the evaluation whose weights are in `model`, where `train.best` chose them.
    """

    folder: Path
    step: int
    steps: int
    resumed_from: int | None
    skipped: int
    metrics: dict[str, float]
    evaluation: dict[str, float]
    stopped: Stopped
    model: Path | None
    best: Best | None = None

    def to_json(self) -> dict[str, Any]:
        paths = {"folder": str(self.folder), "model": None if self.model is None else str(self.model)}
        return {**dataclasses.asdict(self), **paths}
