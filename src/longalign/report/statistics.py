"""Intervals for shares: Wilson's for independent trials, a bootstrap over scenes for clustered ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from longalign.report.data import Estimate


def wilson(successes: int, n: int, level: float = 0.95, *, format: str = ".1%") -> Estimate:
    """Share of successes in `n` independent trials with Wilson's score interval (Wilson 1927).

    It stays within [0, 1], and is no single point at 0 or `n` successes, where the usual p ± z·√(p(1−p)/n)
    is one. Without trials nothing is known: the value is NaN and the interval [0, 1]. Sentences about one
    picture are not independent; `bootstrap_ratio` takes whole pictures.

    Args:
        successes, n: counts.
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
    return Estimate(p, low, high, n, format, level)


def bootstrap_ratio(
    successes_per_scene: Sequence[int] | np.ndarray,
    counts_per_scene: Sequence[int] | np.ndarray,
    seed: int = 0,
    samples: int = 2000,
    level: float = 0.95,
    *,
    format: str = ".1%",
) -> Estimate:
    """Σ successes / Σ counts with a percentile interval from resampling whole scenes (cluster bootstrap).

    Sentences of one scene stand or fall together: one bad picture makes many of them false. So scenes, not
    sentences, are drawn with replacement; draws with no sentence at all are left out. Without a single failure, or
    a single success, nothing in the sample varies: the interval is then Wilson's for as many scenes, the careful
    choice. With few scenes the bootstrap is somewhat too narrow (Efron & Tibshirani 1993, An Introduction to the
    Bootstrap, ch. 13).

    Args:
        successes_per_scene, counts_per_scene: (S,), true sentences and all sentences of each scene.
        seed, samples: of the draws; the same seed gives the same interval.
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
    _z(level)
    n = int(counts.sum())
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0, format, level)
    total = int(successes.sum())
    if total in (0, n):
        scenes = int((counts > 0).sum())
        bound = wilson(scenes if total else 0, scenes, level)
        return Estimate(total / n, bound.low, bound.high, n, format, level)
    draws = np.random.default_rng(seed).integers(len(counts), size=(samples, len(counts)))
    hits, tries = successes[draws].sum(axis=1), counts[draws].sum(axis=1)  # (samples,)
    ratios = hits[tries > 0] / tries[tries > 0]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(total / n, float(low), float(high), n, format, level)


def _z(level: float) -> float:
    """Two-sided normal quantile: 1.96 for 0.95."""
    if not 0 < level < 1:
        raise ValueError(f"level {level} is outside (0, 1)")
    return NormalDist().inv_cdf((1 + level) / 2)
