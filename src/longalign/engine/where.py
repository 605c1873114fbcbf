"""Where work is done."""

from __future__ import annotations

from dataclasses import dataclass

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
