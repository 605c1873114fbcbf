"""Intervals, with the arithmetic done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from longalign.report import Estimate, clustered_wilson, wilson


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


def test_clustered_wilson_by_hand() -> None:
    """Scenes with 2 of 2 and 1 of 2 true sentences: n = 4, p = 3/4.

    m − 1 = (4 + 4)/4 − 1 = 1; V = 4·(3/4)(1/4) = 0.75; Σ (sᵢ − p·nᵢ)² = 0.5² + 0.5² = 0.5, times S/(S−1) = 2: 1;
    C = (1 − 0.75)/1 = 0.25; ρ = (0.25 + 4·0.3)/(0.75 + 4) = 1.45/4.75 = 0.305263; deff = 1.305263; n/deff = 3.064516.
    Wilson: z²/n = 3.84146/3.064516 = 1.253529; centre = (0.75 + 0.626764)/2.253529 = 0.610937;
    half = 1.95996·√(0.1875/3.064516 + 3.84146/(4·9.391259))/2.253529 = 1.95996·√0.163446/2.253529 = 0.351619.
    """
    estimate = clustered_wilson([2, 1], [2, 2])
    assert (estimate.value, estimate.n) == (0.75, 4)
    assert estimate.low == pytest.approx(0.610937 - 0.351619, abs=2e-6)
    assert estimate.high == pytest.approx(0.610937 + 0.351619, abs=2e-6)


def test_a_clustered_share_is_a_ratio_of_sums() -> None:
    """9 of 10 and 0 of 2 are 9/12 = 0.75, not the mean of the shares, 0.45."""
    assert clustered_wilson([9, 0], [10, 2]).value == 0.75


def test_one_sentence_a_scene_is_wilsons_own() -> None:
    """Then nothing is clustered: deff = 1. Scenes without a sentence change nothing."""
    plain, clustered = wilson(7, 9), clustered_wilson([1] * 7 + [0] * 3, [1] * 9 + [0])
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high))


def test_clustered_wilson_sees_the_clusters() -> None:
    """40 scenes of 10 sentences that are all true or all false are 40 observations, not 400.

    The interval of 20/40 has half-width near 1.96·√(0.25/40) = 0.155; Wilson on 200/400 would say 0.049.
    """
    estimate = clustered_wilson([10, 0] * 20, [10] * 40)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(0.155, abs=0.01)
    naive = wilson(200, 400)
    assert (naive.high - naive.low) / 2 == pytest.approx(0.049, abs=0.001)


def _covered(share: float, icc: float, scenes: int, trials: int = 1000) -> float:
    """How often the interval holds the true share: beta-binomial scenes of 4–10 sentences with this ICC.

    Beta(a, b) with a + b = 1/ρ − 1 gives two sentences of one scene the correlation ρ.
    """
    rng = np.random.default_rng([round(100 * share), round(100 * icc), scenes])
    held = 0
    for _ in range(trials):
        counts = rng.integers(4, 11, size=scenes)
        size = 1 / icc - 1 if icc else 0.0
        shares = rng.beta(share * size, (1 - share) * size, scenes) if 0 < share < 1 and icc else share
        found = clustered_wilson(rng.binomial(counts, shares), counts)
        held += found.low <= share <= found.high
    return held / trials


@pytest.mark.parametrize("scenes", [5, 16, 100])
@pytest.mark.parametrize("icc", [0.0, 0.1, 0.3])
def test_clustered_wilson_covers(scenes: int, icc: float) -> None:
    """Of 1,000 samples about 95 % hold the true share, with few and many scenes, in the middle and near 1.

    The bounds are 92 and 99 %, with a standard error, √(0.95·0.05/1000) = 0.7 %, to spare. Independent sentences of
    five scenes are covered too often, as the assumed correlation is above theirs.
    """
    most = 0.99 if scenes >= 16 else 0.997
    for share in (0.5, 0.9, 0.95, 0.98):
        assert 0.92 - 0.007 <= _covered(share, icc, scenes) <= min(most + 0.007, 0.997), share
    assert _covered(0.995, icc, scenes) >= 0.92
    assert _covered(1.0, icc, scenes, trials=3) == 1.0


@pytest.mark.parametrize("together", [True, False])
def test_the_interval_does_not_jump_at_all_true(together: bool) -> None:
    """16 scenes with 113 sentences, of which 0, 1, 2, 3 are false, in one scene or in different ones.

    Nothing false: deff = 1 + 6.07·0.3 = 2.82, n/deff = 40.1, low = 40.1/(40.1 + 3.84) = 91.2 %. Each further false
    sentence lowers both ends by a little: the first one by no more than 1.5 points. (A bootstrap gave 80.6 % at 113 of
    113, and 92 % at 108.)
    """
    counts = np.array([7] * 15 + [8])
    found = []
    for false in range(4):
        true = counts.copy()
        if together:
            true[0] -= false
        else:
            true[:false] -= 1
        found.append(clustered_wilson(true, counts))
    assert found[0].low == pytest.approx(0.912, abs=5e-4) and found[0].high == 1.0
    lows, highs = [e.low for e in found], [e.high for e in found]
    assert lows == sorted(lows, reverse=True) and highs == sorted(highs, reverse=True)
    assert lows[0] - lows[1] < 0.015 and highs[0] - highs[1] < 0.015
    assert lows[0] - lows[1] < 1.5 * (lows[1] - lows[2])


def test_shares_mirror_each_other() -> None:
    """k true of n is the mirror image of k false of n."""
    true, counts = np.array([4, 2, 0, 5]), np.array([5, 2, 3, 5])
    a, b = clustered_wilson(true, counts), clustered_wilson(counts - true, counts)
    assert (a.low, a.high) == pytest.approx((1 - b.high, 1 - b.low))


def test_a_single_scene_has_no_interval() -> None:
    """5 of 6 sentences of one picture: 83.3 %, and nothing is known of how scenes differ."""
    for counts in ([6], [6, 0]):
        found = clustered_wilson([5, 0][: len(counts)], counts)
        assert str(found) == "83.3%" and found.n == 6
        assert not found.bounded and found.interval == "one prompt: no interval"


def test_clustered_wilson_without_sentences() -> None:
    """Scenes without a sentence (short captions, nothing beyond token 77) give no number, and no crash."""
    assert math.isnan(clustered_wilson([0, 0], [0, 0]).value)
    assert math.isnan(clustered_wilson([], []).value)


@pytest.mark.parametrize(
    ("successes", "counts"), [([1, 2], [3]), ([4], [3]), ([-1], [3]), ([[1]], [[1]])], ids=str
)
def test_clustered_wilson_refuses_nonsense(successes: list[int], counts: list[int]) -> None:
    with pytest.raises(ValueError):
        clustered_wilson(successes, counts)


def test_estimates_print() -> None:
    assert str(Estimate(0.8421, 0.8, 0.9, 10)) == "84.2%"
    assert Estimate(0.8421, 0.8014, 0.879, 10).interval == "80.1–87.9%"
    assert Estimate(24.59, 23.9, 25.2, 5000, format=".2f").interval == "23.90–25.20"


def test_differences_of_percentages_print_in_points() -> None:
    """0.926 → 0.949 is a difference of 2.3 points, not of 2.3 %."""
    found = Estimate(0.023, -0.016, 0.031, 200, "+.1%")
    assert str(found) == "+2.3 points"
    assert found.interval == "−1.6 to +3.1"
