"""Results of a run besides its checkpoints: the model, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longalign.errors import LongalignError
from longalign.objectives import Objective
from longalign.report import Curve, Line, Report, Table, write_report
from longalign.report.curve import smoothed
from longalign.runs import atomic_folder
from longalign.training.batches import Batching
from longalign.training.folder import TrainFolder, sample_cases
from longalign.training.progress import STOPPED, Best, FitResult
from longalign.training.recipe import Recipe
from longalign.training.weights import Weights
from longalign.versions import versions

_BOOKKEEPING = {"kind", "step", "samples", "seconds", "samples_per_s", "skipped", "best_step"}
_LAST = ["grad_norm", "lr"]  # curves that few look at come last


def save_model(objective: Objective, folder: Path) -> Path:
    """Save the model into `folder`, which is replaced as a whole or, on an error, stays as it was.

    Raises:
        LongalignError: the disk cannot be written.
    """
    try:
        with atomic_folder(folder) as temporary:
            objective.save(temporary)
    except OSError as error:
        raise LongalignError(f"Cannot write the model {folder}: {error}") from error
    return folder


def write_page(
    folder: TrainFolder,
    recipe: Recipe,
    result: FitResult,
    weights: Weights,
    batching: Batching,
    seconds: float,
) -> Path:
    """`report.html`: the learning curves, the evaluations, sample pictures, and what was run."""
    rows = list(folder.rows())
    state = f"{result.step:,} of {result.steps:,} steps"
    if result.stopped:
        state += f", stopped {STOPPED[result.stopped].rstrip(',')}"
        state += "; the same command goes on" if result.model is None else ""
    train, best = recipe.train, result.best
    chosen = {}
    if train.best is not None:
        of_it = "" if result.model is None else "; the model was saved from there"
        chosen["Best"] = (
            f"{best}{of_it}"
            if best
            else f"no evaluation gave a finite {train.best.metric}; the last weights count"
        )
    facts = {
        "Objective": recipe.objective,
        "Model": recipe.model,
        "Steps": state,
        **chosen,
        "Batch": str(batching),
        "Optimiser": f"AdamW, learning rate {train.lr:g}, {train.schedule} after {train.warmup_steps} warm-up steps",
        "Trained": f"{sum(p.numel() for p in weights.parameters.values()):,} parameters",
        "Skipped": f"{result.skipped} steps without a finite loss and gradient",
        "Seed": str(recipe.seed),
        "Time": f"{seconds:,.0f} s",
        **versions(),
    }
    return write_report(
        Report(
            f"Training: {recipe.objective}",
            facts=facts,
            tables=held_out_table(rows, best),
            cases=sample_cases(folder.path, best.step if best else None),
            curves=learning_curves(rows, best),
        ),
        folder.report,
    )


def held_out_table(rows: list[dict[str, Any]], best: Best | None = None) -> list[Table]:
    """A table of the first, the best and the last evaluation; empty if there was none."""
    found = {row["step"]: row for row in rows if row.get("kind") == "evaluate"}
    if not found:
        return []
    said = {min(found): "First", max(found): "Last"}
    if best is not None and best.step in found:
        said[best.step] = "Best"
    steps = sorted(said)
    names = [name for name in found[max(found)] if name not in _BOOKKEEPING]
    figures = [[name, *(_number(found[step].get(name)) for step in steps)] for name in names]
    return [Table("On held-out data", ["", *(f"{said[step]}: step {step:,}" for step in steps)], figures)]


def learning_curves(rows: list[dict[str, Any]], best: Best | None = None) -> list[Curve]:
    """One figure for every metric, with its training and held-out curves.

    The loss comes first, then the figure that tells the best evaluation, whose step is marked; so where a reward goes
    on rising while its judges turn away, that is seen.
    """
    names = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if name not in _BOOKKEEPING
    ]  # fmt: skip
    first = ["loss", best.metric] if best else ["loss"]

    def place(name: str) -> int:
        return first.index(name) if name in first else 9 + (_LAST.index(name) if name in _LAST else -1)

    curves = []
    for name in sorted(names, key=place):
        lines = []
        for kind, label in (("train", "training"), ("evaluate", "held-out")):
            points = [(row["step"], row[name]) for row in rows if row.get("kind") == kind and name in row]
            steps, values = [p[0] for p in points], [float("nan") if p[1] is None else p[1] for p in points]
            if kind == "train" and len(points) > 60 and name != "lr":
                lines.append(Line(f"{label}, as logged", steps, values, faint=True))
                values = smoothed(values, len(values) // 20)
            if points:
                lines.append(Line(label, steps, values))
        marked = best is not None and any(line.name == "held-out" for line in lines)
        mark = (best.step, "best") if best is not None and marked else None
        curves.append(Curve(name.replace("_", " "), "step", lines, mark=mark))
    return curves


def _number(value: Any) -> str:
    return "—" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
