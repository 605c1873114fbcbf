"""One training step: micro-batches, gradient, clipping, update; and the search for the size of micro-batches.

With ``train.micro_batch_size: auto`` the largest micro-batch that fits into memory is found by trying, before step 0.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import release_memory, send_to_device
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from longalign.errors import LongalignError
from longalign.objectives import BuildContext, Objective, Task
from longalign.objectives.random_draws import Draws
from longalign.runs import atomic_write_text, json_line
from longalign.training.batches import Batching, make_loader
from longalign.training.processes import Means, agree, average_gradients, same_everywhere
from longalign.training.recipe import Recipe, objective_class
from longalign.training.sharding import shard
from longalign.training.weights import Weights, learning_rate

RECORD = "batching.json"  # in the run folder
# Second key of a random state, after the seed. longalign.objectives.random_draws has 3 and 4.
BUILDING, STEPPING, EVALUATING, SAMPLING = 0, 1, 2, 5


def set_random_state(*key: int) -> None:
    """Set the random state of Python, numpy and torch from `key`.

    Each step has its own, so there is none to save: a resumed run, and one that is evaluated more often, draws the
    same numbers.
    """
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed((int(words[2]) << 31) + int(words[3]))


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore the random state of Python, numpy and torch afterwards."""
    ours, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)


def build_task(recipe: Recipe, accelerator: Accelerator) -> tuple[Task, Weights]:
    """The recipe's objective with its data, and its weights, the same in every process."""
    context = BuildContext(
        accelerator.device, recipe.seed, accelerator.process_index, accelerator.num_processes
    )
    set_random_state(recipe.seed, BUILDING)
    task = objective_class(recipe.objective).build(recipe.model, recipe.settings, recipe.data, context)
    weights = Weights(task.objective.modules(), recipe.train)
    weights.mode(training=True)
    share(weights, accelerator)
    if recipe.train.shard == "fsdp":
        task = Task(shard(task.objective, accelerator), task.data)
    if recipe.train.compile:
        for module in weights.modules.values():
            module.compile()  # in place: parameters and checkpoints keep their names
    return task, weights


def share(weights: Weights, accelerator: Accelerator) -> None:
    """Copy the main process's weights to all processes."""
    same_everywhere([*weights.parameters.values(), *weights.buffers.values(), *weights.average], accelerator)


@dataclass(frozen=True)
class Stepped:
    """Result of a step: its metrics, and the gradient's norm before clipping (not finite if the step was skipped).

    `rescaled`: it was skipped, as happens in fp16 until the factor before the loss is small enough, and that factor
    was lowered.
    """

    metrics: Means
    grad_norm: float
    rescaled: bool = False

    @property
    def skipped(self) -> bool:
        return not math.isfinite(self.grad_norm)


def take_step(
    step: int,
    batches: Iterator[Any],
    objective: Objective,
    weights: Weights,
    batching: Batching,
    accelerator: Accelerator,
    recipe: Recipe,
    updates: int,
) -> Stepped:
    """Take step number `step`, after `updates` updates. If loss or gradient is not finite, no weight changes."""
    train, scaler = recipe.train, accelerator.scaler
    set_random_state(recipe.seed, STEPPING, step, accelerator.process_index)
    weights.set_learning_rate(learning_rate(step, train))
    weights.optimizer.zero_grad(set_to_none=True)
    metrics = Means()
    for micro in range(batching.accumulation):
        first = batching.first_row(micro, accelerator.process_index)
        draws = Draws(recipe.seed, step, first, batching.batch_size)
        metrics.add(take_micro_batch(batches, objective, accelerator, draws))
    _spoil_if_lost(weights.gradients(), metrics)
    average_gradients(list(weights.parameters.values()), accelerator, batching.accumulation)
    if scaler is not None:  # fp16: gradients come multiplied by its scale
        scaler.unscale_(weights.optimizer)
    gradients = weights.gradients()
    if not gradients:
        raise LongalignError(f"step {step}: the objective gave no gradient to anything that is trained")
    norm = torch.nn.utils.get_total_norm(gradients)
    grad_norm = float(norm)
    if math.isfinite(grad_norm):
        if train.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(weights.parameters.values(), train.max_grad_norm, norm)
        weights.optimizer.step() if scaler is None else scaler.step(weights.optimizer)
        weights.update_average(updates + 1)
    rescaled = False
    if scaler is not None:
        rescaled = not math.isfinite(grad_norm) and scaler.get_scale() > 1
        scaler.update()
    return Stepped(metrics, grad_norm, rescaled)


