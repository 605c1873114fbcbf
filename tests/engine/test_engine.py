"""Work in blocks, in this process and by Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from counting_work import Squares

from longalign.engine import Engine, block_count, block_rows, run_work
from longalign.errors import LongalignError

SQUARES = [i * i for i in range(10)]


def done_by(folder: Path) -> list[tuple[int, int]]:
    """Block and process of each line of the log."""
    return [
        (int(b), int(p))
        for b, p in (line.split() for line in (folder / "done.log").read_text().split("\n") if line)
    ]


def test_rows_of_blocks() -> None:
    """10 rows in blocks of 3 are 4 blocks, the last of 1 row."""
    assert block_count(3, 10) == 4
    assert block_count(5, 10) == 2
    assert [list(block_rows(b, 3, 10)) for b in range(4)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_local_work_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    """Blocks 0 and 1 are done, block 2 is refused; then the same work does 2 and 3, and nothing twice."""
    seen: list[int] = []
    with pytest.raises(LongalignError, match="block 2 is refused"):
        run_work(Squares(str(tmp_path), refused=2), on_rows=seen.append)
    assert seen == [3, 3]
    work = Squares(str(tmp_path))
    run_work(work, on_rows=seen.append)
    assert seen == [3, 3, 3, 1]
    assert work.result() == SQUARES
    assert [block for block, _ in done_by(tmp_path)] == [0, 1, 2, 3]
    run_work(Squares(str(tmp_path), opens=False))  # nothing is left, so nothing is opened


def test_wrong_engines() -> None:
    with pytest.raises(LongalignError, match="one of local, ray"):
        Engine(on="spark")
    with pytest.raises(LongalignError, match="need --on ray"):
        Engine(workers=2)
    with pytest.raises(LongalignError, match="at least one"):
        Engine("ray", workers=0)


def test_without_ray_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LongalignError, match=r"pip install 'longalign\[ray\]'"):
        run_work(Squares(str(tmp_path)), Engine("ray"))


def test_local_work_does_not_import_ray(tmp_path: Path) -> None:
    code = (
        "import sys; from counting_work import Squares; from longalign.engine import run_work; "
        f"run_work(Squares({str(tmp_path)!r})); assert 'ray' not in sys.modules"
    )
    helpers = Path(__file__).parents[1] / "helpers"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(helpers), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


# A node that is gone is noticed after some seconds, not after a minute.
_NOTICE = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}
_HEAD = {"num_cpus": 1, "include_dashboard": False, "_system_config": _NOTICE}


@pytest.fixture(scope="module")
def cluster():
    """Ray on two nodes of one CPU each, in this machine."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    helpers = str(Path(__file__).parents[1] / "helpers")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([helpers, *sys.path])
    found = Cluster(initialize_head=True, head_node_args=_HEAD)
    found.add_node(num_cpus=1)
    ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
    yield found
    ray.shutdown()
    found.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.mark.slow
def test_ray_gives_the_same(cluster, tmp_path: Path) -> None:
    """Two actors on two nodes do twelve blocks: each once, none by this process; then nothing is left."""
    work = Squares(str(tmp_path), total=36, seconds=0.2)
    seen: list[int] = []
    run_work(work, Engine("ray", workers=2, cpus=1), on_rows=seen.append)
    assert work.result() == [i * i for i in range(36)]
    assert sum(seen) == 36
    done = done_by(tmp_path)
    assert sorted(block for block, _ in done) == list(range(12))
    assert len({process for _, process in done}) == 2
    assert os.getpid() not in {process for _, process in done}


@pytest.mark.slow
def test_errors_of_workers_are_told(cluster, tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="block 1 is refused"):
        run_work(Squares(str(tmp_path), refused=1), Engine("ray", workers=1))
    with pytest.raises(LongalignError, match="there is no such model"):
        run_work(Squares(str(tmp_path), opens=False), Engine("ray", workers=1))
    with pytest.raises(LongalignError, match="no machine of the Ray cluster has 3 CPUs and 0 GPUs"):
        run_work(Squares(str(tmp_path)), Engine("ray", cpus=3))


@pytest.mark.slow
def test_killed_workers_lose_nothing(cluster, tmp_path: Path) -> None:
    """A worker is killed by SIGKILL after its first block, and another one later: the result is whole.

    A killed worker's block is done again by another process, so blocks may stand twice in the log, but each part is
    written whole and once.
    """
    work = Squares(str(tmp_path), total=60, seconds=0.3)
    killed: list[int] = []

    def kill() -> None:
        while len(killed) < 2:
            time.sleep(1.0)
            if (tmp_path / "done.log").is_file():
                process = done_by(tmp_path)[-1][1]
                if process not in killed:
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    run_work(work, Engine("ray", workers=2))
    thread.join(10)
    assert len(killed) == 2
    assert work.result() == [i * i for i in range(60)]
    assert len({process for _, process in done_by(tmp_path)}) >= 3


@pytest.mark.slow
def test_a_node_that_leaves_is_told_and_its_blocks_are_done(
    cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second node is taken away after some blocks: the first one's worker does the rest."""
    import longalign.engine.on_ray as on_ray

    monkeypatch.setattr(on_ray, "_WATCH_S", 0.5)
    node = cluster.add_node(num_cpus=1)
    work = Squares(str(tmp_path), total=60, seconds=0.4)

    def leave() -> None:
        while not (tmp_path / "done.log").is_file() or len(done_by(tmp_path)) < 4:
            time.sleep(0.2)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=leave, daemon=True)
    thread.start()
    with caplog.at_level("WARNING", logger="longalign.engine"):
        run_work(work, Engine("ray", workers=3))
    thread.join(10)
    assert work.result() == [i * i for i in range(60)]
    assert "left the Ray cluster; others do its blocks" in caplog.text
