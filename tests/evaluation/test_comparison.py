"""Paired comparisons of runs, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from longalign.data.entries import CaptionedPicture
from longalign.evaluation.comparison import compare, comparison_tables, sentences_of
from longalign.evaluation.sets import MeasuredSet
from longalign.metrics.metric import MetricColumn

UP = MetricColumn("s", "score", ".2f", "higher")
DOWN = MetricColumn("d", "distance", ".2f", "lower")


def measured(label: str, s: list[float], keys: list[str] | None = None) -> MeasuredSet:
    keys = keys or [f"p{k}" for k in range(len(s))]
    pictures = [CaptionedPicture(Image.new("RGB", (1, 1)), key, key) for key in keys]
    numbers = {"m": {"s": np.array(s), "d": -np.array(s)}}
    return MeasuredSet(label, pictures, [], [], keys, numbers=numbers)  # type: ignore[arg-type]


def test_differences_wins_and_words() -> None:
    """a − b over p0 … p19: +1 in 16 prompts, 0 in 2, −1 in 2. Mean 0.7; 16 wins, 2 ties, 2 losses: rate 17/20."""
    b = [0.0] * 20
    a = [1.0] * 16 + [0.0] * 2 + [-1.0] * 2
    up, down = compare([measured("b", b), measured("a", a)], [UP, DOWN], "b", samples=500)
    assert up.difference.value == pytest.approx(0.7) and (up.wins, up.ties, up.losses) == (16, 2, 2)
    assert up.win_rate.value == pytest.approx(17 / 20) and up.verdict == "better"
    assert up.words().startswith("a is better than b by score: +0.70 (")
    # lower is better: the same prompts are won
    assert down.difference.value == pytest.approx(-0.7) and (down.wins, down.verdict) == (16, "better")
    low, high = up.simultaneous
    assert low < up.difference.low and high > up.difference.high  # two comparisons: wider than one alone
    tables = comparison_tables([up, down], ["b", "a"])
    assert [t.columns for t in tables] == [["", "a"], ["", "a"]] and "2 comparisons" in tables[0].note


def test_nothing_is_said_where_the_data_say_nothing() -> None:
    """One prompt of four differs: the interval contains 0."""
    [one] = compare([measured("b", [0, 0, 0, 0.0]), measured("a", [0, 0, 0, 1.0])], [UP], "b", samples=500)
    assert one.verdict == "open" and sentences_of([one], ["s"]) == []


def test_only_prompts_of_both_count_and_pictures_of_a_prompt_are_averaged() -> None:
    """a has p0 twice (1 and 3: mean 2) and p1; b has p0, p1 and p2. Differences 2 and 0."""
    a = measured("a", [1, 3, 5.0], ["p0", "p0", "p1"])
    b = measured("b", [0, 5, 9.0], ["p0", "p1", "p2"])
    [one] = compare([b, a], [UP], "b", samples=100)
    assert one.difference.n == 2 and one.difference.value == pytest.approx(1)
