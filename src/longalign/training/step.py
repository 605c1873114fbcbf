"""One step: micro-batches, gradient, clipping, update."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor

from longalign.errors import LongalignError
from longalign.objectives import BuildContext, Objective, Task
from longalign.objectives.random_draws import Draws
from longalign.training.batches import Batching
from longalign.training.processes import Means, average_gradients, same_everywhere
from longalign.training.recipe import Recipe, objective_class
from longalign.training.weights import Weights, learning_rate

# Which random state is meant, beside the seed.
BUILDING, STEPPING, EVALUATING, SAMPLING = (
    0,
    1,
    2,
    5,
)  # 3 and 4 are those of longalign.objectives.random_draws


def set_random_state(*key: int) -> None:
    """Python's, numpy's and torch's random state as a function of `key` alone.

    Each step has its own, so there is none to save: a resumed run, and one that is evaluated more often, draws the
    same numbers.
    """
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed((int(words[2]) << 31) + int(words[3]))


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Python's, numpy's and torch's random state are afterwards as they were before."""
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
    if recipe.train.compile:
        for module in weights.modules.values():
            module.compile()  # in place: parameters and checkpoints keep their names
    return task, weights


def share(weights: Weights, accelerator: Accelerator) -> None:
    """The main process's weights for all."""
    same_everywhere([*weights.parameters.values(), *weights.buffers.values(), *weights.average], accelerator)


@dataclass(frozen=True)
class Stepped:
    """How a step went: its metrics, and the gradient's norm before clipping (not finite where it was skipped).

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
    """Step number `step`, after `updates` updates. Where loss or gradient are not finite no weight changes."""
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
    """A `loss` that is not finite makes the gradient so, whatever the objective made of it, and so in every process."""
    if gradients and "loss" in metrics.sums:
        gradients[0].add_(0 * metrics.sums["loss"][0])


def take_micro_batch(
    batches: Iterator[Any], objective: Objective, accelerator: Accelerator, draws: Draws | None = None
) -> dict[str, Any]:
    if draws is not None and (reseed := getattr(objective, "reseed", None)) is not None:
        reseed(draws)
    batch = send_to_device(next(batches), accelerator.device, non_blocking=True)
    with accelerator.autocast():
        return objective.backward(batch, accelerator)
