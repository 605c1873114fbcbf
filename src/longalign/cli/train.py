"""`longalign train`: a recipe from the command line, alone or under `accelerate launch -m longalign train …`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longalign.cli.options import Json
from longalign.cli.terminal import command_line, print_json

if TYPE_CHECKING:
    from longalign.training.costs import Plan

_SHOWN = ("loss", "accuracy", "lr")  # of a line of metrics, on the bar


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe: a name of `longalign recipes`, or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Replace values of the recipe: train.lr=1e-4 seed=7."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder, new or to be resumed; else the recipe's `out`, else runs/train-<date>-NNN."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Take one step and show what the run will cost; write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train as a recipe says: one loop for every objective.

    The run folder gets metrics.jsonl, checkpoints/, and at the end model/ and report.html. The same command again
    resumes from the last checkpoint, and ends with the same weights as an uninterrupted run. Ctrl-C stops after the
    current step. With train.best the weights of the best evaluation are kept, and patience ends a run that over-fits.
    Examples:

        longalign train stickers-denscore train.steps=200 --out runs/mine

        longalign train my-recipe.yaml train.lr=1e-5

        accelerate launch --num_processes 2 -m longalign train clip-h-denscore
    """
    from longalign.training.recipe import read_recipe

    read = read_recipe(recipe, overrides or ())
    main = os.environ.get("RANK", "0") == "0"  # the other processes of a launch print nothing
    if dry_run:
        from longalign.training.costs import plan

        made = plan(read)
        if main:
            print_json(made.to_json()) if as_json else _print_plan(made)
        return
    from longalign.training.loop import fit
    from longalign.training.processes import leave_group
    from longalign.training.progress import STOPPED

    with _progress(read.train.steps, shown=main) as on_step:
        result = fit(read, out, command_line=command_line(), on_step=on_step)
    leave_group()
    if main:
        if as_json:
            print_json(result.to_json())
        else:
            if result.skipped:
                print(f"skipped: {result.skipped} of the steps: their loss or gradient was not finite")
            if result.best is not None:
                print(
                    f"best:   {result.best}; model/ holds its weights"
                    if result.model
                    else f"best:   {result.best}"
                )
            print(
                f"model:  {result.model}" if result.model else f"checkpoints: {result.folder / 'checkpoints'}"
            )
            print(f"report: {result.folder / 'report.html'}")
        if result.stopped:
            print(
                f"longalign: stopped {STOPPED[result.stopped]} after step {result.step} of {result.steps}"
                + (f"; the same command with --out {result.folder} goes on" if result.model is None else ""),
                file=sys.stderr,
            )
    if result.stopped == "signal":
        raise typer.Exit(1)


@contextmanager
def _progress(steps: int, *, shown: bool) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
    """A bar with loss and rate on standard error. Outside a terminal: a line for each line of metrics."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        last: list[Any] = [None]

        def line(step: int, row: Mapping[str, Any]) -> None:
            if shown and row and row["step"] != last[0]:
                last[0] = row["step"]
                print(f"step {row['step']}/{steps}  {_said(row)}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not shown, transient=True) as bar:
        task = bar.add_task("", total=steps, said="")
        yield lambda step, row: bar.update(task, completed=step, said=_said(row))


def _said(row: Mapping[str, Any]) -> str:
    numbers = [f"{name} {row[name]:.4g}" for name in _SHOWN if row.get(name) is not None]
    return "  ".join([*numbers, f"{row['samples_per_s']:.3g} samples/s"]) if row else ""


def _print_plan(plan: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    modules = Table("module", "trainable", "of", title=f"One step on {plan.device}")
    for name, (trainable, whole) in plan.modules.items():
        modules.add_row(name, f"{trainable:,}", f"{whole:,}")
    console = Console()
    console.print(modules)
    known = plan.weights_bytes + plan.gradients_bytes + plan.optimizer_bytes + plan.average_bytes
    for text in (
        f"batch: {plan.batching}",
        f"steps: {plan.steps:,}",
        f"data: {plan.rows:,} rows, each seen {plan.epochs:.3g} times",
        f"memory: {_size(known)} = weights {_size(plan.weights_bytes)} + gradients {_size(plan.gradients_bytes)} "
        f"+ AdamW {_size(plan.optimizer_bytes)} + average {_size(plan.average_bytes)}",
        f"measured peak, with activations and frozen models: {_size(plan.peak_bytes)}",
        f"time: {plan.step_s:.3g} s a step (measured), {_duration(plan.total_s)} for all, without evaluations",
    ):
        console.print(text, highlight=False, soft_wrap=True)


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
