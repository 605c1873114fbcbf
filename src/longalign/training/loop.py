"""`fit`: the only training loop. What is trained for is an objective's business (`longalign.objectives`)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from longalign.errors import LongalignError
from longalign.objectives import Objective
from longalign.training.batches import Batching, make_loader
from longalign.training.checkpoint import read_parts, read_state, write_checkpoint
from longalign.training.finish import make_tracker, save_model, write_page
from longalign.training.folder import TrainFolder, check_folder, open_folder
from longalign.training.interrupts import Interrupts
from longalign.training.processes import Means, agree, make_accelerator, on_main
from longalign.training.progress import FitResult, Progress, Stopped
from longalign.training.recipe import Recipe
from longalign.training.step import EVALUATING, build_task, set_random_state, share, take_step
from longalign.training.weights import Weights, learning_rate

GIVE_UP_AFTER = 25  # steps in a row without a finite gradient


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
    the step under way.

    Under `accelerate launch` every process calls this with the same arguments.

    Args:
        on_step: called after every step with the number of steps done and the last line of metrics, and once before.

    Raises:
        LongalignError: the batch cannot be shared out, the folder holds something else, the disk is full, or 25 steps
            in a row gave no finite gradient.
    """
    accelerator = make_accelerator(recipe.train.precision)
    batching = Batching.of(recipe.train, accelerator.num_processes)
    path = out if out is not None else recipe.out
    path = None if path is None else Path(path)
    checkpoint = on_main(accelerator, lambda: None if path is None else check_folder(path, recipe))
    task, weights = build_task(recipe, accelerator)
    folder = on_main(accelerator, lambda: open_folder(path, recipe))
    if accelerator.is_main_process and (opened := getattr(task.objective, "opened", None)) is not None:
        opened(folder.path)
    progress = Progress()
    if checkpoint is not None:
        progress = _resume(checkpoint, task.objective, weights, accelerator)
    on_main(accelerator, lambda: folder.forget_after(progress.step))
    run = _Run(recipe, folder, accelerator, batching, task.objective, weights, progress)
    stopped = run.train(task.data, on_step)
    run.close()
    done = not stopped
    model: Path | None = None
    if done:
        with weights.averaged():
            model = on_main(accelerator, lambda: save_model(task.objective, folder.model))
    metrics, evaluation = run.last("train"), run.last("evaluate")
    result = FitResult(
        folder.path,
        progress.step,
        recipe.train.steps,
        None if checkpoint is None else run.started_at,
        progress.skipped,
        metrics,
        evaluation,
        stopped,
        model,
    )
    on_main(accelerator, lambda: write_page(folder, recipe, result, weights, batching, progress.seconds))
    return result


