"""Two processes give what one gives, and end together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from line_objective import line_recipe

from longalign.training import fit
from longalign.training.checkpoint import read_parts
from longalign.training.processes import Means, _buckets

HERE = Path(__file__).parents[1] / "helpers"

WORKER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from line_objective import LineObjective, line_recipe, registered
from longalign.errors import LongalignError
from longalign.training import fit
from longalign.training.loop import _resume
from longalign.training.processes import average_gradients, make_accelerator, leave_group
from pathlib import Path
import torch

os.environ["ACCELERATE_USE_CPU"] = "true"
out, said = sys.argv[2], {}
with registered():
    best = {"metric": "score", "mode": "max"}
    watched = {"line__samples": 1, "line__peak": 1, "train__evaluate_every": 1, "train__best": best}
    made = fit(line_recipe(train__steps=3, train__micro_batch_size=1, **watched), out + "/two")
    said["fit"] = [made.step, made.metrics["loss"], made.metrics["rows"]]
    said["best"] = [made.best.step, str(made.model)]
    # There is no room for two rows in the second process alone: both take one.
    LineObjective.room = 1 if os.environ["RANK"] == "1" else None
    fit(line_recipe(train__steps=3, train__micro_batch_size="auto"), out + "/auto")
    LineObjective.room = None
    # A signal that reaches the second process alone stops both after the same step.
    at = 2 if os.environ["RANK"] == "1" else None
    stopped = fit(line_recipe(line__signal_at=at, train__micro_batch_size=1), out + "/" + "stopped")
    said["stopped"] = [stopped.step, stopped.stopped]
    for name, recipe in {"refused": line_recipe(train__lr=0.7, **watched), "uneven": line_recipe(train__batch_size=5, train__micro_batch_size=None)}.items():
        try:
            fit(recipe, out + "/two")
        except LongalignError as error:
            said[name] = str(error)
p, q = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
if os.environ["RANK"] == "1":
    p.grad = torch.ones(2)
average_gradients([q, p], make_accelerator("no"), 2)
# A disk that the second machine does not see.
try:
    seen = "/two/checkpoints/step-00000003" if os.environ["RANK"] == "0" else "/elsewhere"
    _resume(Path(out + seen), None, None, make_accelerator("no"))
except LongalignError as error:
    said["apart"] = str(error).split(": ", 1)[1]
said["gradients"] = [None if t.grad is None else t.grad.tolist() for t in (p, q)]
print(json.dumps(said))
leave_group()
"""  # noqa: E501


def two(out: Path) -> list[dict[str, object]]:
    """What two gloo processes that run `WORKER` print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(HERE), str(out)],
            env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    try:
        ends = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], ends
    return [json.loads(out.splitlines()[-1]) for out, _ in ends]


@pytest.mark.slow  # two more interpreters that load torch
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """Steps of 4 rows: one process takes 2 × 2 of them, two take 2 × 1 each. Weights, moments and mean loss agree to
    rounding in float64 after 3 steps; `rows` is the mean of micro-batches of 1. What stops or refuses one process
    does so to both.
    """
    said = two(tmp_path)
    one = fit(line_recipe(train__steps=3), tmp_path / "one")
    assert said[0] == said[1]
    assert said[0]["fit"][0] == 3 and said[0]["fit"][2] == 1.0  # type: ignore[index]
    assert abs(said[0]["fit"][1] / one.metrics["loss"] - 1) < 1e-9  # type: ignore[index]
    a, b = (read_parts(tmp_path / name / "checkpoints" / "step-00000003") for name in ("one", "two"))
    for part in ("modules", "optimizer"):
        assert a[part].keys() == b[part].keys()
        assert all(torch.allclose(a[part][name], b[part][name], rtol=1e-9, atol=0) for name in a[part])
    # Each process sees 2 rows a step and the score is −(rows/4 − 1)²: best after step 2, says the main one for both.
    assert said[0]["best"] == [2, str(tmp_path / "two" / "model")]
    assert len(list((tmp_path / "two" / "samples").glob("*/00.png"))) == 3
    assert json.loads((tmp_path / "auto" / "batching.json").read_text()) == {
        "micro_batch_size": 1,
        "processes": 2,
    }
    found = read_parts(tmp_path / "auto" / "checkpoints" / "step-00000003")["modules"]
    assert all(torch.equal(found[name], b["modules"][name]) for name in found)
    # A gradient of 1 in one of two processes, for two micro-batches: 1/4 in both; no gradient stays none.
    assert said[0]["gradients"] == [[0.25, 0.25], None]
    # Two micro-batches a step: call 2 of the second process is in its second step.
    assert said[0]["stopped"] == [2, "signal"]
    assert "differ in train.micro_batch_size, train.lr." in str(said[0]["refused"])
    assert "batch_size 5 is not a multiple of 2 processes" in str(said[0]["uneven"])
    assert "not every process finds it. With several machines --out has to lie" in str(said[0]["apart"])


def test_buckets_hold_one_type_and_no_more_than_fits(monkeypatch: object) -> None:
    """With room for 10 numbers: 4 + 4 go together, then 4 and 11 alone, and float32 never with float64."""
    import longalign.training.processes as processes

    sizes = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4), torch.zeros(11), torch.zeros(1).double()]
    before, processes.BUCKET_NUMBERS = processes.BUCKET_NUMBERS, 10
    try:
        assert [[t.numel() for t in bucket] for bucket in _buckets(sizes)] == [[4, 4], [4], [11], [1]]
    finally:
        processes.BUCKET_NUMBERS = before


def test_means_can_be_taken_up_again() -> None:
    """(1 + 2)/2 and then (1 + 2 + 6)/3, with a metric that is not always there."""
    means = Means()
    means.add({"loss": torch.tensor(1.0), "rare": 5.0})
    means.add({"loss": 2.0})
    state = json.loads(json.dumps({name: [float(total), n] for name, (total, n) in means.sums.items()}))
    again = Means(state)
    again.add({"loss": 6.0})
    assert {name: total / n for name, (total, n) in again.sums.items()} == {"loss": 3.0, "rare": 5.0}
