"""Several processes of one evaluation, as `accelerate launch` starts them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longalign.evaluation.evaluate import Shard


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
    from longalign.evaluation.evaluate import Shard

    count, rank = processes(), int(os.environ.get("RANK", "0"))
    return Shard(shard.index * count + rank, shard.count * count)


def wait_for_all() -> None:
    """Returns when all processes have come here."""
    if processes() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
