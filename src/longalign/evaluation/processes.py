"""Several processes of one evaluation, as `accelerate launch` starts them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from longalign.errors import LongalignError


@dataclass(frozen=True)
class Shard:
    """Which blocks a process draws and measures: block number ≡ index (mod count)."""

    index: int = 0
    count: int = 1

    def of(self, blocks: int) -> list[int]:
        """Its blocks.

        Args:
            blocks: how many there are.
        """
        return list(range(self.index, blocks, self.count))


def processes() -> int:
    """How many processes `accelerate launch` or torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Is this the process that makes the folder and writes the results?"""
    return os.environ.get("RANK", "0") == "0"


def of_this_process(shard: Shard) -> Shard:
    """The part of this process within a shard.

    Args:
        shard: of the machine.
    """
    count, rank = processes(), int(os.environ.get("RANK", "0"))
    return Shard(shard.index * count + rank, shard.count * count)


def wait_for_all() -> None:
    """Returns when all processes have come here.

    Raises:
        LongalignError: the processes that were started do not know of each other.
    """
    if processes() == 1:
        return
    import torch
    from accelerate import PartialState

    # Without a GPU accelerate makes no process group unless it is told of the CPU: then nobody would wait.
    cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    state = PartialState(cpu=cpu or not torch.accelerator.is_available())
    if state.num_processes != processes():
        raise LongalignError(
            f"{processes()} processes were started, and accelerate knows of {state.num_processes}: start them by "
            "accelerate launch"
        )
    state.wait_for_everyone()
