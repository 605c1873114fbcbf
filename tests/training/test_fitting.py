"""`train.micro_batch_size: auto`: a trial finds what fits, and changes nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from line_objective import LineObjective, line_recipe
from line_runs import rows, same_end

from longalign.errors import LongalignError
from longalign.training import fit, plan
from longalign.training import step as fitting
from longalign.training.processes import make_accelerator
from longalign.training.recipe import Recipe
from longalign.training.step import build_task


def auto(**values: Any) -> Recipe:
    return line_recipe(train__micro_batch_size="auto", line__dropout=0.5, **values)


def test_micro_batches_are_halved_until_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 4 rows, and room for 1: 4 and 2 fail. The run is that of micro-batches of 1 then, bit for bit, dropout
    and the objective's count of rows too: the trial left no trace.
    """
    monkeypatch.setattr(LineObjective, "room", 1)
    fit(auto(), tmp_path / "auto")
    fit(line_recipe(train__micro_batch_size=1, line__dropout=0.5), tmp_path / "one")
    assert same_end(tmp_path / "auto", tmp_path / "one") and rows(tmp_path / "auto") == rows(tmp_path / "one")
    noted = json.loads((tmp_path / "auto" / "batching.json").read_text())
    assert noted == {"micro_batch_size": 1, "processes": 1}
    assert "4 = 1 row × 1 process × 4 micro-batches" in (tmp_path / "auto" / "report.html").read_text()
    assert not (tmp_path / "one" / "batching.json").exists()


def test_a_resumed_run_keeps_the_size_that_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found with room for 2, resumed with room for all: still 2, and the end of an undisturbed run."""

    def stop(done: int, row: Any) -> None:
        if done == 3:
            raise KeyError("a lamp fell")

    monkeypatch.setattr(LineObjective, "room", 2)
    given = auto(train__checkpoint_every_steps=2)
    fit(given, tmp_path / "whole")
    with pytest.raises(KeyError):
        fit(given, tmp_path / "run", on_step=stop)
    monkeypatch.setattr(LineObjective, "room", None)
    assert fit(given, tmp_path / "run").resumed_from == 2
    assert same_end(tmp_path / "whole", tmp_path / "run") and rows(tmp_path / "whole") == rows(
        tmp_path / "run"
    )
    (tmp_path / "run" / "batching.json").write_text(
        '{"micro_batch_size": 3}'
    )  # comes out uneven: found again
    fit(auto(train__checkpoint_every_steps=2, train__steps=7), tmp_path / "run")
    assert fitting.recorded(tmp_path / "run") == 4
    (tmp_path / "run" / "batching.json").write_text("{")
    assert fitting.recorded(tmp_path / "run") is None


def test_the_trial_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    given, accelerator = auto(), make_accelerator("no")
    task, weights = build_task(given, accelerator)
    weights.buffers["line.count"] = torch.zeros(1)
    backward = LineObjective.backward

    def counting(self: Any, batch: Any, accelerator: Any) -> Any:
        weights.buffers["line.count"] += 1
        return backward(self, batch, accelerator)

    monkeypatch.setattr(LineObjective, "backward", counting)
    before = {name: p.detach().clone() for name, p in weights.parameters.items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for room, size in ((None, 4), (3, 2)):
        monkeypatch.setattr(LineObjective, "room", room)
        found = fitting.settle_batching(given, task, weights, accelerator)
        assert (found.micro_batch_size, found.accumulation) == (size, 4 // size)
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in weights.parameters.items())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert task.objective.state_dict()["seen"] == 0 and weights.buffers["line.count"] == 0
    assert not weights.optimizer.state


def test_all_processes_take_what_fits_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here everything fits; another process says once that it does not."""
    given, accelerator = auto(), make_accelerator("no")
    task, weights = build_task(given, accelerator)
    others = iter([True, False])
    monkeypatch.setattr(fitting, "agree", lambda accelerator, mine: (mine or next(others),))
    assert fitting.settle_batching(given, task, weights, accelerator).micro_batch_size == 2


def test_a_trial_waits_for_nobody() -> None:
    """What an objective would sum over processes stays its own part."""
    accelerator = make_accelerator("no")
    alone = fitting.Alone(accelerator)
    accelerator.reduce = accelerator.gather = None
    assert (
        alone.reduce(torch.ones(2), reduction="sum").tolist()
        == [1.0, 1.0]
        == alone.gather(torch.ones(2)).tolist()
    )
    assert alone.num_processes == 1 and alone.device == accelerator.device


def test_nothing_fits_or_something_else_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineObjective, "room", 0)
    with pytest.raises(LongalignError, match="not even one row fits"):
        fit(auto(), tmp_path / "run")
    assert not (tmp_path / "run").exists()

    def broken(self: Any, batch: Any, accelerator: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(LineObjective, "backward", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        fit(auto(), tmp_path / "run")


def test_out_of_memory_later_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for all until step 2, and then for one row alone."""

    def shrink(done: int, row: Any) -> None:
        LineObjective.room = None if done < 2 else 1

    monkeypatch.setattr(LineObjective, "room", None)
    with pytest.raises(
        LongalignError, match=r"step 2: .* of 2 rows do not fit.*lower train.micro_batch_size"
    ):
        fit(line_recipe(), tmp_path / "run", on_step=shrink)
    LineObjective.room = None
    with pytest.raises(LongalignError, match=r"write a smaller number into .*batching\.json"):
        fit(auto(), tmp_path / "auto", on_step=shrink)


def test_a_plan_finds_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineObjective, "room", 2)
    assert plan(auto()).batching.micro_batch_size == 2
