"""Work by Ray Data: it schedules blocks over actors, restarts lost ones and repeats their blocks."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from longalign.engine.where import Engine
from longalign.engine.work import Work
from longalign.errors import LongalignError

_TASKS = 10_000  # most tasks of a run: Ray keeps some kilobytes of each
_WATCH_S = 5.0
log = logging.getLogger("longalign.engine")


class Actor:
    """A process that has opened the work. Ray Data makes it and calls it with numbers of blocks.

    Args:
        pickled: the work.
        folder: the driver's working folder, which relative paths are of.
    """

    def __init__(self, pickled: bytes, folder: str) -> None:
        with suppress(OSError):  # another machine may not have it; its paths are then absolute or URLs
            os.chdir(folder)
        self.work: Work = pickle.loads(pickled)  # of our own driver
        self.error: str | None = None
        try:
            self.work.open()
        except LongalignError as error:  # a constructor that raises would be tried again for ever
            self.error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Does blocks. A user's error is a result: Ray would repeat the task and print its traceback."""
        import numpy as np

        rows, errors = [], []
        for block in batch["block"].tolist():
            error, done = self.error, 0
            if error is None:
                try:
                    done = 0 if self.work.has(block) else self.work.do(block)
                except LongalignError as problem:
                    error = str(problem)
            rows.append(done)
            errors.append(error or "")
        return {"block": batch["block"], "rows": np.array(rows, np.int64), "error": np.array(errors, object)}


def run_on_ray(
    work: Work,
    missing: Sequence[int],
    engine: Engine,
    on_rows: Callable[[int], None] = lambda rows: None,
    on_block: Callable[[int], None] = lambda block: None,
) -> None:
    """Does blocks by actors of Ray.

    Args:
        work: what is done.
        missing: the blocks.
        engine: how many actors, and how large.
        on_rows, on_block: as of `run_work`.

    Raises:
        LongalignError: as of `run_work`.
    """
    ray = import_ray()
    import pyarrow as pa

    started = join(ray)
    try:
        workers, gpus = room(ray, engine)
        _quiet(ray)
        # Tables that are there already: reading or repartitioning would need a core, and the actors may have them all.
        at_once = -(-len(missing) // _TASKS)
        tables = [
            pa.table({"block": pa.array(missing[i : i + at_once], pa.int64())})
            for i in range(0, len(missing), at_once)
        ]
        done = ray.data.from_arrow(tables).map_batches(
            Actor,
            fn_constructor_args=(pickle.dumps(work), os.getcwd()),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=engine.cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=-1,
        )
        with _watched(ray):
            for result in done.iter_batches(batch_size=None, prefetch_batches=0):
                if problems := [error for error in result["error"].tolist() if error]:
                    raise LongalignError(problems[0])
                on_rows(int(result["rows"].sum()))
                for block in result["block"].tolist():
                    on_block(block)
    except ray.exceptions.RayError as error:
        raise LongalignError(
            f"Ray stopped: {_last_line(error)}. What is finished stays: the same command goes on with the rest"
        ) from error
    finally:
        if started:
            ray.shutdown()


def import_ray() -> Any:
    """Ray, with Ray Data.

    Raises:
        LongalignError: it is not installed.
    """
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # lines of its C++ code that no user can act on
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of its next version
    try:
        import ray
        import ray.data
    except ImportError:
        raise LongalignError(
            "--on ray: Ray is not installed: pip install 'longalign[ray]' (or leave it out: --on local)"
        ) from None
    return ray


def join(ray: Any) -> bool:
    """Joins the cluster of ``RAY_ADDRESS``, or starts Ray on this machine.

    Args:
        ray: the package.

    Returns:
        Whether this call joined: False where the program was connected already.

    Raises:
        LongalignError: nothing answers at the address.
    """
    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address:
            ray.init(address=address, **options)
        else:
            ray.init(include_dashboard=False, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise LongalignError(
            f"Ray cannot be reached at RAY_ADDRESS={address}: {_last_line(error)}. Start it (ray start --head), "
            "or unset RAY_ADDRESS to start one on this machine"
            if address
            else f"Ray cannot be started: {_last_line(error)}"
        ) from None
    return True


def room(ray: Any, engine: Engine) -> tuple[int, float]:
    """How many actors, and GPUs of each.

    Args:
        ray: the package, connected.
        engine: what is wanted.

    Raises:
        LongalignError: no machine of the cluster has room for one actor.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_gpus = sum(node.get("GPU", 0) for node in nodes)
    gpus = float(on_gpus > 0) if engine.gpus is None else engine.gpus

    def actors(node: dict[str, float]) -> int:
        by_cpu = node.get("CPU", 0) / engine.cpus if engine.cpus else float("inf")
        return int(min(by_cpu, node.get("GPU", 0) / gpus) if gpus else by_cpu)

    possible = sum(map(actors, nodes))
    if not possible:
        raise LongalignError(
            f"no machine of the Ray cluster has {engine.cpus:g} CPUs and {gpus:g} GPUs for a worker; it has "
            + "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        )
    return min(engine.workers or possible, possible), gpus


def _quiet(ray: Any) -> None:
    """The command has its own progress bar, and says what matters of the cluster."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _watched(ray: Any) -> Iterator[None]:
    """Warns when a machine leaves the cluster; Ray gives its blocks to others."""
    ended = threading.Event()

    def alive() -> set[str]:
        return {
            node["NodeManagerAddress"] + " " + node["NodeID"][:8] for node in ray.nodes() if node["Alive"]
        }

    def watch() -> None:
        known = alive()
        while not ended.wait(_WATCH_S):
            with suppress(Exception):  # the connection may end while this thread asks
                now = alive()
                for node in sorted(known - now):
                    log.warning("the machine %s left the Ray cluster; others do its blocks", node)
                if not now:
                    log.warning("the Ray cluster has no machine left; the run waits for one")
                known = now

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
