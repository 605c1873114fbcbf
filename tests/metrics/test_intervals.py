"""Paired bootstrap and partial correlations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from longalign.metrics.intervals import (
    PairedBootstrap,
    partial,
    partial_correlations,
    resample,
)


def test_resampling_draws_n_of_n() -> None:
    parts = list(resample(7, 250, seed=0))
    assert [len(p) for p in parts] == [100, 100, 50]
    assert all((p.sum(1) == 7).all() for p in parts)
    assert np.concatenate(parts).mean(0) == pytest.approx(1, abs=0.2)


def test_paired_differences_are_sharper_than_two_intervals() -> None:
    """b hits where a does, and in 10 of 200 queries besides: b − a is 5 %, by a small standard error of
    √(0.05 · 0.95 / 200) = 1.5 %, while each mean alone has √(0.25 / 200) = 3.5 %."""
    a = np.repeat([1.0, 0.0], 100)
    b = a.copy()
    b[100:110] = 1
    found = PairedBootstrap({"a": a, "b": b})
    alone, difference = found.estimate("a"), found.difference("b", "a")
    assert difference.value == pytest.approx(0.05) and difference.low > 0
    assert (difference.high - difference.low) / 2 == pytest.approx(1.96 * 0.0154, rel=0.15)
    assert (alone.high - alone.low) / 2 == pytest.approx(1.96 * 0.0354, rel=0.15)
    assert found.difference("a", "b").value == -difference.value


def test_all_hits_are_no_certainty() -> None:
    """200 of 200: Wilson's lower end is 1 / (1 + 1.96² / 200) = 0.9812."""
    found = PairedBootstrap({"a": np.ones(200), "b": np.ones(200)})
    assert found.estimate("a").low == pytest.approx(0.9812, abs=1e-4)
    assert found.difference("a", "b").low == pytest.approx(-0.0188, abs=1e-4)


def test_intervals_cover() -> None:
    """Of 200 samples of 100 queries with known p = 0.3, about 95 % of the intervals hold it; 88 % is far out (4σ)."""
    rng = np.random.default_rng(0)
    columns = {i: (rng.random(100) < 0.3).astype(float) for i in range(200)}
    found = PairedBootstrap(columns, samples=500)
    covered = sum(e.low <= 0.3 <= e.high for e in map(found.estimate, columns))
    assert 176 <= covered <= 200


def _residual(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    design = np.column_stack([np.ones_like(x), x])
    return y - design @ np.linalg.lstsq(design, y, rcond=None)[0]


def _by_least_squares(a: np.ndarray, b: np.ndarray, given: np.ndarray) -> float:
    return float(np.corrcoef(_residual(a, given), _residual(b, given))[0, 1])


def _factors(n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and looks that are correlated, and three scores of them; large offsets try the arithmetic."""
    rng = np.random.default_rng(1)
    truth = rng.random(n)
    looks = 0.5 * truth - rng.random(n)
    scores = np.column_stack(
        [truth + 0.1 * rng.normal(size=n), 1e3 + looks + 0.2 * rng.normal(size=n), rng.normal(size=n)]
    )
    return scores, truth, looks


def test_partial_correlations_are_those_of_residuals() -> None:
    scores, truth, looks = _factors()
    values, draws = partial_correlations(scores, truth, looks, samples=50)
    assert values.shape == (3, 2) and draws.shape == (50, 3, 2)
    for j in range(3):
        assert values[j, 0] == pytest.approx(_by_least_squares(scores[:, j], truth, looks), abs=1e-9)
        assert values[j, 1] == pytest.approx(_by_least_squares(scores[:, j], looks, truth), abs=1e-9)
    # The first follows truth alone, though its plain correlation with looks is not small.
    assert values[0, 0] > 0.9 and abs(values[0, 1]) < 0.2 and np.corrcoef(scores[:, 0], looks)[0, 1] > 0.3


def test_each_draw_is_the_correlation_of_that_sample() -> None:
    """The first draw again, by picking its rows."""
    scores, truth, looks = _factors(60)
    _, draws = partial_correlations(scores, truth, looks, samples=3, seed=5)
    rows = np.repeat(np.arange(60), next(resample(60, 3, 5))[0].astype(int))
    picked = _by_least_squares(scores[rows, 0], truth[rows], looks[rows])
    assert draws[0, 0, 0] == pytest.approx(picked, abs=1e-9)


def test_intervals_of_correlations_cover() -> None:
    """score = truth + noise of equal variance: partial r = 1/√2 whatever looks are. 100 samples; 86 would be 4σ out."""
    rng = np.random.default_rng(2)
    inside = 0
    for i in range(100):
        truth, looks = rng.normal(size=(2, 80))
        score = truth + rng.normal(size=80)
        _, draws = partial_correlations(score[:, None], truth, looks, samples=200, seed=i)
        low, high = np.quantile(draws[:, 0, 0], [0.025, 0.975])
        inside += low <= math.sqrt(0.5) <= high
    assert inside >= 86


def test_within_prompts_the_level_of_a_prompt_does_not_count() -> None:
    """Each prompt adds a level of its own to its five versions, much larger than what truth does: between prompts the
    correlation is small, against the prompt's mean it is 1."""
    rng = np.random.default_rng(3)
    truth, looks = rng.random((2, 200))
    score = truth + 50 * rng.normal(size=40).repeat(5)
    across, _ = partial_correlations(score[:, None], truth, looks, samples=1)
    within, _ = partial_correlations(score[:, None], truth, looks, versions=5, samples=1)
    assert abs(across[0, 0]) < 0.3
    assert within[0, 0] == pytest.approx(1, abs=1e-9)


def test_nothing_to_correlate_is_nan() -> None:
    """A constant score, and truth that is looks."""
    truth = np.arange(10.0)
    values, _ = partial_correlations(np.ones((10, 1)), truth, -(truth**2), samples=2)
    assert np.isnan(values).all()
    assert np.isnan(partial(np.array(0.5), np.array(0.5), np.array(1.0)))
