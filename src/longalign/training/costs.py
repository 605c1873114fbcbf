"""`plan`: time and memory that a recipe needs, from one measured step. It writes nothing."""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from longalign.training.batches import Batching, make_loader
from longalign.training.processes import average_gradients, make_accelerator
from longalign.training.recipe import Recipe
from longalign.training.step import build_task, set_random_state, settle_batching, take_micro_batch


@dataclass(frozen=True)
class Plan:
    """Time and memory of a training run, for each process.

    Attributes:
        device: the device of the trial.
        modules: name → (trainable, all) parameters.
        steps: updates of the weights.
        rows: number of rows of the data.
        epochs: how many times each row is seen.
        batching: how a step's rows are shared out, found by trying where the recipe says `auto`.
        weights_bytes, gradients_bytes, optimizer_bytes, average_bytes: known from the parameters alone.
        peak_bytes: measured in a micro-batch and an update: the above, frozen models, activations. On a GPU the
            memory that torch has allocated; else that of the whole process.
        step_s: seconds of a step, measured: `accumulation` micro-batches and an update.
        total_s: seconds of all steps, without evaluations.
    """

    device: str
    modules: dict[str, tuple[int, int]]
    steps: int
    rows: int
    epochs: float
    batching: Batching
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    average_bytes: int
    peak_bytes: int
    step_s: float
    total_s: float

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def plan(recipe: Recipe) -> Plan:
    """Build the recipe's model and data, compute two micro-batches (the second is timed) and an update.

    Nothing is kept.

    Raises:
        LongalignError: what `fit` would refuse at its start.
    """
    accelerator = make_accelerator(recipe.train.precision)
    Batching.of(recipe.train, accelerator.num_processes)  # refuse it before anything is loaded
    task, weights = build_task(recipe, accelerator)
    batching = settle_batching(recipe, task, weights, accelerator)
    loader = make_loader(
        task.data,
        task.objective.collate,
        batching,
        seed=recipe.seed,
        process_index=accelerator.process_index,
        stop=2,  # two steps hold two micro-batches even where a step has one
    )
    batches = iter(loader)
    set_random_state(recipe.seed)
    take_micro_batch(batches, task.objective, accelerator)  # the first one pays for warming up
    micro_s = _timed(lambda: take_micro_batch(batches, task.objective, accelerator))
    gradients = weights.gradients()

    def update() -> None:
        average_gradients(list(weights.parameters.values()), accelerator, batching.accumulation)
        torch.nn.utils.get_total_norm(gradients)
        weights.optimizer.step()
        weights.update_average(1)

    update()
    step_s = micro_s * batching.accumulation + _timed(update)
    trainable = list(weights.parameters.values())
    rows = len(task.data)  # type: ignore[arg-type]
    return Plan(
        device=str(accelerator.device),
        modules={
            name: (
                sum(p.numel() for p in module.parameters() if p.requires_grad),
                sum(p.numel() for p in module.parameters()),
            )
            for name, module in weights.modules.items()
        },
        steps=recipe.train.steps,
        rows=rows,
        epochs=recipe.train.steps * batching.batch_size / rows,
        batching=batching,
        weights_bytes=_bytes({p for m in weights.modules.values() for p in m.parameters()}),
        gradients_bytes=_bytes(trainable),
        optimizer_bytes=2 * _bytes(trainable),  # AdamW's two moments
        average_bytes=_bytes(weights.average),
        peak_bytes=_peak_bytes(),
        step_s=step_s,
        total_s=step_s * recipe.train.steps,
    )


def _timed(function: Any) -> float:
    _wait()
    began = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - began


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
