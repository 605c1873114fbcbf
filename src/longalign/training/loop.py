"""`fit`, the training loop of all objectives (`longalign.objectives`)."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from longalign.errors import LongalignError
from longalign.objectives import Objective
from longalign.training.batches import Batching, make_loader
from longalign.training.checkpoint import best_path, read_parts, read_state, write_best, write_checkpoint
from longalign.training.folder import TrainFolder, check_folder, open_folder, save_samples
from longalign.training.keys import nearest
from longalign.training.outputs import save_model, write_page
from longalign.training.processes import Means, agree, make_accelerator, on_main, on_main_only
from longalign.training.progress import FitResult, Progress, Stopped
from longalign.training.recipe import Recipe
from longalign.training.step import (
    EVALUATING,
    SAMPLING,
    build_task,
    out_of_memory,
    record,
    recorded,
    set_random_state,
    settle_batching,
    share,
    take_step,
)
from longalign.training.trackers import Tracker, make_tracker
from longalign.training.weights import Weights, learning_rate

if TYPE_CHECKING:
    from PIL.Image import Image

GIVE_UP_AFTER = 5  # steps in a row without a finite loss and gradient
NON_METRIC_KEYS = ("kind", "step", "best_step")  # keys of a line of metrics that are no metrics


def fit(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    cpu: bool = False,
    command_line: str | None = None,
    on_step: Callable[[int, Mapping[str, Any]], None] = lambda step, row: None,
) -> FitResult:
    """Train a recipe in the run folder `out` (default: the recipe's ``out``, else a new folder under ``runs/``).

    In a folder with checkpoints of the same recipe the run resumes from the newest complete one. It ends with the same
    weights as an uninterrupted run, bit for bit on the CPU, since the rows and the random state of a step depend only
    on the seed and the step. SIGINT, SIGTERM and `train.stop_after_s` stop a run after the current step, with a
    checkpoint. `train.best.patience` ends it for good.

    Under `accelerate launch` every process calls this with the same arguments.

    Args:
        recipe: what to train, on which data and how.
        out: the run folder.
        cpu: train on the CPU, also where there is a GPU.
        command_line: what the user typed, for the report.
        on_step: called before the first step and after every step, with the number of steps done and the last line of
            metrics.

    Raises:
        LongalignError: the batch cannot be shared out or does not fit into memory, the folder holds something else, the
            disk is full, the evaluation does not give the figure of `train.best`, or 5 steps in a row gave no finite
            loss and gradient.
    """
    accelerator = make_accelerator(recipe.train.precision, cpu=cpu)
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
    task.objective.opened(folder.path)
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
    on_main(
        accelerator,
        lambda: write_page(folder, recipe, result, weights, batching, progress.seconds, command_line),
    )
    return result


def _resume(checkpoint: Path, objective: Objective, weights: Weights, accelerator: Accelerator) -> Progress:
    """Restore the state of `checkpoint`. Every process reads it.

    Raises:
        LongalignError: a process does not find it, or it is broken.
    """
    [lacking] = agree(accelerator, not checkpoint.is_dir())
    if lacking:  # all of them say so: one that went on would wait for the others
        raise LongalignError(
            f"{checkpoint}: not every process finds it. With several machines --out has to lie on a disk that all of "
            "them can reach: move the run folder there, or copy it to each machine, and the same command resumes the "
            "run."
        )
    state, parts = read_state(checkpoint), read_parts(checkpoint)
    weights.load_parts(parts)
    share(weights, accelerator)
    objective.load_state_dict(parts.get("objective", {}))
    if accelerator.scaler is not None and "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])
    return Progress.of(state, accelerator)


class Run:
    """The state of one call of `fit`, and its steps."""

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
        progress.follow(recipe.train.best)
        self.row: dict[str, Any] = {}
        self.tracker: Tracker | None = on_main_only(
            accelerator,
            lambda: make_tracker(recipe.train.tracker, folder.path, recipe.to_mapping(), progress.step),
        )
        self.began_s = self.saved_s = self.logged_s = time.monotonic()
        self.seconds_before, self.logged_step = progress.seconds, progress.step

    def train(self, data: Any, on_step: Callable[[int, Mapping[str, Any]], None]) -> Stopped:
        """Take the remaining steps; returns why training stopped early, or an empty string."""
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
            if train.evaluate_first and progress.step == 0:
                self._evaluate()
            if progress.step < train.steps and progress.exhausted(train.best):
                return "early"  # resumed after it had been given up
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
                early = progress.exhausted(train.best)
                stopping: Stopped = (
                    "" if last else "signal" if signalled else "early" if early else "time" if slow else ""
                )
                if last or stopping or late or _due(progress.step, train.checkpoint_every_steps):
                    self._checkpoint()
                if stopping:
                    return stopping
        return ""

    def _step(self, batches: Any) -> None:
        progress = self.progress
        try:
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
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                raise LongalignError(self._does_not_fit()) from error
            raise
        progress.step += 1
        if not stepped.skipped:
            progress.skipped_in_a_row = 0
            progress.window.merge(stepped.metrics)
            # The same in every process, so that its mean over them is itself.
            progress.window.add({"grad_norm": stepped.grad_norm})
            return
        progress.skipped += 1
        if stepped.rescaled:
            return
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row == 1 and self.accelerator.is_main_process:
            warnings.warn(
                f"step {progress.step - 1}: loss or gradient is not finite, so no weight was changed",
                stacklevel=2,
            )
        if progress.skipped_in_a_row == GIVE_UP_AFTER:
            raise LongalignError(
                f"{GIVE_UP_AFTER} steps in a row, up to step {progress.step - 1}, gave a loss or a gradient that is "
                "not finite. With another --out, lower train.lr or train.max_grad_norm, or take train.precision bf16 "
                f"or no; the last checkpoint in {self.folder.checkpoints} is kept."
            )

    def _does_not_fit(self) -> str:
        rows = self.batching.micro_batch_size
        said = f"step {self.progress.step}: micro-batches of {rows} rows do not fit into memory; "
        if self.recipe.train.micro_batch_size == "auto":
            return said + f"write a smaller number into {self.folder.path / 'batching.json'} and go on"
        return said + "lower train.micro_batch_size (accumulation makes up for it), or let auto find it"

    def _log(self) -> None:
        """Write one line with the means since the last line."""
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
        """Evaluate the weights that would be saved now, and draw sample pictures, always from the same random state."""
        progress, accelerator, seed = self.progress, self.accelerator, self.recipe.seed
        if progress.evaluated_step == progress.step:
            return
        with self.weights.averaged(), accelerator.autocast():
            set_random_state(seed, EVALUATING, accelerator.process_index)
            own = self.objective.evaluate(accelerator)
            set_random_state(seed, SAMPLING)
            if self.objective.collective:
                pictures: Any = self.objective.samples(accelerator)
            else:
                pictures = on_main_only(accelerator, lambda: self.objective.samples(accelerator))
        found = on_main(accelerator, lambda: own)  # one opinion, by which all of them go on or stop
        self._compare(found)
        progress.evaluated_step = progress.step
        if found:
            best = {} if progress.best is None else {"best_step": progress.best.step}
            row = {"kind": "evaluate", "step": progress.step, **found, **best}
            self._write(row, {f"evaluate/{name}": value for name, value in found.items()})
        on_main(accelerator, lambda: self._show(pictures))

    def _compare(self, found: Mapping[str, float]) -> None:
        """Keep the weights if this evaluation is the best so far."""
        wanted, progress = self.recipe.train.best, self.progress
        if wanted is None:
            return
        if wanted.metric not in found:
            if progress.step:  # so that the run can go on when the recipe is put right
                self._checkpoint()
            there = (
                nearest(wanted.metric, list(found)) if found else "there is no held-out data to evaluate on"
            )
            raise LongalignError(
                f"train.best.metric: the evaluation gives no {wanted.metric!r}; {there}. Correct it, and the same "
                "command resumes the run."
            )
        if progress.compare(float(found[wanted.metric]), wanted):
            parts = {"modules": self.weights.judged(), "objective": self.objective.state_dict()}
            on_main(self.accelerator, lambda: write_best(self.folder.checkpoints, progress.step, parts))

    def _show(self, pictures: Sequence[tuple[str, Image]] | None) -> None:
        """Save the sample pictures and give them to the tracker. Only the main process calls it."""
        if pictures:
            save_samples(self.folder.path, self.progress.step, pictures)
            if self.tracker is not None:
                self.tracker.pictures(pictures, self.progress.step)

    def _write(self, row: Mapping[str, Any], tracked: Mapping[str, float]) -> None:
        def write() -> None:
            self.folder.log(row)
            if self.tracker is not None:
                self.tracker.log(tracked, self.progress.step)

        on_main(self.accelerator, write)

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

    def save(self) -> Path:
        """Write `model/` from the weights of the best evaluation, or the last ones. Only the main process calls it."""
        best = self.progress.best
        with self.weights.averaged():
            if best is not None:
                path = best_path(self.folder.checkpoints, best.step)
                read_state(path)  # is it whole?
                parts = read_parts(path)
                self.weights.load_judged(parts["modules"])
                self.objective.load_state_dict(parts.get("objective", {}))
            return save_model(self.objective, self.folder.model, self.recipe)

    def last(self, kind: str) -> dict[str, float]:
        """The metrics of the last line of a kind."""

        def find() -> dict[str, float]:
            rows = [row for row in self.folder.rows() if row.get("kind") == kind]
            return {k: v for k, v in (rows[-1] if rows else {}).items() if k not in NON_METRIC_KEYS}

        return on_main(self.accelerator, find)

    def close(self) -> None:
        if self.tracker is not None:
            self.tracker.finish()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class Interrupts:
    """Inside this context the first SIGINT or SIGTERM only sets `caught`; a second one has its usual effect.

    Python allows signal handlers in the main thread alone; in another thread signals stay as they are.
    """

    def __init__(self) -> None:
        self.caught = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._catch)
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number).name
        self._restore()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
