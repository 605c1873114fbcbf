"""Communication between training processes. With one process each function returns its input.

Gradients are averaged here and not by DistributedDataParallel: its hooks know `forward` alone, and objectives call
other methods of a module, or a module several times, or none of it in some step.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs, broadcast_object_list, gather_object
from torch import Tensor

from longalign.errors import LongalignError

R = TypeVar("R")
BUCKET_NUMBERS = 2**25  # numbers sent at once: 128 MiB of float32


def make_accelerator(precision: str, *, cpu: bool = False) -> Accelerator:
    """The accelerator of this process, with the device and process group that `accelerate launch` has set up.

    Args:
        precision: ``no``, ``bf16`` or ``fp16``: the dtype of autocast.
        cpu: use the CPU, also where there is a GPU.

    Raises:
        LongalignError: the device cannot do `precision`, or accelerate is set up to shard models.
    """
    # accelerate warns of an old Linux kernel, which a user of a shared machine cannot change.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    AcceleratorState._reset_state()  # else a second run in one process could not have another precision
    try:
        # Saving a model may take the main process longer than the ten minutes that others wait by default.
        patience = InitProcessGroupKwargs(timeout=datetime.timedelta(hours=2))
        accelerator = Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=[patience])
    except ValueError as error:
        raise LongalignError(f"train.precision {precision}: {error}; take bf16 or no") from error
    if (
        precision == "fp16" and accelerator.device.type == "cpu"
    ):  # accelerate would silently compute in float32
        raise LongalignError("train.precision fp16: the CPU has no such arithmetic; take bf16 or no")
    sharding = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
    if accelerator.distributed_type in sharding:
        raise LongalignError(
            f"accelerate is set up for {accelerator.distributed_type.value}, but every process here holds the whole "
            "model: launch with plain data parallelism (accelerate launch --multi_gpu), and let train.shard=fsdp "
            "divide frozen weights"
        )
    return accelerator


@torch.no_grad()
def average_gradients(parameters: Sequence[Tensor], accelerator: Accelerator, accumulation: int) -> None:
    """`.grad` ← Σ over processes and micro-batches / (P · A), the same on every process.

    A parameter that got a gradient somewhere has one everywhere afterwards; one that got none keeps `None`.
    """
    if accelerator.num_processes > 1:
        has = torch.tensor([float(p.grad is not None) for p in parameters], device=accelerator.device)
        dist.all_reduce(has, dist.ReduceOp.MAX)
        for p, somewhere in zip(parameters, has.tolist(), strict=True):
            if somewhere and p.grad is None:
                p.grad = torch.zeros_like(p)
    gradients = [p.grad for p in parameters if p.grad is not None]
    if accelerator.num_processes > 1:
        for bucket in _buckets(gradients):
            flat = torch.cat([g.reshape(-1) for g in bucket])
            dist.all_reduce(flat)
            for g, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                g.copy_(part.view_as(g))
    if gradients and accumulation * accelerator.num_processes > 1:
        torch._foreach_div_(gradients, accumulation * accelerator.num_processes)


def same_everywhere(tensors: Sequence[Tensor], accelerator: Accelerator) -> None:
    """Copy the main process's values to all processes; each may have built its model with other random numbers."""
    if accelerator.num_processes > 1:
        for tensor in tensors:
            dist.broadcast(tensor.data, src=0)


def agree(accelerator: Accelerator, *wishes: bool) -> tuple[bool, ...]:
    """True for each wish that any process has: clocks differ, and a signal may reach only one process."""
    if accelerator.num_processes == 1:
        return wishes
    flags = torch.tensor([float(w) for w in wishes], device=accelerator.device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return tuple(bool(flag) for flag in flags.tolist())


def on_main(accelerator: Accelerator, function: Callable[[], R]) -> R:
    """Run `function` in the main process and give its result to all. If it fails, all processes fail."""
    if accelerator.num_processes == 1:
        return function()
    box: list[Any] = [None, None]
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            box[0] = function()
        except Exception as error:
            failure, box[1] = error, f"{error}"
    broadcast_object_list(box)
    if failure is not None:
        raise failure
    if box[1] is not None:
        raise LongalignError(box[1])
    return box[0]


def on_main_only(accelerator: Accelerator, function: Callable[[], Any]) -> Any:
    """Run `function` in the main process; its result there, None elsewhere. If it fails, all processes fail."""
    box: list[Any] = []
    on_main(accelerator, lambda: box.append(function()))
    return box[0] if box else None


class Means:
    """Means of metrics over micro-batches, steps and processes. Values stay on their device until `gather`."""

    def __init__(self, state: dict[str, list[float]] | None = None) -> None:
        self.sums: dict[str, list[Any]] = {name: list(pair) for name, pair in (state or {}).items()}

    def add(self, metrics: dict[str, Any]) -> None:
        for name, value in metrics.items():
            pair = self.sums.setdefault(name, [0.0, 0.0])
            pair[0] = pair[0] + (value.detach() if isinstance(value, Tensor) else value)
            pair[1] += 1

    def merge(self, other: Means) -> None:
        for name, (total, count) in other.sums.items():
            pair = self.sums.setdefault(name, [0.0, 0.0])
            pair[0], pair[1] = pair[0] + total, pair[1] + count

    def gather(self, accelerator: Accelerator) -> dict[str, list[float]]:
        """Name → [sum, count] over all processes; every process has to call this. `Means(state)` restores it."""
        own = {name: [float(total), count] for name, (total, count) in self.sums.items()}
        if accelerator.num_processes == 1:
            return own
        whole = Means()
        for state in gather_object([own]):
            whole.merge(Means(state))
        return whole.sums


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Groups of consecutive tensors of one dtype and device, of at most `BUCKET_NUMBERS` numbers."""
    buckets: list[list[Tensor]] = []
    size = 0
    for t in tensors:
        fits = buckets and size + t.numel() <= BUCKET_NUMBERS
        if fits and (buckets[-1][-1].dtype, buckets[-1][-1].device) == (t.dtype, t.device):
            buckets[-1].append(t)
            size += t.numel()
        else:
            buckets.append([t])
            size = t.numel()
    return buckets


def leave_group() -> None:
    """Wait for the other processes and leave the process group; call this last.

    Left to the interpreter's exit, a process whose peer is gone already may abort (gloo, seen once on a busy
    machine).
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
