"""Distances between two sets of pictures (FID, CMMD) and diversity within one set.

They are functions of features, (N, D), of any extractor (`longalign.metrics.features`), in float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longalign.errors import LongalignError

Array = Tensor | np.ndarray

_ROWS_AT_ONCE = 1024  # of a kernel matrix: 1024² float64 are 8 MiB


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of features, from one pass. Those of several processes can be merged.

    Attributes:
        count: N.
        mean: (D,) float64.
        scatter: (D, D) float64, Σ (x − mean)(x − mean)ᵀ.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def fit(cls, features: Array | Iterable[Array]) -> Moments:
        """The moments of features.

        Args:
            features: (N, D), or an iterable of batches of them.

        Raises:
            LongalignError: no features, batches of different widths, numbers that are not finite.
        """
        total: Moments | None = None
        for batch in [features] if isinstance(features, (Tensor, np.ndarray)) else features:
            x = checked(batch)
            if len(x):
                mean = x.mean(0)
                part = cls(len(x), mean, (x - mean).T @ (x - mean))
                total = part if total is None else total.merge(part)
        if total is None:
            raise LongalignError("mean and covariance need at least one picture; there is none")
        return total

    # N = N_a + N_b,  δ = μ_b − μ_a,  μ = μ_a + δ N_b/N,  S = S_a + S_b + δδᵀ N_a N_b / N   (Chan et al. 1979)
    def merge(self, other: Moments) -> Moments:
        """The moments of both sets together.

        Raises:
            LongalignError: they have different widths.
        """
        check_same_width(self.width, other.width)
        count = self.count + other.count
        delta = other.mean - self.mean
        spread = torch.outer(delta, delta) * (self.count * other.count / count)
        return Moments(
            count, self.mean + delta * (other.count / count), self.scatter + other.scatter + spread
        )

    @property
    def width(self) -> int:
        """D."""
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """(D, D) unbiased covariance, divided by N − 1.

        Raises:
            LongalignError: fewer than two pictures.
        """
        if self.count < 2:
            raise LongalignError(f"a covariance needs at least two pictures, not {self.count}")
        return self.scatter / (self.count - 1)


# d² = |μ_a − μ_b|² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½        (Heusel et al. 2017, Eq. 6; Fréchet 1957)
def frechet_distance(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """The squared Fréchet distance of two Gaussians, which is what FID reports (Heusel et al. 2017, Eq. 6).

    Σ_a Σ_b is not symmetric, and with fewer pictures than features it has not full rank, so that a general matrix root
    fails. With Σ_a = W Wᵀ, where the columns of W are the directions in which a varies, tr (Σ_a Σ_b)^½ is the sum of
    the square roots of the eigenvalues of the symmetric Wᵀ Σ_b W.

    Args:
        mean_a, mean_b: (D,).
        cov_a, cov_b: (D, D).

    Raises:
        LongalignError: different widths, numbers that are not finite.
    """
    means = [_finite(torch.as_tensor(m).detach().to("cpu", torch.float64)) for m in (mean_a, mean_b)]
    covs = [_finite(torch.as_tensor(c).detach().to("cpu", torch.float64)) for c in (cov_a, cov_b)]
    check_same_width(len(means[0]), len(means[1]))
    for mean, cov in zip(means, covs, strict=True):
        if cov.shape != (len(mean), len(mean)):
            raise LongalignError(f"a covariance of {tuple(cov.shape)} for a mean of width {len(mean)}")
    values, vectors = torch.linalg.eigh(covs[0])
    kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    w = vectors[:, kept] * values[kept].sqrt()  # (D, rank)
    root = torch.linalg.eigvalsh(w.T @ covs[1] @ w).clamp(min=0).sqrt().sum()
    delta = means[0] - means[1]
    return max(0.0, float(delta @ delta + covs[0].trace() + covs[1].trace() - 2 * root))


def fid(x: Array | Moments, y: Array | Moments) -> float:
    """FID: the squared Fréchet distance between the features of two sets of pictures.

    It falls with the number of pictures (Chong and Forsyth 2020), so compare only values of equally large sets.

    Args:
        x, y: (N, D) features or moments of each set.

    Raises:
        LongalignError: fewer than two pictures on a side, different widths, numbers that are not finite.
    """
    a, b = (side if isinstance(side, Moments) else Moments.fit(side) for side in (x, y))
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


# MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y),   k(a, b) = exp(−|a − b|² / 2σ²)
def cmmd(x: Array, y: Array, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """CMMD: squared maximum mean discrepancy of L2-normalised features, × 1000 (Jayasumana et al. 2024).

    As in the paper's code the estimator is the biased one: its means include the pairs of a picture with itself. The
    distance of a set from itself is 0, and two samples of one distribution have a distance slightly above 0.

    Args:
        x, y: (N, D) and (M, D); the paper takes CLIP-L/14 at 336 px.
        sigma: σ of the kernel.
        scale: factor of the result.

    Raises:
        LongalignError: no picture on a side, different widths, numbers that are not finite, features that are zero.
    """
    a, b = unit(x), unit(y)
    check_same_width(a.shape[1], b.shape[1])
    if not (len(a) and len(b)):
        raise LongalignError("CMMD needs at least one picture on each side; there is none")
    if not sigma > 0:
        raise LongalignError(f"the kernel's sigma must be above 0, not {sigma}")
    found = _mean_kernel(a, a, sigma) + _mean_kernel(b, b, sigma) - 2 * _mean_kernel(a, b, sigma)
    return scale * max(0.0, found)


def _mean_kernel(a: Tensor, b: Tensor, sigma: float) -> float:
    """Mean of k − 1 over all pairs of unit vectors. The ones cancel in MMD²; kept, they would hide what is left."""
    total = 0.0
    for i in a.split(_ROWS_AT_ONCE):
        for j in b.split(_ROWS_AT_ONCE):
            squared = (2 - 2 * (i @ j.T)).clamp(min=0)
            total += float(torch.expm1(squared / (-2 * sigma * sigma)).sum())
    return total / (len(a) * len(b))


# 1 − (2 / N(N−1)) Σ_{i<j} cos(x_i, x_j),   Σ_{i≠j} u_i·u_j = |Σ u|² − N for unit vectors u
def diversity(x: Array) -> float:
    """1 minus the mean cosine similarity between the features of different pictures: 0 if all are equal.

    Args:
        x: (N, D) features.

    Raises:
        LongalignError: fewer than two pictures, numbers that are not finite, features that are zero.
    """
    u = unit(x)
    if len(u) < 2:
        raise LongalignError(f"diversity compares pictures with each other: {len(u)} is too few")
    total = u.sum(0)
    return 1 - (float(total @ total) - len(u)) / (len(u) * (len(u) - 1))


def diversity_draws(x: Array, counts: np.ndarray) -> np.ndarray:
    """`diversity` of bootstrap draws. Two copies of one picture do not count as a pair of different pictures.

    Args:
        x: (N, D).
        counts: (S, N) how often each picture is drawn (`metrics.intervals.resample`).

    Returns:
        (S,); NaN if a draw has only one picture.
    """
    u, weights = unit(x), torch.as_tensor(counts, dtype=torch.float64)
    squares = (weights**2).sum(1)
    pairs = weights.sum(1) ** 2 - squares
    cosines = (weights @ u).square().sum(1) - squares
    return torch.where(pairs > 0, 1 - cosines / pairs, math.nan).numpy()


def rows_of(features: np.ndarray) -> Iterator[np.ndarray]:
    """Some thousand rows at a time of features that may lie on the disk.

    Args:
        features: (N, D).
    """
    for start in range(0, len(features), _ROWS_AT_ONCE):
        yield np.asarray(features[start : start + _ROWS_AT_ONCE])


def checked(features: Array) -> Tensor:
    """(N, D) features in float64 on the CPU.

    Raises:
        LongalignError: another shape, numbers that are not finite.
    """
    # A copy: torch warns of arrays that cannot be written, such as those on the disk.
    rows = np.array(features, np.float64) if isinstance(features, np.ndarray) else features
    x = torch.as_tensor(rows).detach()
    if x.ndim != 2:
        raise LongalignError(f"features must be (pictures, width), not {tuple(x.shape)}")
    return _finite(x.to("cpu", torch.float64))


def unit(features: Array) -> Tensor:
    """(N, D) features with rows of length 1, in float64 on the CPU.

    Raises:
        LongalignError: as `checked`; a row is zero.
    """
    x = checked(features)
    length = x.norm(dim=1, keepdim=True)
    if (length == 0).any():
        raise LongalignError("a picture's features are all zero, so they have no direction")
    return x / length


def _finite(x: Tensor) -> Tensor:
    if not x.isfinite().all():
        raise LongalignError("a picture's features are not finite: try the model in float32")
    return x


def check_same_width(a: int, b: int) -> None:
    """Refuse features of two extractors.

    Args:
        a, b: widths of the features of two sets.

    Raises:
        LongalignError: they differ.
    """
    if a != b:
        raise LongalignError(
            f"features of width {a} and of width {b}: both sets must go through one extractor"
        )
