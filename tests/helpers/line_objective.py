"""A tiny objective for tests of the loop: y = w·x + b by least squares, with dropout and a running mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from pydantic import BaseModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from longalign.errors import LongalignError
from longalign.objectives import OBJECTIVES, BuildContext, Objective, Task
from longalign.training.recipe import Recipe

WIDTH = 3


class Settings(BaseModel):
    """What goes wrong, and when.

    Attributes:
        sick: micro-batches (counted from 0) whose loss is NaN. lost: those that only say that it is infinite.
        signal_at: where SIGTERM is sent.
        peak: the step after which the evaluation's `score` is best; it is −(step − peak)².
        samples: how many pictures there are to see.
    """

    dropout: float = 0.0
    sick: list[int] = []
    lost: list[int] = []
    freeze: bool = False
    signal_at: int | None = None
    peak: int | None = None
    samples: int = 0


class DataSettings(BaseModel):
    rows: int = 10


class Points(Dataset[tuple[Tensor, Tensor]]):
    """Row i is x = (sin i, sin 2i, sin 3i), y = x·(1, 2, 3) + 4, in float64."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = torch.tensor([math.sin(k * i) for k in (1, 2, 3)], dtype=torch.float64)
        return x, x @ torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) + 4


class LineObjective(Objective):
    """`seen` counts rows, as a running mean would. More rows at once than `room` do not fit into memory."""

    room: ClassVar[int | None] = None
    Settings = Settings
    DataSettings = DataSettings

    def __init__(self, settings: Settings, data: DataSettings) -> None:
        self.settings, self.data = settings, data
        self.line = nn.Linear(WIDTH, 1, dtype=torch.float64)
        self.unused = nn.Linear(2, 2, dtype=torch.float64)  # gets no gradient
        self.drop = nn.Dropout(settings.dropout)
        self.seen = torch.zeros(1, dtype=torch.float64)
        self.calls = 0
        self.line.requires_grad_(not settings.freeze)
        self.unused.requires_grad_(not settings.freeze)

    @classmethod
    def build(cls, model: str, settings: Settings, data: DataSettings, context: BuildContext) -> Task:
        if model != "line":
            raise LongalignError(f"model: there is no {model!r}")
        return Task(cls(settings, data), Points(data.rows))  # type: ignore[arg-type]

    def modules(self) -> Mapping[str, nn.Module]:
        return {"line": self.line, "unused": self.unused, "drop": self.drop}

    def collate(self, rows: Sequence[Any]) -> Any:
        return tuple(torch.stack(part) for part in zip(*rows, strict=True))

    def backward(self, batch: Any, accelerator: Any) -> dict[str, float | Tensor]:
        x, y = batch
        if self.room is not None and len(x) > self.room:
            self.seen += 1000  # as far as it came
            raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. {len(x)} rows")
        loss = ((self.line(self.drop(x)).squeeze(-1) - y) ** 2).mean()
        if self.calls in self.settings.sick:
            loss = loss * math.nan
        if self.calls == self.settings.signal_at:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        accelerator.backward(loss)
        lost = self.calls in self.settings.lost
        self.calls += 1
        self.seen += len(x)
        return {"loss": loss * math.inf if lost else loss, "rows": float(len(x))}

    def state_dict(self) -> dict[str, Tensor]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.seen.copy_(state["seen"])

    def evaluate(self, accelerator: Any) -> dict[str, float]:
        assert not self.drop.training
        with torch.no_grad():
            x, y = self.collate([Points(50)[i] for i in range(50)])
            found = {
                "loss": float(((self.line(x).squeeze(-1) - y) ** 2).mean()),
                "noise": float(torch.rand(())),
            }
        if self.settings.peak is not None:
            found["score"] = -((float(self.seen) / 4 - self.settings.peak) ** 2)
        return found

    def samples(self, accelerator: Any) -> list[tuple[str, Image.Image]]:
        """Pictures of one colour, of which red is random and green shows the bias."""
        assert not self.drop.training
        green = int(20 * float(self.line.bias.detach())) % 256
        return [
            (f"caption {k}", Image.new("RGB", (8, 8), (int(torch.randint(256, ())), green, k)))
            for k in range(self.settings.samples)
        ]

    def save(self, folder: Path) -> None:
        torch.save({k: v.clone() for k, v in self.line.state_dict().items()}, folder / "line.pt")


def recipe(objective: str = "line", **values: Any) -> dict[str, Any]:
    """A recipe as a mapping; keyword arguments such as ``train__steps=3`` replace what is here."""
    found: dict[str, Any] = {
        "objective": objective,
        "model": "line",
        "seed": 5,
        "data": {"rows": 10},
        "line": {},
        "train": {"steps": 6, "batch_size": 4, "micro_batch_size": 2, "lr": 0.1, "log_every": 2},
    }
    for path, value in values.items():
        section, _, name = path.rpartition("__")
        (found[section] if section else found)[name] = value
    return found


def line_recipe(**values: Any) -> Recipe:
    return Recipe.from_mapping(recipe(**values))


@contextmanager
def registered() -> Iterator[None]:
    """The objective `line` is there."""
    OBJECTIVES["line"] = f"{__name__}:LineObjective"
    try:
        yield
    finally:
        OBJECTIVES.pop("line")
