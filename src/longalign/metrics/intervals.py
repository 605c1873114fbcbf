"""Intervals of shares over common queries, of their differences, and of partial correlations."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np

from longalign.report import Estimate, wilson

_DRAWS_AT_ONCE = 100


def resample(n: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Bootstrap draws with replacement, as counts.

    Args:
        n: number of units; each draw takes n of them.
        samples: number of draws.
        seed: of the draws.

    Yields:
        float64 (≤ 100, n): for each draw, how often each unit was taken.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, samples, _DRAWS_AT_ONCE):
        rows = range(start, min(start + _DRAWS_AT_ONCE, samples))
        yield np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in rows]).astype(np.float64)


def percentile(
    value: float, draws: np.ndarray, n: int, *, level: float = 0.95, format: str = ".1%"
) -> Estimate:
    """An estimate with its percentile interval (Efron and Tibshirani 1993, ch. 13).

    Args:
        value: the estimate.
        draws: (samples,) the same statistic of each bootstrap draw; draws that are not finite are left out.
        n: how many observations stand behind it.
        level: of the interval.
        format: format specification of the numbers.
    """
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or not len(draws):
        return Estimate(math.nan, math.nan, math.nan, n, format, level)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high), n, format, level)


class PairedBootstrap:
    """Means of several quantities over the same N queries, and differences of such means, with 95 % intervals.

    Every draw takes the same queries for all quantities. The interval of a difference between two models then depends
    on how they differ query by query, and is much narrower than two separate intervals suggest.

    Args:
        values: name → (N,) in [0, 1], such as hits.
        samples: number of draws.
        seed: of the draws.
        level: of the intervals.
    """

    def __init__(
        self, values: Mapping[Any, np.ndarray], samples: int = 2000, seed: int = 0, level: float = 0.95
    ) -> None:
        self.column = {name: i for i, name in enumerate(values)}
        matrix = np.stack([np.asarray(v, np.float64) for v in values.values()], axis=1)  # (N, C)
        self.n = len(matrix)
        self.level = level
        self.mean = matrix.mean(0)  # (C,)
        self.draws = np.concatenate([w @ matrix / self.n for w in resample(self.n, samples, seed)])  # (S, C)

    def estimate(self, name: Hashable) -> Estimate:
        """The mean of a quantity with Wilson's interval: queries are independent.

        Where ties make values fractions the interval is somewhat too wide, since they vary less than hits and misses.
        """
        return wilson(self.mean[self.column[name]] * self.n, self.n, self.level)

    def difference(self, a: Hashable, b: Hashable) -> Estimate:
        """The mean of ``a`` minus the mean of ``b``.

        If all queries agree, the interval is widened by what Wilson's interval allows for n of n hits.
        """
        i, j = self.column[a], self.column[b]
        found = percentile(
            self.mean[i] - self.mean[j],
            self.draws[:, i] - self.draws[:, j],
            self.n,
            level=self.level,
            format="+.1%",
        )
        if found.high - found.low > 1e-12:
            return found
        room = 1 - wilson(self.n, self.n, self.level).low
        low, high = max(-1.0, found.value - room), min(1.0, found.value + room)
        return Estimate(found.value, low, high, self.n, "+.1%", self.level)


# r_ab·c = (r_ab − r_ac r_bc) / √((1 − r_ac²)(1 − r_bc²))
def partial(r_ab: np.ndarray, r_ac: np.ndarray, r_bc: np.ndarray) -> np.ndarray:
    """Partial correlation of a and b with c held fixed.

    Args:
        r_ab, r_ac, r_bc: plain correlations, arrays of one shape.

    Returns:
        the same shape; NaN where c explains a or b completely.
    """
    rest = (1 - r_ac**2) * (1 - r_bc**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(rest > 1e-12, (r_ab - r_ac * r_bc) / np.sqrt(rest), np.nan)


def partial_correlations(
    scores: np.ndarray,
    truth: np.ndarray,
    looks: np.ndarray,
    *,
    versions: int = 1,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Partial correlations of scores with truth (looks held fixed) and with looks (truth held fixed).

    Args:
        scores: (N, J).
        truth, looks: (N,).
        versions: how many neighbouring rows belong to one prompt. If more than one, the mean of each prompt is
            subtracted, so that only differences within prompts count, and whole prompts are drawn.
        samples: number of bootstrap draws.
        seed: of the draws.

    Returns:
        (J, 2) values and (samples, J, 2) bootstrap draws; ``[…, 0]`` is with truth, ``[…, 1]`` with looks.
    """
    columns = np.column_stack([truth, looks, scores]).astype(np.float64)  # (N, 2 + J)
    prompts = columns.reshape(-1, versions, columns.shape[1])  # (prompts, versions, 2 + J)
    columns = (prompts - (prompts.mean(1, keepdims=True) if versions > 1 else columns.mean(0))).reshape(
        columns.shape
    )
    deviation = columns.std(0)
    columns = np.divide(columns, deviation, out=np.zeros_like(columns), where=deviation > 1e-12)
    t, o, s = columns[:, :1], columns[:, 1:2], columns[:, 2:]
    # first and second moments of truth t, looks o and scores s; (N, 5 + 4 J)
    moments = np.column_stack([t, o, s, t * t, o * o, s * s, t * o, s * t, s * o])
    moments = moments.reshape(len(prompts), versions, -1).mean(1)
    draws = [_partials(w @ moments / len(prompts)) for w in resample(len(prompts), samples, seed)]
    return _partials(moments.mean(0, keepdims=True))[0], np.concatenate(draws)


def _partials(moments: np.ndarray) -> np.ndarray:
    """(S, 5 + 4 J) means of t, o, s, t², o², s², to, st, so → (S, J, 2)."""
    j = (moments.shape[1] - 5) // 4
    t, o, s, tt, oo, ss, to, st, so = np.split(moments, np.cumsum([1, 1, j, 1, 1, j, 1, j]), axis=1)

    def correlation(
        ab: np.ndarray, a: np.ndarray, b: np.ndarray, aa: np.ndarray, bb: np.ndarray
    ) -> np.ndarray:
        spread = (aa - a * a) * (bb - b * b)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(spread > 1e-12, (ab - a * b) / np.sqrt(spread), np.nan)

    r_to = correlation(to, t, o, tt, oo)
    r_st = correlation(st, s, t, ss, tt)
    r_so = correlation(so, s, o, ss, oo)
    return np.stack([partial(r_st, r_so, r_to), partial(r_so, r_st, r_to)], axis=-1)
