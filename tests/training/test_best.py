"""The guard against over-fitting: the best evaluation's weights are kept, and a run that gets no better ends.

The objective's `score` is −(step − peak)², so that it is best after step `peak`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from line_objective import LineObjective, line_recipe
from line_runs import rows, same_end

from longalign.errors import LongalignError
from longalign.training import fit
from longalign.training.processes import make_accelerator
from longalign.training.progress import Best
from longalign.training.recipe import Recipe
from longalign.training.step import build_task


def guarded(peak: int = 4, patience: int | None = None, **values: Any) -> Recipe:
    """8 noisy steps, evaluated after 2, 4, 6 and 8."""
    given = {"train__steps": 8, "train__evaluate_every": 2, "line__dropout": 0.5, "train__ema": 0.5, **values}
    best = {"metric": "score", "mode": "max", "patience": patience}
    return line_recipe(line__peak=peak, train__best=best, **given)


def model(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "model" / "line.pt", weights_only=True)


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def kept(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").glob("best-*"))


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_model_is_that_of_the_best_evaluation(tmp_path: Path, ema: float) -> None:
    """Best after step 4 of 8: what a run of 4 steps would have saved, averaged if there is an average."""
    result = fit(guarded(train__ema=ema), tmp_path / "run")
    fit(line_recipe(train__steps=4, line__dropout=0.5, train__ema=ema), tmp_path / "four")
    assert result.best == Best("score", "max", 4, 0.0) and result.step == 8 and result.stopped == ""
    assert equal(model(tmp_path / "run"), model(tmp_path / "four"))
    found = [
        (r["step"], r["score"], r["best_step"]) for r in rows(tmp_path / "run") if r["kind"] == "evaluate"
    ]
    assert found == [(2, -4.0, 2), (4, 0.0, 4), (6, -4.0, 4), (8, -16.0, 4)]
    assert "best_step" not in result.evaluation and kept(tmp_path / "run") == ["best-00000004"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "score -0 at step 4; the model was saved from there" in page
    assert "Best: step 4" in page and "; best at 4" in page and ">best step" not in page


def test_less_may_be_better_and_the_last_may_be_best(tmp_path: Path) -> None:
    best = {"metric": "score", "mode": "min"}
    result = fit(line_recipe(line__peak=0, train__evaluate_every=2, train__best=best), tmp_path / "run")
    fit(line_recipe(), tmp_path / "plain")
    assert result.best == Best("score", "min", 6, -36.0)
    assert equal(model(tmp_path / "run"), model(tmp_path / "plain"))


def test_a_run_that_gets_no_better_ends_and_stays_ended(tmp_path: Path) -> None:
    """Best after step 4; with two evaluations of patience the run ends after step 8 of 20, and with three after 10."""
    out = tmp_path / "run"
    result = fit(guarded(patience=2, train__steps=20), out)
    assert (result.stopped, result.step) == ("early", 8) and result.best is not None and result.best.step == 4
    saved = model(out)
    page = (out / "report.html").read_text()
    assert "8 of 20 steps, stopped early" in page and "the same command goes on" not in page
    again = fit(guarded(patience=2, train__steps=20), out)
    assert (again.stopped, again.step, again.resumed_from) == ("early", 8, 8) and equal(saved, model(out))
    longer = fit(guarded(patience=3, train__steps=20), out)
    assert (longer.stopped, longer.step) == ("early", 10) and equal(saved, model(out))
    straight = fit(guarded(patience=3, train__steps=20), tmp_path / "straight")
    assert same_end(out, straight.folder) and rows(out) == rows(straight.folder)


@pytest.mark.parametrize("after", [1, 3, 4, 6])
def test_a_run_that_breaks_off_finds_its_best_again(tmp_path: Path, after: int) -> None:
    """An error in mid-run, without a checkpoint: the run goes on from the one two or three steps before (there is one
    after every third step), where another evaluation was the best, and ends as the undisturbed one.
    """
    whole, out = tmp_path / "whole", tmp_path / "run"
    given = guarded(train__checkpoint_every_steps=3, train__keep_checkpoints=1)

    def fail(done: int, row: Any) -> None:
        if done == after:
            raise KeyError("a lamp fell")

    fit(given, whole)
    with pytest.raises(KeyError):
        fit(given, out, on_step=fail)
    if after == 4:  # step 4 is the best; but checkpoint 3, from which to go on, knows step 2 alone
        assert kept(out) == ["best-00000002", "best-00000004"]
    result = fit(given, out)
    assert result.best is not None and result.best.step == 4
    assert same_end(whole, out) and rows(whole) == rows(out) and equal(model(whole), model(out))
    assert kept(out) == ["best-00000004"]


def test_damaged_best_weights_are_taken_for_a_damaged_checkpoint(tmp_path: Path) -> None:
    """Checkpoints 6 and 8 refer to step 4, and checkpoint 3 to step 2: the run goes on from 3."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    given = guarded(train__checkpoint_every_steps=3, train__keep_checkpoints=3)
    fit(given, whole)
    fit(given, out)
    assert kept(out) == ["best-00000002", "best-00000004"]
    weights = out / "checkpoints" / "best-00000004" / "modules.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"best-00000004 is broken .* taking the one before"):
        assert fit(given, out).resumed_from == 3
    assert same_end(whole, out) and equal(model(whole), model(out))


