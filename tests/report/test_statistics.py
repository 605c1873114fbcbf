"""Intervals, with the arithmetic done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from longalign.report import Estimate, bootstrap_ratio, wilson


def test_wilson_by_hand() -> None:
    """8 of 10 at 95 %, z = 1.95996, z² = 3.84146.

    centre = (0.8 + 3.84146/20) / (1 + 0.384146) = 0.992073 / 1.384146 = 0.716740
    half = 1.95996·√(0.8·0.2/10 + 3.84146/400) / 1.384146 = 1.95996·√0.0256036 / 1.384146 = 0.226577
    """
    estimate = wilson(8, 10)
    assert estimate.value == 0.8
    assert estimate.low == pytest.approx(0.716740 - 0.226577, abs=2e-6)
    assert estimate.high == pytest.approx(0.716740 + 0.226577, abs=2e-6)
    assert estimate.n == 10


def test_wilson_at_the_ends() -> None:
    """None of n: the interval is [0, z²/(n + z²)] = [0, 3.84146/13.84146]; all of n is its mirror image."""
    none, every = wilson(0, 10), wilson(10, 10)
    assert (none.low, every.high) == (0.0, 1.0)
    assert none.high == pytest.approx(3.84146 / 13.84146, abs=1e-6)
    assert every.low == pytest.approx(1 - none.high)


def test_wilson_without_trials_knows_nothing() -> None:
    estimate = wilson(0, 0)
    assert math.isnan(estimate.value)
    assert (estimate.low, estimate.high) == (0.0, 1.0)
    assert str(estimate) == "—" and estimate.interval == ""


def test_wilson_narrows_with_level_and_trials() -> None:
    def width(estimate: Estimate) -> float:
        return estimate.high - estimate.low

    assert width(wilson(50, 100, 0.5)) < width(wilson(50, 100)) < width(wilson(5, 10))


def test_wilson_covers() -> None:
    """Exact coverage at p = 0.9, n = 50: the binomial weight of all counts whose interval holds p."""
    weights = [math.comb(50, k) * 0.9**k * 0.1 ** (50 - k) for k in range(51)]
    covered = sum(w for k, w in enumerate(weights) if wilson(k, 50).low <= 0.9 <= wilson(k, 50).high)
    assert 0.93 < covered < 0.98


@pytest.mark.parametrize(("successes", "n", "level"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)])
def test_wilson_refuses_nonsense(successes: int, n: int, level: float) -> None:
    with pytest.raises(ValueError):
        wilson(successes, n, level)


def test_bootstrap_of_two_scenes_by_hand() -> None:
    """Scenes 0/1 and 1/1. Two draws give 0, ½, ½ or 1, each of the four equally often, so the ends of a 95 %
    interval are the extremes 0 and 1, and those of a 40 % interval (quantiles 0.3 and 0.7) are ½ and ½.
    """
    wide = bootstrap_ratio([0, 1], [1, 1], seed=0)
    assert (wide.value, wide.low, wide.high, wide.n) == (0.5, 0.0, 1.0, 2)
    narrow = bootstrap_ratio([0, 1], [1, 1], seed=0, level=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_bootstrap_is_a_ratio_of_sums() -> None:
    """9 of 10 and 0 of 2 are 9/12 = 0.75, not the mean of the shares, 0.45."""
    assert bootstrap_ratio([9, 0], [10, 2]).value == 0.75


def test_bootstrap_sees_the_clusters() -> None:
    """40 scenes of 10 sentences that are all true or all false are 40 observations, not 400.

    The interval of 20/40 has half-width near 1.96·√(0.25/40) = 0.155; Wilson on 200/400 would say 0.049.
    """
    estimate = bootstrap_ratio([10, 0] * 20, [10] * 40, seed=3)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(0.155, abs=0.02)
    naive = wilson(200, 400)
    assert (naive.high - naive.low) / 2 == pytest.approx(0.049, abs=0.001)


def test_bootstrap_covers() -> None:
    """Scenes with a share of their own around 0.7: of 200 samples of 30 scenes about 95 % hold 0.7.

    The standard error of that is √(0.95·0.05/200) = 1.5 %: three are allowed above, and four below, since
    with few scenes the interval is a little narrow.
    """
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        truth = rng.binomial(10, rng.beta(7, 3, size=30))  # mean of Beta(7, 3) is 0.7
        estimate = bootstrap_ratio(truth, [10] * 30, seed=trial, samples=400)
        held += estimate.low <= 0.7 <= estimate.high
    assert 0.89 <= held / 200 <= 0.995


def test_bootstrap_repeats_with_its_seed() -> None:
    scenes = (list(range(1, 30)), [30 + n % 7 for n in range(29)])
    assert bootstrap_ratio(*scenes, seed=1) == bootstrap_ratio(*scenes, seed=1)
    assert bootstrap_ratio(*scenes, seed=1) != bootstrap_ratio(*scenes, seed=2)


def test_bootstrap_without_sentences() -> None:
    """Scenes without a sentence (short captions, nothing beyond token 77) give no number, and no crash."""
    assert math.isnan(bootstrap_ratio([0, 0], [0, 0]).value)
    assert math.isnan(bootstrap_ratio([], []).value)
    assert bootstrap_ratio([0, 2, 1], [0, 2, 2], seed=0).n == 4  # draws of the first scene alone are left out


@pytest.mark.parametrize(
    ("successes", "counts"), [([1, 2], [3]), ([4], [3]), ([-1], [3]), ([[1]], [[1]])], ids=str
)
def test_bootstrap_refuses_nonsense(successes: list[int], counts: list[int]) -> None:
    with pytest.raises(ValueError):
        bootstrap_ratio(successes, counts)


def test_estimates_print() -> None:
    assert str(Estimate(0.8421, 0.8, 0.9, 10)) == "84.2%"
    assert Estimate(0.8421, 0.8014, 0.879, 10).interval == "80.1–87.9%"
    assert Estimate(24.59, 23.9, 25.2, 5000, format=".2f").interval == "23.90–25.20"


def test_a_sample_without_failures_is_not_certain() -> None:
    """Three scenes, all sentences true: Wilson for 3 of 3 gives 3 / (3 + 1.96²) = 43.8 %; none true mirrors it."""
    perfect = bootstrap_ratio([4, 2, 3], [4, 2, 3])
    assert perfect.value == perfect.high == 1.0
    assert perfect.low == pytest.approx(3 / (3 + 1.96**2), abs=1e-4)
    hopeless = bootstrap_ratio([0, 0, 0, 0], [4, 2, 3, 0])  # the empty scene does not count
    assert (hopeless.value, hopeless.low) == (0.0, 0.0)
    assert hopeless.high == pytest.approx(1 - 3 / (3 + 1.96**2), abs=1e-4)
