"""The rows of each training step. They depend only on the seed and the step, so a run can resume from any step.

The rows of all steps form one endless sequence of epochs. Each epoch has its own permutation of the data::

    π_0(0) … π_0(n−1)  π_1(0) … π_1(n−1)  π_2(0) …
    └ step 0: B rows ┘└ step 1 ┘ …                    (a step may reach over the end of an epoch)

Micro-batch m of process r takes rows (m·P + r)·b … (m·P + r + 1)·b of the step's B = A·P·b rows, for A micro-batches of
b rows in each of P processes. So P processes with A micro-batches see the same rows as one with A·P.

Data in buckets (`longalign.data.buckets`; rows of different buckets have different shapes) have one such sequence for
each bucket, and each step takes its rows from one bucket. Step s belongs to the bucket in whose part of [0, 1) the
number s·φ mod 1 lies, for φ the golden ratio; a bucket's part is its share of the rows. So all rows are seen equally
often in the long run, and steps of a bucket are spread evenly. A bucket with fewer rows than a batch has a step
seldom, and this step repeats its rows (it reaches over the ends of several of its epochs).
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

_GOLDEN = (5**0.5 - 1) / 2


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


class BucketOrder:
    """`rows(step)`: as `RowOrder`, where all rows of a step are of one bucket.

    Args:
        bucket_of: (rows,) the number of each row's bucket; rows with a negative one are not used.
    """

    def __init__(self, bucket_of: np.ndarray, batch_size: int, seed: int) -> None:
        numbers, counts = np.unique(bucket_of[bucket_of >= 0], return_counts=True)
        if not len(numbers):
            raise LongalignError("data: there is no row to train on")
        self._members = [np.flatnonzero(bucket_of == number) for number in numbers]
        self._orders = [RowOrder(int(count), batch_size, seed) for count in counts]
        self._ends = np.cumsum(counts) / counts.sum()
        self._buckets = self._times = np.empty(0, np.int64)
        self.repeating = int(
            counts[counts < batch_size].sum()
        )  # rows in buckets with fewer rows than a batch

    def rows(self, step: int) -> np.ndarray:
        if step >= len(self._buckets):
            self._plan(max(step + 1, 2 * len(self._buckets)))
        bucket = int(self._buckets[step])
        return self._members[bucket][self._orders[bucket].rows(int(self._times[step]))]

    def _plan(self, steps: int) -> None:
        """The bucket of each of the first steps, and how many steps before are of the same bucket."""
        self._buckets = np.searchsorted(self._ends, np.arange(steps) * _GOLDEN % 1, side="right")
        self._times = np.empty(steps, np.int64)
        for bucket in range(len(self._orders)):
            mine = np.flatnonzero(self._buckets == bucket)
            self._times[mine] = np.arange(len(mine))


class MicroBatches(Sampler[list[int]]):
    """The micro-batches of one process, from step `start` to before step `stop`, for a `DataLoader`."""

    def __init__(
        self,
        order: RowOrder | BucketOrder,
        batching: Batching,
        process_index: int,
        start: int,
        stop: int,
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


def order_of(data: Dataset[Any], batch_size: int, seed: int) -> RowOrder | BucketOrder:
    """The rows of each step: of one bucket where the data are in buckets (`bucket_of`)."""
    bucket_of = getattr(data, "bucket_of", None)
    if bucket_of is None:
        return RowOrder(len(data), batch_size, seed)  # type: ignore[arg-type]
    return BucketOrder(bucket_of, batch_size, seed)


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

    With `num_workers` a row must depend on its index alone: the workers' random state is not that of a step. Data whose
    `bucket_of` is not None are in buckets.
    """
    order = order_of(data, batching.batch_size, seed)
    if isinstance(order, BucketOrder) and order.repeating and process_index == 0:
        warnings.warn(
            f"{order.repeating:,} pictures are in buckets with fewer pictures than train.batch_size "
            f"{batching.batch_size:,}; a step of these repeats its pictures",
            stacklevel=2,
        )
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
