"""`longalign train` as a user meets it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from line_objective import recipe
from typer.testing import CliRunner, Result

from longalign.cli.main import app
from longalign.errors import LongalignError


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`longalign train <recipe of a line> …`, in an empty folder but for the recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "line.yaml").write_text(yaml.safe_dump(recipe()))
    return lambda *arguments: CliRunner().invoke(app, ["train", "line.yaml", *arguments])


def test_a_run_says_where_things_are(train: Callable[..., Result], tmp_path: Path) -> None:
    """Lines of progress are on standard error; with --json standard output holds one object and nothing else."""
    done = train("train.steps=3", "train.log_every=1", "--out", "run")
    assert done.exit_code == 0
    assert "model:  run/model" in done.stdout and "report: run/report.html" in done.stdout
    assert re.findall(r"step (\d)/3  loss [\d.]+", done.stderr) == ["1", "2", "3"]
    again = train("train.steps=3", "--json")
    made = json.loads(again.stdout)
    assert made["folder"].startswith("runs/train-") and made["step"] == 3 and made["resumed_from"] is None
    assert Path(made["model"], "line.pt").is_file()


def test_a_signal_ends_with_status_1_and_says_how_to_go_on(train: Callable[..., Result]) -> None:
    stopped = train("line.signal_at=2", "--out", "run")
    assert stopped.exit_code == 1
    assert "stopped by a signal after step 2 of 6; the same command with --out run goes on" in stopped.stderr
    assert (
        train("line.signal_at=2", "--out", "run", "--json").exit_code == 1
    )  # that objective counts its calls anew
    made = json.loads(train("line.signal_at=2", "--out", "run", "--json").stdout)
    assert (made["resumed_from"], made["step"], made["stopped"]) == (4, 6, "")


def test_a_run_that_gets_no_better_ends_well(train: Callable[..., Result]) -> None:
    best = ["train.best={metric: score, mode: max, patience: 1}", "train.evaluate_every=1"]
    done = train("line.peak=2", *best, "--out", "run")
    assert done.exit_code == 0
    assert "best:   score -0 at step 2; model/ holds its weights" in done.stdout
    assert "no better (train.best.patience), after step 3 of 6\n" in done.stderr


def test_a_dry_run_writes_nothing(train: Callable[..., Result], tmp_path: Path) -> None:
    shown = train("--dry-run")
    assert shown.exit_code == 0
    assert "batch: 4 = 2 rows × 1 process × 2 micro-batches" in shown.stdout
    assert "steps: 6" in shown.stdout and "data: 10 rows, each seen 2.4 times" in shown.stdout
    assert "weights 80 B + gradients 80 B + AdamW 160 B + average 0 B" in shown.stdout
    assert json.loads(train("--dry-run", "--json").stdout)["modules"]["line"] == [4, 4]
    assert [p.name for p in tmp_path.iterdir()] == ["line.yaml"]


def test_wrong_input_is_said_in_words(train: Callable[..., Result]) -> None:
    """`main` prints these as one line and exits with 2."""
    for arguments, says in [
        (["train.lrr=1"], "line.yaml: train.lrr: no such key; did you mean train.lr?"),
        (["train.lr"], "write it as key=value"),
        (["train.batch_size=5"], "train.batch_size 5 is not a multiple of train.micro_batch_size 2"),
    ]:
        error = train(*arguments).exception
        assert isinstance(error, LongalignError) and says in str(error) and "\n" not in str(error)
