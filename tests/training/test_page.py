"""The page of a run: which curves, where the best step stands, which figures."""

from __future__ import annotations

import re
from typing import Any

from longalign.report import Curve, Line
from longalign.report.curve import line_plot
from longalign.training.figures import figure
from longalign.training.outputs import held_out_table, learning_curves
from longalign.training.progress import Best

ROWS: list[dict[str, Any]] = [
    {"kind": "train", "step": 10, "samples": 40, "reward": 1.0, "loss": 3.0, "grad_norm": 1.0, "lr": 0.1},
    {"kind": "evaluate", "step": 10, "reward": 1.5, "score": 7.0, "best_step": 10},
    {"kind": "train", "step": 20, "samples": 80, "reward": 2.0, "loss": 2.0, "grad_norm": 1.0, "lr": 0.1},
    {"kind": "evaluate", "step": 20, "reward": 2.5, "score": 6.0, "best_step": 10},
]
BEST = Best("score", "max", 10, 7.0)


def test_the_reward_stands_beside_its_judges() -> None:
    """Loss, then what tells the best, then the rest; the best step is marked where something was held out."""
    curves = learning_curves(ROWS, BEST)
    assert [c.caption for c in curves] == [
        "Loss (lower is better)",
        "Score",  # of another package: nothing is known of it
        "Reward (higher is better)",
        "Gradient norm",
        "Learning rate",
    ]
    assert [c.mark for c in curves] == [None, (10, "best"), (10, "best"), None, None]
    assert [[line.name for line in c.lines] for c in curves[1:3]] == [["held-out"], ["training", "held-out"]]
    assert all(c.mark is None for c in learning_curves(ROWS))


def test_first_best_and_last_evaluation() -> None:
    between = {"kind": "evaluate", "step": 15, "reward": 2.0, "score": 8.0}
    [table] = held_out_table([*ROWS, between], Best("score", "max", 15, 8.0))
    assert list(table.columns) == ["", "First: step 10", "Best: step 15", "Last: step 20"]
    assert table.rows == [["Reward (higher is better)", "1.5", "2", "2.5"], ["Score", "7", "8", "6"]]
    [table] = held_out_table(ROWS, BEST)
    assert list(table.columns) == ["", "Best: step 10", "Last: step 20"]
    assert held_out_table(ROWS[:1]) == []


def test_the_mark_stands_at_its_place() -> None:
    """x from 0 to 200: 50 is a quarter of the way. Near an edge its text stays inside."""

    def marks(x: float) -> list[tuple[str, ...]]:
        curve = Curve("c", "step", [Line("a", [0, 200], [0, 1])], mark=(x, "<best>"))
        plot = line_plot(curve)
        assert f"; &lt;best&gt; at {x:g}" in plot and "<best>" not in plot
        [at] = re.findall(r'<line class="mark" x1="([\d.]+)%" x2="([\d.]+)%"', plot)
        [text] = re.findall(r'text-anchor="(\w+)">&lt;best&gt;', plot)
        return [at, (text,)]

    assert marks(50) == [("25.0", "25.0"), ("middle",)]
    assert marks(0) == [("0.0", "0.0"), ("start",)]
    assert marks(200) == [("100.0", "100.0"), ("end",)]
    assert "mark" not in line_plot(Curve("c", "step", [Line("a", [0, 200], [0, 1])]))


def test_a_single_point_is_seen() -> None:
    """It stands in the middle of its plot, drawn as a dot and not as a line."""
    plot = line_plot(Curve("loss", "step", [Line("training", [1], [1.0])]))
    [(kind, points)] = re.findall(r'<polyline class="([^"]*)" points="([^"]*)"', plot)
    assert "point" in kind.split() and points == "500.0,500.0 500.0,500.0"


def test_nothing_finite_is_no_plot() -> None:
    """A FID that was never a number: no plot, and "—" in the table."""
    rows: list[dict[str, Any]] = [{"kind": "evaluate", "step": 1, "loss": 0.5, "fid": None}]
    assert [c.caption for c in learning_curves(rows)] == ["Loss (lower is better)"]
    assert held_out_table(rows)[0].rows[1] == ["FID (lower is better)", "—"]


def test_training_and_held_out_keep_their_colours() -> None:
    """A plot with a held-out line alone has it in the same colour as the plots with both."""
    _, score, reward, *_ = learning_curves(ROWS, BEST)
    assert [line.colour for line in score.lines] == [1]
    assert [line.colour for line in reward.lines] == [0, 1]
    assert "line c1" in line_plot(score)


def test_figures_in_words() -> None:
    """Shares are per cent, minus signs are true ones, unknown figures keep their words."""
    assert (
        figure("true").title == "True sentences (higher is better)"
        and figure("true").number(0.975) == "97.5%"
    )
    assert figure("looks").number(-0.27851) == "−0.2785"
    assert figure("score_clip").title == "Score by clip (higher is better)"
    assert figure("my_own").title == "My own" and figure("my_own").number(3) == "3"
