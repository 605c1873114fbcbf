"""Results of a run besides its checkpoints: the model, and the report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from longalign.errors import LongalignError
from longalign.objectives import Objective
from longalign.report import Curve, Line, Report, Table, counted, write_report
from longalign.report.curve import smoothed
from longalign.runs import atomic_folder
from longalign.training.batches import Batching
from longalign.training.figures import figure
from longalign.training.folder import TrainFolder, sample_cases
from longalign.training.progress import STOPPED, Best, FitResult
from longalign.training.recipe import Recipe
from longalign.training.weights import Weights
from longalign.versions import VERSION, provenance
from longalign.weights.model_card import write_card

_BOOKKEEPING = {"kind", "step", "samples", "seconds", "samples_per_s", "skipped", "best_step"}
_LAST = ["grad_norm", "lr"]  # curves that few look at come last


def save_model(objective: Objective, folder: Path, recipe: Recipe) -> Path:
    """Save the model into `folder`, which is replaced as a whole or, on an error, stays as it was.

    LoRAs, soft tokens and preference models get a model card, which tells the recipe.

    Raises:
        LongalignError: the disk cannot be written.
    """
    try:
        with atomic_folder(folder) as temporary:
            objective.save(temporary)
            write_card(
                temporary,
                base_name=recipe.model or "",
                made=f"Trained by longalign {VERSION}: objective `{recipe.objective}`, {recipe.train.steps:,} steps.",
                recipe=recipe.to_mapping(),
            )
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
    command_line: str | None = None,
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
        chosen["best"] = (
            f"{best}{of_it}"
            if best
            else f"no evaluation gave a finite {train.best.metric}; the last weights count"
        )
    facts = {
        "objective": recipe.objective,
        "model": recipe.model,
        "steps": state,
        **chosen,
        "batch": str(batching),
        "optimiser": f"AdamW, learning rate {train.lr:g}, {train.schedule} after {train.warmup_steps} warm-up steps",
        "trained": f"{sum(p.numel() for p in weights.parameters.values()):,} parameters",
        "skipped": f"{counted(result.skipped, 'step')} without a finite loss and gradient",
        "seed": str(recipe.seed),
        "time": f"{seconds:,.0f} s",
    }
    curves = learning_curves(rows, best)
    if not_drawn := [figure(name).words for name in _names(rows) if not _finite_anywhere(rows, name)]:
        facts["without a number"] = ", ".join(not_drawn)
    return write_report(
        Report(
            f"Training: {recipe.objective}",
            intro=_intro(recipe, result, rows),
            glossary={
                name[:1].upper() + name[1:]: of.meaning
                for key in _names(rows)
                if (of := figure(key)).meaning and (name := of.words)
            },
            facts=provenance(facts, command_line),
            tables=held_out_table(rows, best),
            cases=sample_cases(folder.path, best.step if best else None),
            curves=curves,
        ),
        folder.report,
    )


def _intro(recipe: Recipe, result: FitResult, rows: list[dict[str, Any]]) -> str:
    """What the page shows, and how the run stands."""
    steps = counted(result.steps, "step")
    done = f"step {result.step:,} of {steps}" if result.step < result.steps else f"complete, {steps}"
    evaluated = any(row.get("kind") == "evaluate" for row in rows)
    held_out = (
        " “Held-out” was measured at some steps on data that the model is not trained on: when it gets worse while "
        "“training” gets better, the model learns its data by heart."
        if evaluated
        else " Nothing was evaluated on held-out data (train.evaluate_every is 0), so the page cannot tell whether the "
        "model got better."
    )
    return (
        f"A run of the objective {recipe.objective} on {recipe.model}: {done}. Each plot is one figure over the steps. "
        f"“Training” is the mean since the point before.{held_out}"
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
    figures = [
        [figure(name).title, *(figure(name).number(found[step].get(name)) for step in steps)]
        for name in names
    ]
    return [Table("On held-out data", ["", *(f"{said[step]}: step {step:,}" for step in steps)], figures)]


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """The figures of a run, in the order in which they were first logged."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name not in _BOOKKEEPING]


def _finite_anywhere(rows: list[dict[str, Any]], name: str) -> bool:
    return any(isinstance(row.get(name), (int, float)) and math.isfinite(row[name]) for row in rows)


def learning_curves(rows: list[dict[str, Any]], best: Best | None = None) -> list[Curve]:
    """One figure for every metric that has a finite value, with its training and held-out curves.

    The loss comes first, then the figure that tells the best evaluation, whose step is marked; so where a reward goes
    on rising while its judges turn away, that is seen.
    """
    names = [name for name in _names(rows) if _finite_anywhere(rows, name)]
    first = ["loss", best.metric] if best else ["loss"]

    def place(name: str) -> int:
        return first.index(name) if name in first else 9 + (_LAST.index(name) if name in _LAST else -1)

    curves = []
    for name in sorted(names, key=place):
        lines = []
        for colour, (kind, label) in enumerate((("train", "training"), ("evaluate", "held-out"))):
            points = [(row["step"], row[name]) for row in rows if row.get("kind") == kind and name in row]
            steps, values = [p[0] for p in points], [float("nan") if p[1] is None else p[1] for p in points]
            if kind == "train" and len(points) > 60 and name != "lr":
                lines.append(Line(f"{label}, as logged", steps, values, faint=True, colour=colour))
                values = smoothed(values, len(values) // 20)
            if points:
                lines.append(Line(label, steps, values, colour=colour))
        marked = best is not None and any(line.name == "held-out" for line in lines)
        mark = (best.step, "best") if best is not None and marked else None
        curves.append(Curve(figure(name).title, "step", lines, mark=mark))
    return curves