def test_a_figure_that_is_not_there_is_said_and_can_be_put_right(tmp_path: Path) -> None:
    wrong = {"metric": "scoree", "mode": "max"}
    given = {"line__peak": 4, "train__steps": 8, "train__evaluate_every": 2}
    with pytest.raises(LongalignError, match=r"gives no 'scoree'; did you mean score\?") as caught:
        fit(line_recipe(**given, train__best=wrong), tmp_path / "run")
    assert "the same command resumes the run" in str(caught.value)
    right = fit(line_recipe(**given, train__best={**wrong, "metric": "score"}), tmp_path / "run")
    assert right.resumed_from == 2 and right.best is not None and right.best.step == 4
    with pytest.raises(LongalignError, match="there are loss, noise"):
        fit(line_recipe(train__evaluate_every=2, train__best=wrong), tmp_path / "other")


def test_without_held_out_data_there_is_no_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineObjective, "evaluate", lambda self, accelerator: {})
    with pytest.raises(LongalignError, match="no held-out data to evaluate on"):
        fit(guarded(), tmp_path / "run")


def test_another_measure_begins_anew(tmp_path: Path) -> None:
    """Best by score after step 4; then, by a measure of which more is better the later it is, after step 10."""
    out = tmp_path / "run"
    fit(guarded(), out)
    best = {"metric": "score", "mode": "min"}
    given = {"train__steps": 10, "train__evaluate_every": 2, "line__dropout": 0.5, "train__ema": 0.5}
    result = fit(line_recipe(line__peak=4, train__best=best, **given), out)
    assert result.best == Best("score", "min", 10, -36.0)
    assert kept(out) == ["best-00000004", "best-00000010"]  # checkpoint 8 is of the old measure
    last = fit(line_recipe(line__peak=4, **given), out)
    assert last.best is None and last.resumed_from == 10


def test_what_is_not_finite_is_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineObjective, "evaluate", lambda self, accelerator: {"score": math.nan})
    result = fit(guarded(patience=2), tmp_path / "run")
    assert (result.stopped, result.step, result.best) == ("early", 4, None) and result.model is not None
    assert "no evaluation gave a finite score" in (tmp_path / "run" / "report.html").read_text()


def test_the_start_can_be_the_best(tmp_path: Path) -> None:
    """Evaluated before the first step too; where training only harms, the model is the one that it began with."""
    out = tmp_path / "run"
    given = guarded(peak=0, patience=2, train__evaluate_first=True)
    result = fit(given, out)
    assert result.best == Best("score", "max", 0, 0.0) and (result.stopped, result.step) == ("early", 4)
    assert [(r["step"], r["best_step"]) for r in rows(out) if r["kind"] == "evaluate"] == [
        (0, 0),
        (2, 0),
        (4, 0),
    ]
    untrained, _ = build_task(given, make_accelerator("no"))
    assert equal(model(out), dict(untrained.objective.modules()["line"].state_dict()))
    fit(guarded(), tmp_path / "with")
    fit(guarded(train__evaluate_first=True), tmp_path / "first")
    assert same_end(tmp_path / "with", tmp_path / "first")  # an evaluation more changes no step


def test_a_run_that_starts_anew_forgets_its_first_evaluation(tmp_path: Path) -> None:
    """It broke off before there was a checkpoint: the line of step 0 is written once."""
    given = guarded(train__evaluate_first=True)

    def fail(done: int, row: Any) -> None:
        if done == 1:
            raise KeyError("a lamp fell")

    with pytest.raises(KeyError):
        fit(given, tmp_path / "run", on_step=fail)
    fit(given, tmp_path / "run")
    assert [r["step"] for r in rows(tmp_path / "run") if r["kind"] == "evaluate"] == [0, 2, 4, 6, 8]
