"""KID: squared maximum mean discrepancy of features with a polynomial kernel (Bińkowski et al. 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from longalign.errors import LongalignError
from longalign.metrics.distances import Array, check_same_width, checked
from longalign.metrics.metric import MetricColumn, Number, SetMetric
from longalign.metrics.prompt_bootstrap import TWO_NEEDED, PromptBootstrap

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # the paper's numbers; torch-fidelity's seed


# k(a, b) = (a·b / D + 1)³,   MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_{ij} k(x_i, y_j)
def kid(
    x: Array, y: Array, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = SEED
) -> tuple[float, float]:
    """KID: mean and deviation of the unbiased estimator over random subsets. It may be slightly below 0.

    A set that is smaller than ``subset_size`` lowers it for both. Where both sets are used completely, there is one
    subset. The draws are those of torch-fidelity. They depend on the seed alone. Only one pair of subsets is in memory
    in float64.

    Args:
        x, y: (N, D) and (M, D) features; they may lie on the disk.
        subsets: number of subsets.
        subset_size: pictures in a subset of each side.
        seed: of the draws.

    Returns:
        mean and standard deviation.

    Raises:
        LongalignError: fewer than two pictures on a side, different widths, numbers that are not finite, no subsets.
    """
    check_same_width(x.shape[-1], y.shape[-1])
    size = min(subset_size, len(x), len(y))
    if size < 2 or subsets < 1:
        raise LongalignError(
            f"KID needs at least two pictures on each side and one subset; here are {len(x)} and {len(y)} pictures, "
            f"and {subsets} subsets of {subset_size}"
        )
    if size == len(x) == len(y):
        subsets = 1
    rng = np.random.RandomState(seed)  # its stream is frozen, that of newer generators is not
    root = x.shape[-1] ** 0.5
    found = []
    for _ in range(subsets):
        a = checked(x[rng.choice(len(x), size, replace=False)]) / root  # (size, D)
        b = checked(y[rng.choice(len(y), size, replace=False)]) / root
        # no picture with itself
        within = sum(_kernels(c @ c.T) - _kernels(c.square().sum(1)) for c in (a, b))
        found.append(within / (size * (size - 1)) - 2 * _kernels(a @ b.T) / size**2)
    return float(np.mean(found)), float(np.std(found))


# k − 1 = t³ + 3t² + 3t. The ones cancel in MMD²; kept, they would hide what is left.
def _kernels(t: Tensor) -> float:
    """Sum of k − 1 over all t = a·b / D."""
    t = t.flatten()
    squares = t * t
    return float(squares @ t + 3 * squares.sum() + 3 * t.sum())


@dataclass(frozen=True)
class KidOptions:
    """Options of `Kid`.

    Attributes:
        subsets: number of random subsets.
        subset_size: pictures in a subset of each side.
        seed: of the draws.
    """

    subsets: int = SUBSETS
    subset_size: int = SUBSET_SIZE
    seed: int = SEED


class Kid(SetMetric):
    """KID from the reference set. The deviation over subsets is no interval, so it has none."""

    name = "kid"
    columns = (MetricColumn("kid", "KID", ".4g", "lower"),)
    needs = frozenset(("reference", "features"))
    Options = KidOptions

    def from_features(
        self, x: np.ndarray, y: np.ndarray | None, bootstrap: PromptBootstrap
    ) -> dict[str, Number]:
        """KID, or no number for fewer than two pictures on a side.

        Args:
            x: (N, D) features of the set.
            y: (M, D) those of the reference set.
            bootstrap: is not used.
        """
        assert y is not None
        if min(len(x), len(y)) < 2:
            return {"kid": Number(math.nan, TWO_NEEDED)}
        o = self.options
        value, _ = kid(x, y, o.subsets, o.subset_size, o.seed)
        return {"kid": Number(value, f"{value:.4g}".replace("-", "\N{MINUS SIGN}"))}
