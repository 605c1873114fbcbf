"""The rows of each training step. They depend only on the seed and the step, so a run can resume from any step.

The rows of all steps form one endless sequence of epochs. Each epoch has its own permutation of the data::

    π_0(0) … π_0(n−1)  π_1(0) … π_1(n−1)  π_2(0) …
    └ step 0: B rows ┘└ step 1 ┘ …                    (a step may reach over the end of an epoch)

Micro-batch m of process r takes rows (m·P + r)·b … (m·P + r + 1)·b of the step's B = A·P·b rows, for A micro-batches of
b rows in each of P processes. So P processes with A micro-batches see the same rows as one with A·P.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from longalign.errors import LongalignError
from longalign.training.recipe import TrainSettings


@dataclass(frozen=True)
class Batching:
    """How a step's rows are shared out: batch_size = micro_batch_size × num_processes × accumulation."""

    batch_size: int
    micro_batch_size: int
    num_processes: int
    accumulation: int

    def __str__(self) -> str:
        def some(count: int, one: str, more: str) -> str:
            return f"{count:,} {one if count == 1 else more}"

        return (
            f"{self.batch_size:,} = {some(self.micro_batch_size, 'row', 'rows')} × "
            f"{some(self.num_processes, 'process', 'processes')} × "
            f"{some(self.accumulation, 'micro-batch', 'micro-batches')}"
        )

    @classmethod
    def of(cls, train: TrainSettings, num_processes: int, rows: int | None = None) -> Batching:
        """Share out `train.batch_size` in micro-batches of `rows` rows; without `rows` as the recipe says.

        For `auto` this gives a process's whole share, where the search begins.

        Raises:
            LongalignError: it cannot be shared out evenly; the message names the nearest sizes that can.
        """
        whole = train.batch_size
        if rows is None and train.micro_batch_size != "auto":
            rows = train.micro_batch_size
        unit = num_processes * (rows or 1)
        if whole % unit:
            parts = f"train.micro_batch_size {rows} × " if rows else ""
            sizes = sorted({max(whole // unit, 1) * unit, (whole // unit + 1) * unit})
            raise LongalignError(
                f"train.batch_size {whole} is not a multiple of {parts}{num_processes} "
                f"process{'' if num_processes == 1 else 'es'} = {unit}; take {' or '.join(map(str, sizes))}"
            )
        micro = rows or whole // num_processes
        return cls(whole, micro, num_processes, whole // (micro * num_processes))

    def smaller(self) -> Batching | None:
        """The same batch in micro-batches of at most half as many rows; None if they have one row already."""
        share = self.batch_size // self.num_processes
        for rows in range(self.micro_batch_size // 2, 0, -1):
            if share % rows == 0:
                return replace(self, micro_batch_size=rows, accumulation=share // rows)
        return None

    def first_row(self, micro_batch: int, process_index: int) -> int:
        """The place in a step's rows where a micro-batch of a process begins."""
        return (micro_batch * self.num_processes + process_index) * self.micro_batch_size


class RowOrder:
    """`rows(step)`: the indices of the rows of global step `step`, (batch_size,)."""

    def __init__(self, num_rows: int, batch_size: int, seed: int) -> None:
        if num_rows < 1:
            raise LongalignError("data: there is no row to train on")
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed
        self._epochs: dict[int, np.ndarray] = {}

    def rows(self, step: int) -> np.ndarray:
        place = step * self.batch_size + np.arange(self.batch_size)  # (B,)
        epochs = place // self.num_rows
        rows = np.empty_like(place)
        for epoch in np.unique(epochs).tolist():
            inside = epochs == epoch
            rows[inside] = self._epoch(epoch)[place[inside] % self.num_rows]
        return rows

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            if len(self._epochs) > 1:  # steps go forward: the oldest is not needed again
                self._epochs.pop(min(self._epochs))
            self._epochs[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.num_rows)
        return self._epochs[epoch]


class MicroBatches(Sampler[list[int]]):
    """The micro-batches of one process, from step `start` to before step `stop`, for a `DataLoader`."""

    def __init__(
        self, order: RowOrder, batching: Batching, process_index: int, start: int, stop: int
    ) -> None:
        self.order, self.batching, self.process_index = order, batching, process_index
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return max(self.stop - self.start, 0) * self.batching.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        size = self.batching.micro_batch_size
        for step in range(self.start, self.stop):
            rows = self.order.rows(step)
            for micro in range(self.batching.accumulation):
                first = self.batching.first_row(micro, self.process_index)
                yield rows[first : first + size].tolist()


def make_loader(
    data: Dataset[Any],
    collate: Callable[[Any], Any],
    batching: Batching,
    *,
    seed: int,
    process_index: int = 0,
    start: int = 0,
    stop: int,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Micro-batches of steps `start` … `stop` − 1 of this process.

    With `num_workers` a row must depend on its index alone: the workers' random state is not that of a step.
    """
    order = RowOrder(len(data), batching.batch_size, seed)  # type: ignore[arg-type]
    # Forked, since `collate` is a method of the objective, which would travel to a spawned worker with its models.
    fork = num_workers > 0 and "fork" in multiprocessing.get_all_start_methods()
    with warnings.catch_warnings():
        # More workers than cores: the recipe asks for them, and a container may count its cores wrongly.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        return DataLoader(
            data,
            batch_sampler=MicroBatches(order, batching, process_index, start, stop),
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
            # Its own: a loader draws a seed for workers even without any, and would move the step's random state.
            generator=torch.Generator().manual_seed(seed),
            multiprocessing_context="fork" if fork else None,
        )
