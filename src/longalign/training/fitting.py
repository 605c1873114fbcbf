"""`train.micro_batch_size: auto`: the largest micro-batch that fits into memory, found by trying before step 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import release_memory
from accelerate.utils.memory import should_reduce_batch_size

from longalign.errors import LongalignError
from longalign.objectives import Task
from longalign.objectives.random_draws import Draws
from longalign.runs import atomic_write_text, json_line
from longalign.training.batches import Batching, make_loader
from longalign.training.processes import agree
from longalign.training.recipe import Recipe
from longalign.training.step import (
    STEPPING,
    random_state_kept,
    set_random_state,
    take_micro_batch,
)
from longalign.training.weights import Weights

RECORD = "batching.json"  # in the run folder


def settle_batching(
    recipe: Recipe, task: Task, weights: Weights, accelerator: Accelerator, noted: int | None = None
) -> Batching:
    """How the batch is shared out. With `auto`: in micro-batches of `noted` rows, if they come out
    even, else by trying.

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
    """Note what was found, so that a resumed run does the same."""
    noted = {"micro_batch_size": batching.micro_batch_size, "processes": batching.num_processes}
    atomic_write_text(folder / RECORD, json_line(noted))


def recorded(folder: Path) -> int | None:
    """The micro-batch size that was noted in a run folder."""
    try:
        return int(json.loads((folder / RECORD).read_text(encoding="utf-8"))["micro_batch_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def out_of_memory(error: BaseException) -> bool:
    """Of the accelerator or of the CPU, as far as the latter is told before it is too late."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and should_reduce_batch_size(error)
    )


class Alone:
    """An accelerator whose messages to other processes stay where they are.

    A process that runs out of memory in a trial would leave the others waiting for its part of a sum.
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
    """Does the first micro-batch of step 0 fit, beside all that a later one will find in memory?

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