# 0·L = 0 for a finite loss L, and NaN for NaN and ±∞
@torch.no_grad()
def _spoil_if_lost(gradients: list[Tensor], metrics: Means) -> None:
    """If the `loss` is not finite, make the gradient not finite too, which all processes see after averaging."""
    if gradients and "loss" in metrics.sums:
        gradients[0].add_(0 * metrics.sums["loss"][0])


def take_micro_batch(
    batches: Iterator[Any], objective: Objective, accelerator: Accelerator, draws: Draws | None = None
) -> dict[str, Any]:
    """The next micro-batch through `Objective.backward`; its metrics."""
    if draws is not None:
        objective.reseed(draws)
    batch = send_to_device(next(batches), accelerator.device, non_blocking=True)
    with accelerator.autocast():
        return objective.backward(batch, accelerator)


def settle_batching(
    recipe: Recipe, task: Task, weights: Weights, accelerator: Accelerator, noted: int | None = None
) -> Batching:
    """How the batch is shared out. With `auto`: in micro-batches of `noted` rows if they divide the
    batch, else found by trying.

    Raises:
        LongalignError: it cannot be shared out evenly, or not even one row fits.
    """
    whole = Batching.of(recipe.train, accelerator.num_processes)
    if recipe.train.micro_batch_size != "auto":
        return whole
    if noted is not None and noted > 0 and whole.micro_batch_size % noted == 0:
        return Batching.of(recipe.train, accelerator.num_processes, noted)
    tried: Batching | None = whole
    while tried is not None:
        [too_large] = agree(accelerator, not _fits(tried, recipe, task, weights, accelerator))
        if not too_large:
            return tried
        release_memory()
        tried = tried.smaller()
    raise LongalignError(
        "train.micro_batch_size auto: not even one row fits into memory; take precision bf16, the objective's "
        "gradient checkpointing, or a smaller model"
    )


def record(folder: Path, batching: Batching) -> None:
    """Write the size of the micro-batches into the run folder, for a resumed run."""
    noted = {"micro_batch_size": batching.micro_batch_size, "processes": batching.num_processes}
    atomic_write_text(folder / RECORD, json_line(noted))


def recorded(folder: Path) -> int | None:
    """The micro-batch size that `record` wrote into a run folder; None if there is none."""
    try:
        return int(json.loads((folder / RECORD).read_text(encoding="utf-8"))["micro_batch_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def out_of_memory(error: BaseException) -> bool:
    """Does the error mean that the accelerator or the CPU has run out of memory?"""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and should_reduce_batch_size(error)
    )


class Alone:
    """An accelerator that does not communicate with other processes.

    In a trial a process may run out of memory, and the others would wait for its part of a sum.
    """

    num_processes = 1

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def reduce(self, tensor: Any, *arguments: Any, **keywords: Any) -> Any:
        return tensor

    def gather(self, tensor: Any) -> Any:
        return tensor

    def wait_for_everyone(self) -> None:
        pass


def _fits(batching: Batching, recipe: Recipe, task: Task, weights: Weights, accelerator: Accelerator) -> bool:
    """Does the first micro-batch of step 0 fit into memory, with everything that later ones will need?

    Weights, buffers, gradients, the objective's state and every random state are as before afterwards.
    """
    parameters, objective = list(weights.parameters.values()), task.objective
    loader = make_loader(
        task.data,
        objective.collate,
        batching,
        seed=recipe.seed,
        process_index=accelerator.process_index,
        stop=1,
    )
    state = {name: t.detach().clone() for name, t in objective.state_dict().items()}
    buffers = {name: b.detach().clone() for name, b in weights.buffers.items()}
    room: list[Any] = []
    try:
        with random_state_kept(accelerator.device):
            set_random_state(recipe.seed, STEPPING, 0, accelerator.process_index)
            if not weights.optimizer.state:  # AdamW's two moments come with the first update
                room += [torch.zeros_like(p) for p in parameters for _ in range(2)]
            if batching.accumulation > 1:  # and gradients of the micro-batches before are held
                for p in parameters:
                    p.grad = torch.zeros_like(p)
            draws = Draws(
                recipe.seed, 0, batching.first_row(0, accelerator.process_index), batching.batch_size
            )
            take_micro_batch(iter(loader), objective, Alone(accelerator), draws)
        return True
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return False
    finally:
        room.clear()
        weights.optimizer.zero_grad(set_to_none=True)
        objective.load_state_dict(state)
        with torch.no_grad():
            for name, b in weights.buffers.items():
                b.copy_(buffers[name])
