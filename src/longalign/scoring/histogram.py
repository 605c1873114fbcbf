"""Histograms as the pages draw them: all positions in per cent of the plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from longalign.report import Estimate
from longalign.report.plot import Axis, axis_for

BINS = 40


@dataclass(frozen=True)
class Series:
    """One sample: its bars as (left, width, height), each in per cent, and its mean."""

    name: str
    n: int
    mean: float
    deviation: float
    bars: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Histogram:
    """One or two samples over one axis. Heights are shares of a sample; the vertical axis ends at ``top``."""

    title: str
    x_label: str
    y_label: str
    axis: Axis
    top: float
    series: Sequence[Series]
    note: str = ""
    format: str = ".1f"

    @property
    def shares(self) -> list[tuple[float, str]]:
        """Ticks of the vertical axis: height in per cent, label."""
        return [(100 * part, f"{100 * part * self.top:.3g}%") for part in (0.0, 0.5, 1.0)]


def histogram(
    title: str,
    samples: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    y_label: str,
    note: str = "",
    format: str = ".1f",
) -> Histogram | None:
    """Histograms with common bins, the fewer the smaller the samples; None where no sample has a finite value.

    Args:
        samples: name → values; values that are not finite are left out.
    """
    finite = {name: _finite(values) for name, values in samples.items()}
    finite = {name: values for name, values in finite.items() if len(values)}
    if not finite:
        return None
    low = float(min(values.min() for values in finite.values()))
    high = float(max(values.max() for values in finite.values()))
    axis = axis_for([Estimate((low + high) / 2, low, high, 1, ".2f")])
    if low == high:  # one bar in the middle of a narrow axis
        low, high = axis.low, axis.high
    largest = max(len(values) for values in finite.values())
    bins = min(BINS, max(8, 2 * round(math.sqrt(largest))))
    edges = np.linspace(low, high, bins + 1)
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in finite.items()}
    top = _round_up(max(float(share.max()) for share in shares.values()))
    lefts = [axis.at(edge) for edge in edges]
    series = [
        Series(
            name,
            len(values),
            float(values.mean()),
            float(values.std(ddof=1)) if len(values) > 1 else 0.0,
            [
                (lefts[i], round(lefts[i + 1] - lefts[i], 3), round(100 * float(share) / top, 2))
                for i, share in enumerate(shares[name])
                if share > 0
            ],
        )
        for name, values in finite.items()
    ]
    return Histogram(title, x_label, y_label, axis, top, series, note, format)


def _finite(values: Sequence[float]) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    return found[np.isfinite(found)]


def _round_up(value: float) -> float:
    """The next of 1, 2, 3, 4, 5, 6, 8 or 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 3, 4, 5, 6, 8, 10) if value <= m * power * (1 + 1e-9))
