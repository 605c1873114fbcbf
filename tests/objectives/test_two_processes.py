"""What is drawn, and so what is learned, depends on neither the number of processes nor the size of micro-batches."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_objectives
import torch
from tiny_objectives import RUNS, states
from two_processes import two

from longalign.objectives.random_draws import Draws, normal, uniform


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.dtype == torch.float64
    return float((a - b).norm() / b.norm())


@pytest.mark.slow  # two more interpreters that load torch
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """Steps of 4 rows: one process takes them at once, two take 2 × 1 each. Weights and moments after each of 8 steps
    agree within 1e-6; after the first step the moments are the gradient and its square, times constants.
    """
    names = ("supervised", "reward", "buckets")
    two(tiny_objectives.__file__, "8", str(tmp_path / "two"), *names, timeout_s=400)
    for name in names:
        one = states(name, tmp_path / "one" / name, steps=8)
        both = tiny_objectives.saved(tmp_path / "two" / name)
        assert len(one) == len(both) == 8
        assert max(apart(b, a) for a, b in zip(one, both, strict=True)) < 1e-6
        assert apart(one[1], one[0]) > 1e-4  # and the steps are not all the same


@pytest.mark.parametrize("name", RUNS)
def test_micro_batches_change_nothing_and_neither_does_a_break(name: str, tmp_path: Path) -> None:
    """4 rows at once, or one by one: the same up to rounding. The second step taken again: bit for bit."""
    out = tmp_path / "whole"
    whole = states(name, out, steps=2)
    assert len(whole) == 2
    assert apart(states(name, tmp_path / "parts", steps=2, micro_batch_size=1)[1], whole[1]) < 1e-9
    shutil.rmtree(max((out / "checkpoints").iterdir()))
    again = states(name, out, steps=2)
    assert len(again) == 2 and torch.equal(again[1], whole[1])


@pytest.mark.slow  # two more interpreters that load torch
def test_buckets_killed_and_resumed_end_bit_for_bit(tmp_path: Path) -> None:
    """7 steps of 4 pictures of three shapes, of which some are mirrored; killed after steps 2 and 5, each time with a
    checkpoint of the step before. The last run goes on from step 4 and ends as an undisturbed one does.
    """
    whole = states("buckets", tmp_path / "whole", steps=7, micro_batch_size=1)
    command = [sys.executable, tiny_objectives.__file__, "7", str(tmp_path), "buckets"]
    out = tmp_path / "buckets"
    for step in (2, 5):
        killed = subprocess.run(
            command, env={**os.environ, "KILLED_AFTER": str(step)}, capture_output=True, timeout=200
        )
        assert killed.returncode == -signal.SIGKILL
        newest = max((out / "checkpoints").iterdir())
        assert newest.name == f"step-{step - 1:08d}"
    resumed = states("buckets", out, steps=7, micro_batch_size=1)
    assert len(resumed) == len(whole) == 7
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole, strict=True))


def test_rows_have_their_own_numbers() -> None:
    """Row 2 of a batch of 4 is row 0 of the micro-batch that begins there. Other steps and seeds draw others."""
    whole, part = Draws(7, 5, 0, 4), Draws(7, 5, 2, 4)
    assert torch.equal(normal(whole.rows(4), 3)[2:], normal(part.rows(2), 3))
    assert torch.equal(uniform(whole.rows(4))[2:], uniform(part.rows(2)))
    assert torch.equal(torch.rand(3, generator=whole.common()), torch.rand(3, generator=part.common()))
    drawn = [normal(d.rows(2), 3) for d in (whole, part, Draws(7, 6, 0, 4), Draws(8, 5, 0, 4))]
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    assert len({float(v) for v in drawn[0].flatten()}) == 6


def test_stratified_times_over_the_whole_batch() -> None:
    """3 micro-batches of 2 rows, each noised twice: the 12 times lie one in each twelfth."""
    found = []
    for first in (0, 2, 4):
        draws = Draws(1, 9, first, 6)
        found.append(draws.stratified(2, 2, draws.common()))
    u = torch.cat(found)
    assert sorted((12 * u).long().tolist()) == list(range(12)) and (12 * u).long().tolist() != list(range(12))
    assert torch.equal(u, Draws(1, 9, 0, 6).stratified(6, 2, Draws(1, 9, 0, 6).common()))


def test_without_a_loop_numbers_come_from_torch() -> None:
    torch.manual_seed(4)
    first, second = Draws.now(2), Draws.now(2)
    torch.manual_seed(4)
    assert Draws.now(2) == first != second
