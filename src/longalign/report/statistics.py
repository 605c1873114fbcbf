"""Intervals for shares: Wilson's, for independent trials and for trials that are clustered in pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from longalign.report.data import Estimate

# How tables name the intervals of `clustered_wilson`, behind "95 % ".
CLUSTERED = "Wilson intervals, clustered by {}"

# The intra-cluster correlation that is assumed before anything is seen, and the variance (in sentences) that it takes
# to count as much as the assumption. Chosen by simulation: see tests/report/test_statistics.py.
PRIOR_ICC = 0.3
PRIOR_WEIGHT = 4.0


def wilson(successes: float, n: float, level: float = 0.95, *, format: str = ".1%") -> Estimate:
    """Share of successes in `n` independent trials with Wilson's score interval (Wilson 1927).

    It stays within [0, 1], and is no single point at 0 or `n` successes, where the usual p ± z·√(p(1−p)/n)
    is one. Without trials nothing is known: the value is NaN and the interval [0, 1]. Sentences about one
    picture are not independent: see `clustered_wilson`.

    Args:
        successes, n: counts; fractions where trials count in part.
        level: of the interval.
        format: how the numbers are written.

    Raises:
        ValueError: `successes` outside 0…n, or `level` outside (0, 1).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials")
    z = _z(level)
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0, format, level)
    p = successes / n
    # centre ± half = (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # At the ends one side is exactly 0 or 1; rounding must not push it past.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Estimate(p, low, high, round(n), format, level)


def clustered_wilson(
    successes_per_scene: Sequence[int] | np.ndarray,
    counts_per_scene: Sequence[int] | np.ndarray,
    level: float = 0.95,
    *,
    format: str = ".1%",
) -> Estimate:
    """Σ successes / Σ counts with Wilson's interval on the effective number of sentences, n / deff.

    Sentences of one scene stand or fall together: one bad picture makes many of them false. So n sentences tell as
    little as n / deff independent ones, with Kish's design effect (Survey Sampling, 1965, §5.4, for clusters of unequal
    size)::

        deff = 1 + (m − 1)·ρ        m = Σ nᵢ² / Σ nᵢ

    ρ is the intra-cluster correlation: the covariance of two sentences of one scene over their variance p(1−p). It is
    estimated from the scenes, and drawn towards `PRIOR_ICC` (ρ₀) with the weight `PRIOR_WEIGHT` (ν)::

        ρ = (C + ν·ρ₀) / (V + ν)    V = n·p(1−p)    C = (S/(S−1)·Σ (sᵢ − p·nᵢ)² − V) / (m − 1)

    Where all sentences are true, or none, V and C are 0 and the data say nothing about ρ: it is then ρ₀. One false
    sentence moves it a little, many leave nothing of the assumption. So the interval does not jump between 112 and 113
    true sentences of 113. ρ is held within [0, 1]: the interval is never narrower than that of independent sentences.
    With one sentence a scene it is Wilson's own. Korn and Graubard (Survey Methodology 24, 1998) and Franco et al. (J.
    Survey Statistics and Methodology 7, 2019) compare intervals on an effective sample size and find Wilson's good.

    From a single scene the spread between scenes is unknown: the estimate then has no interval (ends are NaN).

    Args:
        successes_per_scene, counts_per_scene: (S,), true sentences and all sentences of each scene. Scenes without a
            sentence do not count.
        level: of the interval.
        format: how the numbers are written.

    Raises:
        ValueError: lengths differ, a scene has more successes than sentences, or `level` is outside (0, 1).
    """
    successes = np.asarray(successes_per_scene, dtype=np.int64)  # (S,)
    counts = np.asarray(counts_per_scene, dtype=np.int64)  # (S,)
    if successes.shape != counts.shape or successes.ndim != 1:
        raise ValueError(f"{successes.shape} successes for {counts.shape} counts; both should be (scenes,)")
    if ((successes < 0) | (successes > counts)).any():
        raise ValueError("a scene has more successes than sentences, or fewer than none")
    successes, counts = successes[counts > 0], counts[counts > 0]
    n = int(counts.sum())
    if n == 0:
        return wilson(0, 0, level, format=format)
    p = int(successes.sum()) / n
    if len(counts) == 1:
        _z(level)
        return Estimate(p, math.nan, math.nan, n, format, level)
    deff = _design_effect(successes, counts)
    found = wilson(p * n / deff, n / deff, level, format=format)
    return Estimate(found.value, found.low, found.high, n, format, level)


def _design_effect(successes: np.ndarray, counts: np.ndarray) -> float:
    """deff of `clustered_wilson`, from at least two scenes with sentences; both arrays are (S,)."""
    scenes, n = len(counts), counts.sum()
    p = successes.sum() / n
    others = (counts**2).sum() / n - 1  # m − 1: how many other sentences share a sentence's scene
    if others == 0:
        return 1.0
    variance = n * p * (1 - p)
    between = scenes / (scenes - 1) * ((successes - p * counts) ** 2).sum()
    icc = ((between - variance) / others + PRIOR_WEIGHT * PRIOR_ICC) / (variance + PRIOR_WEIGHT)
    return float(1 + others * min(max(icc, 0.0), 1.0))


def _z(level: float) -> float:
    """Two-sided normal quantile: 1.96 for 0.95."""
    if not 0 < level < 1:
        raise ValueError(f"level {level} is outside (0, 1)")
    return NormalDist().inv_cdf((1 + level) / 2)
