"""Where the dots of an estimate plot stand, in per cent of the plot's width; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from longalign.report.data import Estimate, Table, signed


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from `low` to `high` with `ticks` on it, all in units of the data."""

    low: float
    high: float
    ticks: tuple[float, ...]
    format: str

    def at(self, value: float) -> float:
        """Position in per cent from the left, held within the axis."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def label(self, tick: float) -> str:
        return signed(tick, self.format)


@dataclass(frozen=True, slots=True)
class Group:
    """One row of a table as it is plotted: a dot for each column.

    ``show_axis`` is false where the next group has the same axis and prints it.
    """

    name: str
    dots: tuple[tuple[str, str | Estimate], ...]
    baseline: Estimate | None
    axis: Axis
    show_axis: bool


def plot_groups(table: Table) -> list[Group]:
    """The groups of `table`, one a row. Cells that are text are printed among the dots, undrawn."""
    axes = [axis_for(cell for cell in row[1:] if isinstance(cell, Estimate)) for row in table.rows]
    groups = []
    for index, (row, axis) in enumerate(zip(table.rows, axes, strict=True)):
        dots = tuple(zip(table.columns[1:], row[1:], strict=True))
        baseline = dict(dots).get(table.baseline) if table.baseline is not None else None
        groups.append(
            Group(
                name=str(row[0]),
                dots=dots,
                baseline=baseline
                if isinstance(baseline, Estimate) and math.isfinite(baseline.value)
                else None,
                axis=axis,
                show_axis=index + 1 == len(axes) or axes[index + 1] != axis,
            )
        )
    return groups


def axis_for(estimates: Iterable[Estimate]) -> Axis:
    """0 to 100 % for shares; else the range of the intervals, widened to ticks 1, 2 or 5 · 10ᵏ apart."""
    shown = [estimate for estimate in estimates if math.isfinite(estimate.value)]
    if all(e.format.endswith("%") and not (e.low < 0 or e.high > 1) for e in shown):
        return Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), ".0%")
    ends = [end for e in shown for end in (e.low, e.value, e.high) if math.isfinite(end)]
    low, high = min(ends), max(ends)
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / 3))
    step = next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    decimals = max(0, -math.floor(math.log10(step)))
    per_cent = shown[0].format.endswith("%")
    number_format = f".{max(0, decimals - 2)}%" if per_cent else f".{decimals}f"
    ticks = tuple(round(tick * step, decimals) for tick in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks, number_format)
