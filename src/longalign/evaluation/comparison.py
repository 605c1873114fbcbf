"""Paired comparisons of runs over the same prompts: differences, win rates, and sentences where the data allow them.

Every comparison is of one run with the baseline, by one number, over the prompts that both have. With many comparisons
some differences come out large by chance. So a sentence says "better" or "worse" only where the simultaneous interval
does not contain 0: Bonferroni's, normal with the bootstrap's standard error, for all comparisons of the table together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from longalign.evaluation.sets import MeasuredSet
from longalign.metrics.intervals import percentile, resample
from longalign.metrics.metric import MetricColumn
from longalign.report import Estimate, Table, wilson

TIE = 1e-9  # differences below it are ties


@dataclass(frozen=True)
class Comparison:
    """One run against the baseline by one number.

    Attributes:
        column: of the metric.
        run, baseline: labels.
        difference: mean over the P prompts of both, run − baseline, with the bootstrap's 95 % interval.
        simultaneous: interval for all comparisons of the table together.
        wins, ties, losses: prompts for which the run is better, equal, worse.
        win_rate: (wins + ties / 2) / P, with Wilson's interval.
    """

    column: MetricColumn
    run: str
    baseline: str
    difference: Estimate
    simultaneous: tuple[float, float]
    wins: int
    ties: int
    losses: int
    win_rate: Estimate

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or ``open`` where the simultaneous interval contains 0."""
        low, high = self.simultaneous
        if not (low > 0 or high < 0):
            return "open"
        return "better" if (low > 0) == (self.column.better == "higher") else "worse"

    def words(self) -> str:
        """A sentence, where the data allow one; else empty."""
        if self.verdict == "open":
            return ""
        return (
            f"{self.run} is {self.verdict} than {self.baseline} by {self.column.name}: {self.difference} "
            f"({self.difference.interval}) over {self.difference.n:,} prompts; it wins {self.wins:,}, ties "
            f"{self.ties:,} and loses {self.losses:,}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "metric": self.column.key,
            "run": self.run,
            "baseline": self.baseline,
            "difference": self.difference.value,
            "low": self.difference.low,
            "high": self.difference.high,
            "simultaneous": list(self.simultaneous),
            "prompts": self.difference.n,
            "wins": self.wins,
            "ties": self.ties,
            "losses": self.losses,
            "verdict": self.verdict,
        }


def compare(
    measured: Sequence[MeasuredSet],
    columns: Sequence[MetricColumn],
    baseline: str,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> list[Comparison]:
    """Every run against the baseline, by every number that pictures have one by one.

    Args:
        measured: the runs.
        columns: of the metrics. Those of whole sets, such as FID, have no values of single prompts: they are left out.
        baseline: label of the run that the others are compared with.
        samples, seed: of the bootstrap.
    """
    base = next(m for m in measured if m.label == baseline)
    pairs: list[tuple[MetricColumn, MeasuredSet, np.ndarray]] = []
    for column in columns:
        of_base = base.per_prompt(column.key)
        for run in measured:
            if run is base or not of_base:
                continue
            of_run = run.per_prompt(column.key)
            shared = [key for key in of_base if key in of_run]
            if len(shared) > 1:
                pairs.append((column, run, np.array([of_run[k] - of_base[k] for k in shared])))
    z = NormalDist().inv_cdf(1 - 0.025 / max(1, len(pairs)))
    return [_compared(*pair, baseline, z, samples, seed) for pair in pairs]


def _compared(
    column: MetricColumn, run: MeasuredSet, d: np.ndarray, baseline: str, z: float, samples: int, seed: int
) -> Comparison:
    n, mean = len(d), float(d.mean())
    draws = np.concatenate([w @ d / n for w in resample(n, samples, seed)])
    half = z * float(draws.std())
    better = d if column.better == "higher" else -d
    wins, losses = int((better > TIE).sum()), int((better < -TIE).sum())
    ties = n - wins - losses
    return Comparison(
        column,
        run.label,
        baseline,
        percentile(mean, draws, n, format="+" + column.format.lstrip("+")),
        (mean - half, mean + half),
        wins,
        ties,
        losses,
        wilson(wins + ties / 2, n),
    )


def comparison_tables(comparisons: Sequence[Comparison], runs: Sequence[str]) -> list[Table]:
    """Differences and win rates: a row for each number, a column for each run.

    Args:
        comparisons: of `compare`.
        runs: labels, in order.
    """
    if not comparisons:
        return []
    baseline = comparisons[0].baseline
    others = [r for r in runs if r != baseline]
    columns = list(dict.fromkeys(c.column for c in comparisons))
    found = {(c.column, c.run): c for c in comparisons}

    def rows(rate: bool) -> list[list[str | Estimate]]:
        result: list[list[str | Estimate]] = []
        for column in columns:
            row: list[str | Estimate] = [column.title]
            for other in others:
                c = found.get((column, other))
                row.append("—" if c is None else c.win_rate if rate else c.difference)
            result.append(row)
        return result

    n = max(c.difference.n for c in comparisons)
    note = (
        f"Paired over the prompts that both runs have (up to {n:,}): means of differences with 95 % bootstrap "
        f"intervals. These are {len(comparisons)} comparisons: with so many, some intervals miss 0 by chance. The "
        "sentences above keep to intervals that hold for all of them together (Bonferroni)."
    )
    rates = (
        f"Share of the prompts for which a run is better than {baseline}, ties counted as one half, with 95 % Wilson "
        "intervals. 50 % is no difference."
    )
    return [
        Table(f"Differences from {baseline}, over the same prompts", ["", *others], rows(False), note=note),
        Table(f"Win rates against {baseline}", ["", *others], rows(True), note=rates),
    ]


def sentences_of(comparisons: Sequence[Comparison], keys: Sequence[str], most: int = 8) -> list[str]:
    """What the data allow to be said, of the most important numbers first.

    Args:
        comparisons: of `compare`.
        keys: of columns, in order of importance.
        most: how many sentences.
    """
    rank = {key: i for i, key in enumerate(keys)}
    order = sorted(comparisons, key=lambda c: rank.get(c.column.key, math.inf))
    return [words for c in order if (words := c.words())][:most]
