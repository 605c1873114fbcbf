"""Means over pictures that belong to prompts, with bootstrap intervals that draw whole prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from longalign.metrics.intervals import percentile, resample
from longalign.report import Estimate

TableCell = str | Estimate
MISSING = "—"
TWO_NEEDED = f"{MISSING} (2 pictures needed)"


class Number(NamedTuple):
    """A number of a metric, NaN where there is none, and the cell that shows it."""

    value: float
    cell: TableCell


class PromptBootstrap:
    """Bootstrap draws of prompts with all their pictures: pictures of one prompt are not independent.

    Args:
        prompts: (N,) the prompt of each picture.
        samples: number of draws.
        seed: of the draws.

    Attributes:
        owner: (N,) number of each picture's prompt, from 0 on, in the order in which prompts come first.
        count: how many prompts there are.
    """

    def __init__(self, prompts: Sequence[str], samples: int = 2000, seed: int = 0) -> None:
        place = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompts))}
        self.owner = np.array([place[prompt] for prompt in prompts], np.int64)
        self.count = len(place)
        self.samples, self.seed = samples, seed

    def per_prompt(self, values: np.ndarray) -> np.ndarray:
        """(N,) values of pictures → (P,) sums over the pictures of each prompt. NaN counts as 0."""
        return np.bincount(self.owner, np.nan_to_num(values), self.count)

    def mean(self, values: np.ndarray, format: str) -> Number:
        """The mean of (N,) values with its interval. NaN values are left out.

        With a single prompt there is no interval.

        Args:
            values: (N,).
            format: format specification of the number.
        """
        return self.ratio(np.nan_to_num(values), np.isfinite(values), format)

    def ratio(self, of: np.ndarray, to: np.ndarray, format: str, scale: float = 1.0) -> Number:
        """Σ of / Σ to over all pictures, with its interval: the share of right answers among those asked, for example.

        With a single prompt there is no interval.

        Args:
            of: (N,) numerators. NaN counts as 0.
            to: (N,) denominators. NaN counts as 0.
            format: format specification of the number.
            scale: 100 for per cent.
        """
        n = int((np.nan_to_num(to) > 0).sum())
        if not n:
            return Number(math.nan, MISSING)
        sums, counts = self.per_prompt(of), self.per_prompt(to)
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = [(w @ sums) / (w @ counts) for w in resample(self.count, self.samples, self.seed)]
        return self.number(scale * float(sums.sum() / counts.sum()), scale * np.concatenate(draws), n, format)

    def number(self, value: float, draws: np.ndarray, n: int, format: str) -> Number:
        """A number with the interval of its bootstrap draws; a single prompt gives none.

        Args:
            value: the estimate.
            draws: (samples,) the same statistic of each draw.
            n: how many pictures stand behind it.
            format: format specification.
        """
        if self.count < 2:
            return Number(value, Estimate(value, math.nan, math.nan, n, format))
        return Number(value, percentile(value, draws, n, format=format))
