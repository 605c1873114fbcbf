"""Means over pictures that belong to prompts, with bootstrap intervals that draw whole prompts."""

from __future__ import annotations

import math

import numpy as np

from longalign.metrics.intervals import percentile, resample
from longalign.report import Estimate

Cell = str | Estimate


class Draws:
    """Bootstrap draws of prompts, and means over pictures with their intervals.

    Args:
        owner: (N,) which prompt each picture belongs to, from 0 on.
    """

    def __init__(self, owner: np.ndarray, samples: int, seed: int) -> None:
        self.owner = owner
        self.prompts = int(owner.max()) + 1
        self.samples, self.seed = samples, seed

    def per_prompt(self, values: np.ndarray) -> np.ndarray:
        """(N,) → (P,) sums; NaN counts as nothing."""
        return np.bincount(self.owner, np.nan_to_num(values), self.prompts)

    def mean(self, values: np.ndarray, format: str) -> tuple[float, Cell]:
        """Mean of (N,) values, those that are NaN left out; without an interval where there is one prompt alone."""
        n = int(np.isfinite(values).sum())
        if not n:
            return math.nan, "—"
        sums, counts = self.per_prompt(values), self.per_prompt(np.isfinite(values).astype(float))
        value = float(sums.sum() / counts.sum())
        with np.errstate(invalid="ignore", divide="ignore"):
            found = [(w @ sums) / (w @ counts) for w in resample(self.prompts, self.samples, self.seed)]
        return value, self.cell(value, np.concatenate(found), n, format)

    def cell(self, value: float, draws: np.ndarray, n: int, format: str) -> Cell:
        if self.prompts < 2:
            return f"{value:{format}}"
        return percentile(value, draws, n, format=format)
