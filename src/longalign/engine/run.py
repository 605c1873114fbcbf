"""Does the blocks of a `Work`: here, or by Ray."""

from __future__ import annotations

from collections.abc import Callable

from longalign.engine.where import Engine
from longalign.engine.work import Work


def run_work(
    work: Work,
    engine: Engine | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
    on_block: Callable[[int], None] = lambda block: None,
) -> None:
    """Does the blocks whose parts are not there yet.

    Args:
        work: what is done.
        engine: where; None: in this process.
        on_rows: called with the number of rows of each block that was finished.
        on_block: called with the number of each block that was finished; what it raises ends the run.

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

        run_on_ray(work, missing, engine, on_rows, on_block)
        return
    work.open()
    for block in missing:
        on_rows(work.do(block))
        on_block(block)
