"""How far a run is, and what it came to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator

from longalign.training.processes import Means

Stopped = Literal["", "signal", "time"]


@dataclass
class Progress:
    """How far a run is; what a checkpoint's `state.json` holds of it."""

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    evaluated_step: int = -1
    seconds: float = 0.0
    window: Means = field(default_factory=Means)
    window_steps: int = 0

    def state(self, accelerator: Accelerator) -> dict[str, Any]:
        """Every process has to call this, since the metrics since the last line are theirs together."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "window"}
        return {**plain, "window": self.window.gather(accelerator)}

    @classmethod
    def of(cls, state: Mapping[str, Any], accelerator: Accelerator) -> Progress:
        names = [f.name for f in dataclasses.fields(cls) if f.name != "window"]
        window = Means(state["window"] if accelerator.is_main_process else None)
        return cls(**{name: state[name] for name in names}, window=window)


@dataclass(frozen=True)
class FitResult:
    """What a run came to.

    Attributes:
        folder: the run folder.
        step, steps: steps done, and those of the recipe.
        resumed_from: the step of the checkpoint that it went on from; None for a run from the start.
        skipped: steps without a finite gradient, in which no weight was changed.
        metrics: the last means of training. evaluation: the last figures on held-out data.
        stopped: why it ended before its last step: "signal", "time", or "" when it is complete.
        model: what users load; None while the run is not complete.
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

    def to_json(self) -> dict[str, Any]:
        paths = {"folder": str(self.folder), "model": None if self.model is None else str(self.model)}
        return {**dataclasses.asdict(self), **paths}
