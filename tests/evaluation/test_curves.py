"""Held-out curves of several runs over each other."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from longalign.cli.curves import curves as command
from longalign.errors import LongalignError
from longalign.evaluation.curves import overlay, read_runs
from longalign.runs import RunFolder


def training(path: Path, rows: list[dict[str, object]]) -> Path:
    run = RunFolder(path, {"command": "train"})
    for row in rows:
        run.log(row)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """ω = 0 and ω = 1; the second has one metric more, and a line that was cut off."""
    low = training(
        tmp_path / "w0",
        [
            {"kind": "train", "step": 5, "loss": 1.0, "true": 0.9},
            {"kind": "evaluate", "step": 10, "true": 0.5, "seconds": 3.0},
            {"kind": "evaluate", "step": 20, "true": 0.75},
        ],
    )
    high = training(
        tmp_path / "w1",
        [
            {"kind": "evaluate", "step": 10, "true": math.nan, "diversity": 0.5},
            {"kind": "evaluate", "step": 20, "true": 0.25, "diversity": 0.25},
        ],
    )
    with (high / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "evaluate", "step": 30, "tr')
    return [f"ω=0={low}", str(high)]


def test_a_figure_a_metric_a_line_a_run(runs: list[str]) -> None:
    found = overlay(read_runs(runs))
    assert list(found.metrics) == ["true", "diversity"] and found.labels == ["ω=0", "w1"]
    true, diverse = found.curves()
    assert (true.lines[0].name, true.lines[0].x, true.lines[0].y) == ("ω=0", [10, 20], [0.5, 0.75])
    assert true.lines[1].x == [10, 20] and math.isnan(true.lines[1].y[0])
    assert [line.name for line in diverse.lines] == ["w1"]
    assert found.tables()[0].rows == [["ω=0", "20", "75.0%", "—"], ["w1", "20", "25.0%", "0.25"]]


def test_the_command_writes_a_page(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(runs, metrics="true", out=tmp_path / "out", as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["curves"]["true"]["w1"] == {"step": [10, 20], "value": [None, 0.25]}
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<polyline") == 2 and "diversity" not in page


def test_wrong_runs_and_metrics(runs: list[str], tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="did you mean diversity"):
        overlay(read_runs(runs), ["diverse"])
    bare = training(tmp_path / "bare", [{"kind": "train", "step": 1, "loss": 1.0}])
    for names, said in (
        ([str(bare)], "evaluate_every"),
        ([runs[1], runs[1]], "two runs"),
        ([str(tmp_path / "nowhere")], "no such run folder"),
        ([str(tmp_path)], "cannot be read"),
    ):
        with pytest.raises(LongalignError, match=said):
            read_runs(names)