class _Run:
    """One call of `fit`, with everything in it in place."""

    def __init__(
        self,
        recipe: Recipe,
        folder: TrainFolder,
        accelerator: Accelerator,
        batching: Batching,
        objective: Objective,
        weights: Weights,
        progress: Progress,
    ) -> None:
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.batching, self.objective, self.weights = batching, objective, weights
        self.progress, self.started_at = progress, progress.step
        self.row: dict[str, Any] = {}
        self.tracker = on_main_only(accelerator, lambda: make_tracker(recipe.train.tracker, folder))
        self.began_s = self.saved_s = self.logged_s = time.monotonic()
        self.seconds_before, self.logged_step = progress.seconds, progress.step

    def train(self, data: Any, on_step: Callable[[int, Mapping[str, Any]], None]) -> Stopped:
        """All steps that are left, unless something ends them earlier."""
        train, progress = self.recipe.train, self.progress
        loader = make_loader(
            data,
            self.objective.collate,
            self.batching,
            seed=self.recipe.seed,
            process_index=self.accelerator.process_index,
            start=progress.step,
            stop=train.steps,
            num_workers=train.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        on_step(progress.step, self.row)
        batches = iter(loader)
        with Interrupts() as interrupts:
            while progress.step < train.steps:
                self._step(batches)
                signalled, late, slow = agree(
                    self.accelerator,
                    bool(interrupts.caught),
                    time.monotonic() - self.saved_s > train.checkpoint_every_s,
                    train.stop_after_s is not None and time.monotonic() - self.began_s > train.stop_after_s,
                )
                last = progress.step == train.steps
                if last or progress.step % train.log_every == 0:
                    self._log()
                if last or _due(progress.step, train.evaluate_every):
                    self._evaluate()
                on_step(progress.step, self.row)
                stopping: Stopped = "" if last else "signal" if signalled else "time" if slow else ""
                if last or stopping or late or _due(progress.step, train.checkpoint_every_steps):
                    self._checkpoint()
                if stopping:
                    return stopping
        return ""

    def _step(self, batches: Any) -> None:
        progress = self.progress
        stepped = take_step(
            progress.step,
            batches,
            self.objective,
            self.weights,
            self.batching,
            self.accelerator,
            self.recipe,
            progress.step - progress.skipped,
        )
        progress.step += 1
        if not stepped.skipped:
            progress.skipped_in_a_row = 0
            progress.window.merge(stepped.metrics)
            # The same in every process, so that its mean over them is itself.
            progress.window.add({"grad_norm": stepped.grad_norm})
            return
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row == 1 and self.accelerator.is_main_process:
            warnings.warn(
                f"step {progress.step - 1}: the gradient is not finite, so no weight was changed",
                stacklevel=2,
            )
        if progress.skipped_in_a_row == GIVE_UP_AFTER:
            raise LongalignError(
                f"{GIVE_UP_AFTER} steps in a row, up to step {progress.step - 1}, gave a gradient that is not finite. "
                "Lower train.lr or train.max_grad_norm, or take train.precision bf16 or no; the last checkpoint in "
                f"{self.folder.checkpoints} is from before."
            )

    def _log(self) -> None:
        """One line of means since the last one."""
        progress, now = self.progress, time.monotonic()
        progress.seconds = self.seconds_before + now - self.began_s
        means = {
            name: total / count for name, (total, count) in progress.window.gather(self.accelerator).items()
        }
        speed = (progress.step - self.logged_step) / max(now - self.logged_s, 1e-9)
        self.row = {
            "kind": "train",
            "step": progress.step,
            "samples": progress.step * self.batching.batch_size,
            **means,
            "lr": learning_rate(progress.step - 1, self.recipe.train),
            "skipped": progress.skipped,
            "seconds": round(progress.seconds, 2),
            "samples_per_s": round(speed * self.batching.batch_size, 3),
        }
        progress.window, self.logged_s, self.logged_step = Means(), now, progress.step
        self._write(self.row, {**means, "lr": self.row["lr"]})

    def _evaluate(self) -> None:
        if self.progress.evaluated_step == self.progress.step:
            return
        set_random_state(self.recipe.seed, EVALUATING, self.accelerator.process_index)
        with self.weights.averaged(), self.accelerator.autocast():
            found = self.objective.evaluate(self.accelerator)
        self.progress.evaluated_step = self.progress.step
        if found:
            row = {"kind": "evaluate", "step": self.progress.step, **found}
            self._write(row, {f"evaluate/{name}": value for name, value in found.items()})

    def _write(self, row: Mapping[str, Any], tracked: Mapping[str, float]) -> None:
        on_main(self.accelerator, lambda: self.folder.log(row))
        if self.tracker is not None:
            self.tracker.log(dict(tracked), step=self.progress.step)

    def _checkpoint(self) -> None:
        self.progress.seconds = self.seconds_before + time.monotonic() - self.began_s
        state = self.progress.state(self.accelerator)
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        parts = {**self.weights.parts(), "objective": self.objective.state_dict()}
        train = self.recipe.train
        on_main(
            self.accelerator,
            lambda: write_checkpoint(
                self.folder.checkpoints, self.progress.step, parts, state, train.keep_checkpoints
            ),
        )
        self.saved_s = time.monotonic()

    def last(self, kind: str) -> dict[str, float]:
        """The numbers of the last line of a kind, its bookkeeping apart."""

        def find() -> dict[str, float]:
            rows = [row for row in self.folder.rows() if row.get("kind") == kind]
            return {k: v for k, v in (rows[-1] if rows else {}).items() if k not in ("kind", "step")}

        return on_main(self.accelerator, find)

    def close(self) -> None:
        if self.tracker is not None:
            self.tracker.finish()


def on_main_only(accelerator: Accelerator, function: Callable[[], Any]) -> Any:
    """The main process's result for itself, None for the others; its failure is everyone's."""
    box: list[Any] = []
    on_main(accelerator, lambda: box.append(function()))
    return box[0] if box else None


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _resume(checkpoint: Path, objective: Objective, weights: Weights, accelerator: Accelerator) -> Progress:
    """Everything as it was when `checkpoint` was written. Every process reads it."""
    state, parts = read_state(checkpoint), read_parts(checkpoint)
    weights.load_parts(parts)
    share(weights, accelerator)
    objective.load_state_dict(parts.get("objective", {}))
    if accelerator.scaler is not None and "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])
    return Progress.of(state, accelerator)
