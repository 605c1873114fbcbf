"""Held-out curves of several training runs over each other: `longalign curves` (Fig. 4 and 5 of LongAlign)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longalign.errors import LongalignError
from longalign.evaluation.pictures import labelled
from longalign.plugins import nearest
from longalign.report import Curve, Line, Table
from longalign.training.figures import figure

_BOOKKEEPING = ("kind", "step", "samples", "seconds", "samples_per_s", "skipped")
Points = dict[int, float]  # step → value


@dataclass(frozen=True)
class Overlay:
    """Metric → run → its values by step."""

    labels: Sequence[str]
    metrics: Mapping[str, Mapping[str, Points]]

    def curves(self) -> list[Curve]:
        """A figure for each metric, a line for each run that has it."""
        return [
            Curve(
                figure(name).title,
                "step",
                [Line(label, list(p), list(p.values())) for label, p in runs.items()],
            )
            for name, runs in self.metrics.items()
        ]

    def tables(self) -> list[Table]:
        """The last value of each run."""
        names = list(self.metrics)
        rows = [
            [label, str(self._last_step(label)), *(self._last(name, label) for name in names)]
            for label in self.labels
        ]
        return [Table("At the last evaluation", ["", "step", *(figure(name).title for name in names)], rows)]

    def to_json(self) -> dict[str, Any]:
        """Steps and values, and nothing drawn."""
        return {
            "runs": list(self.labels),
            "curves": {
                name: {label: {"step": list(p), "value": list(p.values())} for label, p in runs.items()}
                for name, runs in self.metrics.items()
            },
        }

    def _last_step(self, label: str) -> int:
        return max(step for runs in self.metrics.values() for step in runs.get(label, {-1: 0.0}))

    def _last(self, name: str, label: str) -> str:
        points = self.metrics[name].get(label)
        return figure(name).number(list(points.values())[-1]) if points else "—"


def read_runs(names: Sequence[str]) -> dict[str, dict[str, Points]]:
    """The evaluations of training runs: label → metric → values by step.

    Args:
        names: run folders, or their ``metrics.jsonl``, each perhaps as ``LABEL=FOLDER``; what stands after the last
            ``=`` is the folder, so that ``ω=0.3=runs/a`` works.

    Raises:
        LongalignError: no such folder, no evaluations in it, two runs with one label.
    """
    found: dict[str, dict[str, Points]] = {}
    for name in names:
        label, path = _labelled(name)
        if label in found:
            raise LongalignError(f"two runs are called {label!r}: give labels, NAME=FOLDER")
        metrics: dict[str, Points] = {}
        for row in _rows(path / "metrics.jsonl" if path.is_dir() else path):
            if row.get("kind") != "evaluate" or not isinstance(row.get("step"), int):
                continue
            for key, value in row.items():
                if key not in _BOOKKEEPING and isinstance(value, (int, float, type(None))):
                    metrics.setdefault(key, {})[row["step"]] = math.nan if value is None else float(value)
        if not metrics:
            raise LongalignError(
                f"{path}: no evaluations in its metrics.jsonl; train with train.evaluate_every above 0"
            )
        found[label] = {key: dict(sorted(points.items())) for key, points in metrics.items()}
    return found


def overlay(runs: Mapping[str, Mapping[str, Points]], names: Sequence[str] | None = None) -> Overlay:
    """The runs' curves by metric.

    Args:
        names: which metrics; None: all, in the order in which the runs log them.

    Raises:
        LongalignError: a metric that no run has; the nearest one is named.
    """
    known = list(dict.fromkeys(name for metrics in runs.values() for name in metrics))
    for name in names or ():
        if name not in known:
            near = nearest(name, known)
            advice = "" if near is None else f"did you mean {near}? "
            raise LongalignError(f"no run has a metric {name!r}; {advice}There are {', '.join(known)}")
    chosen = list(dict.fromkeys(names)) if names else known
    of_metric = {
        name: {label: metrics[name] for label, metrics in runs.items() if name in metrics} for name in chosen
    }
    return Overlay(list(runs), of_metric)


def _labelled(name: str) -> tuple[str, Path]:
    """As `pictures.labelled`, but a label may hold ``=``."""
    label, equals, folder = name.rpartition("=")
    if equals and label and Path(folder).exists():
        return label, Path(folder)
    return labelled(name)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file; one that was cut off while it was written is left out."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise LongalignError(f"{file}: cannot be read: {error.strerror}") from None
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row
