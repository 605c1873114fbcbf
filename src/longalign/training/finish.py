"""What a run leaves beside its checkpoints: the model for users, the report, a tracker's files."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longalign.errors import LongalignError
from longalign.objectives import Objective
from longalign.report import Curve, Line, Report, Table, write_report
from longalign.report.curve import smoothed
from longalign.training.batches import Batching
from longalign.training.folder import TrainFolder
from longalign.training.recipe import Recipe
from longalign.training.weights import Weights
from longalign.versions import versions

if TYPE_CHECKING:
    from longalign.training.progress import FitResult

_BOOKKEEPING = {"kind", "step", "samples", "seconds", "samples_per_s", "skipped"}
_LAST = ["grad_norm", "lr"]  # curves that few look at come last


def save_model(objective: Objective, folder: Path) -> Path:
    """`objective.save` into `folder`, which is replaced as a whole or stays as it was.

    Raises:
        LongalignError: the disk refuses.
    """
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        objective.save(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as error:
        raise LongalignError(f"Cannot write the model {folder}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def make_tracker(name: str, folder: TrainFolder) -> Any:
    """accelerate's tracker, writing into the run folder; None for `none`.

    Raises:
        LongalignError: it is not installed.
    """
    if name == "none":
        return None
    from accelerate.tracking import TensorBoardTracker
    from accelerate.utils import is_tensorboard_available

    if not is_tensorboard_available():
        raise LongalignError(
            "train.tracker tensorboard: not installed; pip install tensorboard, or take none"
        )
    return TensorBoardTracker(name, logging_dir=folder.path)


def write_page(
    folder: TrainFolder,
    recipe: Recipe,
    result: FitResult,
    weights: Weights,
    batching: Batching,
    seconds: float,
) -> Path:
    """`report.html`: the learning curves, the last evaluation, and what was run."""
    rows = list(folder.rows())
    state = f"{result.step:,} of {result.steps:,} steps"
    if result.stopped:
        why = {"signal": "a signal", "time": "train.stop_after_s"}[result.stopped]
        state += f", stopped by {why}; the same command goes on"
    train = recipe.train
    facts = {
        "Objective": recipe.objective,
        "Model": recipe.model,
        "Steps": state,
        "Batch": str(batching),
        "Optimiser": f"AdamW, learning rate {train.lr:g}, {train.schedule} after {train.warmup_steps} warm-up steps",
        "Trained": f"{sum(p.numel() for p in weights.parameters.values()):,} parameters",
        "Skipped": f"{result.skipped} steps without a finite gradient",
        "Seed": str(recipe.seed),
        "Time": f"{seconds:,.0f} s",
        **versions(),
    }
    tables = []
    if result.evaluation:
        figures = [[name, _number(value)] for name, value in result.evaluation.items()]
        tables.append(Table("On held-out data", ["", "Value"], figures))
    report = Report(f"Training: {recipe.objective}", facts=facts, tables=tables, curves=learning_curves(rows))
    return write_report(report, folder.report)


def learning_curves(rows: list[dict[str, Any]]) -> list[Curve]:
    """A curve for every metric of the training lines, with that of the same name from evaluations."""
    names = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if name not in _BOOKKEEPING
    ]  # fmt: skip
    curves = []
    for name in sorted(names, key=lambda n: (n != "loss", _LAST.index(n) if n in _LAST else -1)):
        lines = []
        for kind, label in (("train", "training"), ("evaluate", "held-out")):
            points = [(row["step"], row[name]) for row in rows if row.get("kind") == kind and name in row]
            steps, values = [p[0] for p in points], [float("nan") if p[1] is None else p[1] for p in points]
            if kind == "train" and len(points) > 60 and name != "lr":
                lines.append(Line(f"{label}, as logged", steps, values, faint=True))
                values = smoothed(values, len(values) // 20)
            if points:
                lines.append(Line(label, steps, values))
        curves.append(Curve(name.replace("_", " "), "step", lines))
    return curves


def _number(value: Any) -> str:
    return "—" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
