"""`fit`: the only training loop. What is trained for is an objective's business (`longalign.objectives`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from longalign.objectives import Objective
from longalign.training.batches import Batching
from longalign.training.checkpoint import read_parts, read_state
from longalign.training.fitting import record, recorded, settle_batching
from longalign.training.folder import check_folder, open_folder
from longalign.training.outputs import write_page
from longalign.training.processes import make_accelerator, on_main
from longalign.training.progress import FitResult, Progress
from longalign.training.recipe import Recipe
from longalign.training.run import Run
from longalign.training.step import build_task, share
from longalign.training.weights import Weights


def fit(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    on_step: Callable[[int, Mapping[str, Any]], None] = lambda step, row: None,
) -> FitResult:
    """Train as `recipe` says, in the run folder `out` (else the recipe's, else a new one under ``runs/``).

    In a folder with checkpoints of the same recipe the run goes on from the newest whole one, and ends with the same
    weights, bit for bit on the CPU, as if it had not been interrupted: the rows and the random state of a step
    depend on the seed and the step alone. SIGINT, SIGTERM and `train.stop_after_s` end it with a checkpoint after
    the step under way; `train.best.patience` ends it for good.

    Under `accelerate launch` every process calls this with the same arguments.

    Args:
        on_step: called after every step with the number of steps done and the last line of metrics, and once before.

    Raises:
        LongalignError: the batch cannot be shared out or does not fit into memory, the folder holds something else, the
            disk is full, the evaluation does not give the figure of `train.best`, or 5 steps in a row gave no finite
            loss and gradient.
    """
    accelerator = make_accelerator(recipe.train.precision)
    Batching.of(recipe.train, accelerator.num_processes)  # refuse it before anything is loaded
    path = out if out is not None else recipe.out
    path = None if path is None else Path(path)
    checkpoint = on_main(accelerator, lambda: None if path is None else check_folder(path, recipe))
    noted = on_main(accelerator, lambda: None if path is None or checkpoint is None else recorded(path))
    task, weights = build_task(recipe, accelerator)
    batching = settle_batching(recipe, task, weights, accelerator, noted)
    folder = on_main(accelerator, lambda: open_folder(path, recipe))
    if recipe.train.micro_batch_size == "auto":
        on_main(accelerator, lambda: record(folder.path, batching))
    if (opened := getattr(task.objective, "opened", None)) is not None:
        opened(folder.path)
    progress = Progress()
    if checkpoint is not None:
        progress = _resume(checkpoint, task.objective, weights, accelerator)
    on_main(accelerator, lambda: folder.forget_after(-1 if checkpoint is None else progress.step))
    run = Run(recipe, folder, accelerator, batching, task.objective, weights, progress)
    stopped = run.train(task.data, on_step)
    run.close()
    model = on_main(accelerator, run.save) if stopped in ("", "early") else None
    result = FitResult(
        folder.path,
        progress.step,
        recipe.train.steps,
        None if checkpoint is None else run.started_at,
        progress.skipped,
        run.last("train"),
        run.last("evaluate"),
        stopped,
        model,
        progress.best,
    )
    on_main(accelerator, lambda: write_page(folder, recipe, result, weights, batching, progress.seconds))
    return result


def _resume(checkpoint: Path, objective: Objective, weights: Weights, accelerator: Accelerator) -> Progress:
    """Everything as it was when `checkpoint` was written. Every process reads it."""
    state, parts = read_state(checkpoint), read_parts(checkpoint)
    weights.load_parts(parts)
    share(weights, accelerator)
    objective.load_state_dict(parts.get("objective", {}))
    if accelerator.scaler is not None and "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])
    return Progress.of(state, accelerator)
