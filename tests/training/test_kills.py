"""Processes that are killed, that get no room on the disk, and that are told to stop: nothing of the result is lost."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from line_objective import recipe
from line_runs import NOISY, rows, same_end
from meddled import STEP_S, command, killed_after, run

from longalign.training.checkpoint import newest_checkpoint, read_state

# Of 9 steps: checkpoints at 3, 6 and 9, of which two stay.
RUN = {**NOISY, "train__checkpoint_every_steps": 3}
OFTEN = {**NOISY, "train__checkpoint_every_steps": 1}  # changes no step


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run."""
    out = tmp_path_factory.mktemp("kills") / "whole"
    assert run(RUN, out).said["step"] == 9
    return out


def newest_step(out: Path) -> int:
    """Of a checkpoint that is whole."""
    found = newest_checkpoint(out / "checkpoints")
    return 0 if found is None else int(read_state(found)["step"])


def test_three_kills_at_random_moments(whole: Path, tmp_path: Path) -> None:
    """From outside, up to two steps' time after steps 1–2, 3–5 and 6–7, while every step writes a checkpoint."""
    out, draw = tmp_path / "run", random.Random(4)
    for first, last in ((1, 2), (3, 5), (6, 7)):
        at = max(draw.randint(first, last), newest_step(out))  # it goes on from there, and says so
        assert killed_after(OFTEN, out, at, draw.uniform(0, 2 * STEP_S)) == -signal.SIGKILL
    assert run(OFTEN, out).said["step"] == 9
    assert same_end(whole, out) and rows(whole) == rows(out)


def test_kills_while_a_checkpoint_is_written(whole: Path, tmp_path: Path) -> None:
    """One folder, killed again and again while step 6 or 9 is being saved; at last it is left alone.

    Until the checkpoint gets its name the one before is the newest; from then on it is that one, also while the oldest
    is being removed.
    """
    out = tmp_path / "run"
    for before, newest in (
        (r"open /checkpoints/\.step-00000006-\w+/\.optimizer", 3),  # tensors written, not flushed
        (r"os.rename /checkpoints/\.step-00000006-\w+/\.state", 3),
        (r"os.rename /checkpoints/\.step-00000006-\w+$", 3),  # all but the name
        (r"os.rmdir /checkpoints/step-00000003", 9),
    ):
        killed = run(RUN, out, "kill", before)
        assert killed.done and killed.status == -signal.SIGKILL and not killed.said
        assert newest_step(out) == newest
    ended = run(RUN, out).said
    assert (ended["resumed_from"], ended["warnings"]) == (9, [])
    assert same_end(whole, out) and rows(whole) == rows(out)


def test_a_disk_that_is_full_at_any_write(whole: Path, tmp_path: Path) -> None:
    """Each refusal is told in one line, leaves the checkpoint before, and the same command goes on from there."""
    out = tmp_path / "run"
    for before, newest in (
        (r"os.mkdir /checkpoints/\.step-00000003", 0),
        (r"open /checkpoints/\.step-00000006-\w+/\.modules", 3),
        (r"open /checkpoints/\.step-00000006-\w+/\.state", 3),
        (r"open /metrics.jsonl", 3),
        (r"os.mkdir /\.model", 9),
        (r"open /\.report", 9),
    ):
        refused = run(RUN, out, "full", before)
        assert refused.done and refused.status == 0, before
        assert "Cannot write" in refused.said["error"] and "\n" not in refused.said["error"]
        assert "o space left on" in refused.said["error"]
        assert newest_step(out) == newest
        assert not list(out.glob(".*")) and not list((out / "checkpoints").glob(".*"))
    assert run(RUN, out).said["resumed_from"] == 9
    assert same_end(whole, out) and rows(whole) == rows(out)
    assert (out / "model" / "line.pt").is_file() and (out / "report.html").is_file()


def test_sigterm_while_a_checkpoint_is_written(whole: Path, tmp_path: Path) -> None:
    """It is written to its end; the signal is seen after the next step, 4, which is saved too."""
    out = tmp_path / "run"
    stopped = run(RUN, out, "term", r"os.rename /checkpoints/\.step-00000003-\w+$")
    assert (stopped.status, stopped.said["stopped"], stopped.said["step"]) == (0, "signal", 4)
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]
    assert run(RUN, out).said["resumed_from"] == 4
    assert same_end(whole, out) and rows(whole) == rows(out)


def test_sigterm_from_outside_saves_and_exits_with_1(tmp_path: Path) -> None:
    """`longalign train` of a million steps, told to stop when it has said how the first three went."""
    (tmp_path / "line.yaml").write_text(yaml.safe_dump(recipe(train__steps=1_000_000, train__log_every=1)))
    said, out = tmp_path / "stderr", tmp_path / "run"
    assert command(["train", str(tmp_path / "line.yaml"), "--out", str(out)], said, term_after=3) == 1
    step = newest_step(out)
    assert step >= 3
    last = said.read_text().splitlines()[-1]
    assert f"stopped by a signal after step {step} of 1000000; the same command" in last


def test_a_truncated_checkpoint_is_told_and_the_one_before_taken(whole: Path, tmp_path: Path) -> None:
    """Cut at a random length, say by a disk that lost its cache: one warning on standard error, and the same end."""
    out, said = tmp_path / "run", tmp_path / "stderr"
    shutil.copytree(whole, out)
    file = out / "checkpoints" / "step-00000009" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[: random.Random(1).randrange(file.stat().st_size)])
    (tmp_path / "line.yaml").write_text(yaml.safe_dump(recipe(**RUN)))
    assert command(["train", str(tmp_path / "line.yaml"), "--out", str(out)], said) == 0
    warning, *_ = said.read_text().splitlines()
    assert "step-00000009 is broken (optimizer.safetensors is not what was written)" in warning
    assert warning.endswith("taking the one before")
    assert same_end(whole, out) and rows(whole) == rows(out)
