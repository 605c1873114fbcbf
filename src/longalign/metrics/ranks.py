"""Rank correlation and AUC, with ties."""

from __future__ import annotations

import math

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """(N,) ranks from 1 on; equal values share the mean of their ranks.

    Args:
        values: (N,).
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found: np.ndarray = (last - (counts - 1) / 2)[inverse]
    return found


# ρ: Pearson's correlation of the ranks (Spearman 1904)
def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation; NaN where one side is constant.

    Args:
        x, y: (N,).
    """
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else math.nan


# AUC = P(x⁺ > x⁻) + ½ P(x⁺ = x⁻)     (Mann and Whitney 1947)
def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive example scores above a negative one; NaN where one side is empty.

    Args:
        positive: (P,) scores.
        negative: (Q,) scores.
    """
    if not (len(positive) and len(negative)):
        return math.nan
    both = ranks(np.concatenate([positive, negative]))
    p = len(positive)
    return float(both[:p].sum() - p * (p + 1) / 2) / (p * len(negative))
