"""Does the blocks of a `Work`: here, or by Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from longalign.engine.work import Work
from longalign.errors import LongalignError

ON = ("local", "ray")


@dataclass(frozen=True)
class Engine:
    """Where work is done.

    Attributes:
        on: ``local``: in this process. ``ray``: by actors of Ray, on the cluster of ``RAY_ADDRESS``, or else on a Ray
            that is started on this machine.
        workers: how many actors; None: one a GPU of the cluster, or where there is none, one for each ``cpus``.
        cpus: cores of each actor.
        gpus: GPUs of each actor; None: one, where the cluster has any.

    Raises:
        LongalignError: an unknown ``on``; workers without Ray; fewer than one.
    """

    on: str = "local"
    workers: int | None = None
    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.on not in ON:
            raise LongalignError(f"--on {self.on}: work is done on one of {', '.join(ON)}")
        if self.workers is not None and self.workers < 1:
            raise LongalignError(f"{self.workers} workers: at least one is needed")
        if self.on == "local" and self.workers not in (None, 1):
            raise LongalignError(f"{self.workers} workers need --on ray: --on local is this process alone")


def run_work(
    work: Work, engine: Engine | None = None, on_rows: Callable[[int], None] = lambda rows: None
) -> None:
    """Does the blocks whose parts are not there yet.

    Args:
        work: what is done.
        engine: where; None: in this process.
        on_rows: called with the number of rows of each block that was finished.

    Raises:
        LongalignError: a block cannot be done, here or by a worker; Ray is wanted and not installed; the cluster has no
            room for a worker. What was finished stays, and the same call goes on.
    """
    engine = engine or Engine()
    missing = [block for block in range(work.blocks) if not work.has(block)]
    if not missing:
        return
    if engine.on == "ray":
        from longalign.engine.on_ray import run_on_ray

        run_on_ray(work, missing, engine, on_rows)
        return
    work.open()
    for block in missing:
        on_rows(work.do(block))
