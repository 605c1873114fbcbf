"""Improved precision and recall of a set of pictures against a reference set (Kynkäänniemi et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.metrics.distances import Array, check_same_width, checked
from longalign.metrics.metric import MetricColumn, Number, SetMetric
from longalign.metrics.prompt_bootstrap import PromptBootstrap

_ROWS_AT_ONCE = 1024  # of a matrix of distances: 1024² float64 are 8 MiB, of which some are held at once
# Squared distances below this share of the squared lengths are rounding: such pictures have equal features.
_ROUNDING = 1e-13


# precision = share of x within the ball of some y_j;  recall = share of y within the ball of some x_i.
# The ball of a picture reaches to its k-th nearest neighbour in its own set.
def precision_recall(x: Array, y: Array, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall. Memory does not grow with the number of pictures, time does with its square.

    Args:
        x: (N, D) features of the pictures; they may lie on the disk.
        y: (M, D) features of the reference set.
        k: which neighbour the balls reach to.

    Returns:
        precision and recall, from 0 to 1.

    Raises:
        LongalignError: no more than k pictures on a side, different widths, numbers that are not finite, k below 1.
    """
    check_same_width(x.shape[-1], y.shape[-1])
    if k < 1 or min(len(x), len(y)) <= k:
        raise LongalignError(
            f"precision and recall by the k = {k} nearest neighbours need k ≥ 1 and more than k pictures on each "
            f"side; here are {len(x)} and {len(y)}"
        )
    of_x, of_y = _radii(x, k), _radii(y, k)
    precise = torch.zeros(len(x), dtype=torch.bool)
    recalled = torch.zeros(len(y), dtype=torch.bool)
    for rows in _blocks(len(x)):
        a = checked(x[rows])
        for columns in _blocks(len(y)):
            distances = _squared_distances(a, checked(y[columns]))
            precise[rows] |= (distances <= of_y[columns]).any(1)
            recalled[columns] |= (distances <= of_x[rows, None]).any(0)
    return float(precise.double().mean()), float(recalled.double().mean())


def _radii(x: Array, k: int) -> Tensor:
    """(N,) squared distance of each row to its k-th nearest other row."""
    found = []
    for rows in _blocks(len(x)):
        a = checked(x[rows])
        nearest = torch.empty(len(a), 0, dtype=torch.float64)
        for columns in _blocks(len(x)):
            distances = _squared_distances(a, checked(x[columns]))
            if rows == columns:
                distances.fill_diagonal_(math.inf)  # a row is no neighbour of itself
            both = torch.cat([nearest, distances], 1)
            nearest = both.topk(min(k, both.shape[1]), largest=False).values  # ascending
        found.append(nearest[:, -1])
    return torch.cat(found)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, D) and (M, D) → (N, M)."""
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)
    squared = torch.addmm(lengths, a, b.T, alpha=-2)
    return squared.masked_fill_(squared < _ROUNDING * lengths, 0)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(i, min(i + _ROWS_AT_ONCE, count)) for i in range(0, count, _ROWS_AT_ONCE))


@dataclass(frozen=True)
class PrecisionOptions:
    """Options of `Precision`.

    Attributes:
        k: which neighbour the balls reach to.
    """

    k: int = 3


class Precision(SetMetric):
    """Precision: which share of the pictures look like the reference. Recall: which share of it they cover."""

    name = "precision"
    columns = (
        MetricColumn("precision", "precision", ".1%", "higher"),
        MetricColumn("recall", "recall", ".1%", "higher"),
    )
    needs = frozenset(("reference", "features"))
    Options = PrecisionOptions

    def from_features(
        self, x: np.ndarray, y: np.ndarray | None, bootstrap: PromptBootstrap
    ) -> dict[str, Number]:
        """Both, or no numbers where a side has no more than k pictures.

        Args:
            x: (N, D) features of the set.
            y: (M, D) those of the reference set.
            bootstrap: is not used: draws with replacement have neighbours at distance 0.
        """
        assert y is not None
        k = self.options.k
        if min(len(x), len(y)) <= k:
            few = Number(math.nan, f"— (more than {k} pictures needed)")
            return {"precision": few, "recall": few}
        values = dict(zip(("precision", "recall"), precision_recall(x, y, k), strict=True))
        return {key: Number(value, f"{value:.1%}") for key, value in values.items()}
