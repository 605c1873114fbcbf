"""FID, CMMD and diversity against hand arithmetic and plain implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.metrics import distances
from longalign.metrics.distances import (
    Moments,
    cmmd,
    diversity,
    diversity_draws,
    fid,
    frechet_distance,
)
from longalign.metrics.intervals import resample


def features(n: int, width: int, seed: int) -> Tensor:
    """Correlated features with a mean."""
    rng = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, width, generator=rng, dtype=torch.float64)
    return mixed @ torch.randn(width, width, generator=rng, dtype=torch.float64) + seed


def test_frechet_distance_of_numbers() -> None:
    """In one dimension d² = (μ_a − μ_b)² + (σ_a − σ_b)²: (1 − 4)² + (2 − 6)² = 9 + 16 = 25."""
    one = torch.ones(1)
    found = frechet_distance(1 * one, 4 * one[None], 4 * one, 36 * one[None])
    assert found == pytest.approx(25, abs=1e-12)


def test_frechet_distance_of_commuting_covariances() -> None:
    """Diagonal covariances: |δμ|² + Σ (σ_a − σ_b)² = 1 + (1 − 3)² + (2 − 2)² + (0 − 5)² = 30, though one has no full
    rank."""
    a, b = torch.tensor([1.0, 4, 0]).diag(), torch.tensor([9.0, 4, 25]).diag()
    mean = torch.zeros(3)
    assert frechet_distance(mean, a, mean + torch.tensor([0, 0, 1.0]), b) == pytest.approx(30, abs=1e-9)
    assert frechet_distance(mean + torch.tensor([0, 0, 1.0]), b, mean, a) == pytest.approx(30, abs=1e-9)


def plain_fid(x: Tensor, y: Tensor) -> float:
    """Heusel et al.'s formula with the eigenvalues of Σ_a Σ_b itself, whose roots' sum is the trace of its root."""
    a, b = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    root = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).sum().real
    delta = x.mean(0) - y.mean(0)
    return float(delta @ delta + np.trace(a) + np.trace(b) - 2 * root)


def test_fid_is_the_plain_formula() -> None:
    x, y = features(60, 8, 1), features(50, 8, 2)
    assert fid(x, y) == pytest.approx(plain_fid(x, y), rel=1e-9)
    assert fid(x, y) == pytest.approx(fid(y.numpy(), x.numpy()), rel=1e-9)


def test_fid_with_fewer_pictures_than_features() -> None:
    """Rank 4 in 64 dimensions. A set and itself have distance 0; moved by δ, |δ|² = 64 · 0.25 = 16 and nothing else."""
    x = features(5, 64, 3)
    assert fid(x, x) == pytest.approx(0, abs=1e-8)
    assert fid(x, x + 0.5) == pytest.approx(16, rel=1e-9)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    """In batches, merged from two processes, and with a large offset that would eat sums of squares."""
    x = features(40, 6, 4) + 1e6
    whole = Moments.fit([x[:7], x[7:8], x[8:]])
    merged = Moments.fit(x[:13]).merge(Moments.fit(x[13:].numpy()))
    for moments in (whole, merged):
        assert moments.count == 40
        torch.testing.assert_close(moments.mean, x.mean(0), rtol=1e-12, atol=0)
        torch.testing.assert_close(moments.covariance, x.T.cov(), rtol=1e-6, atol=1e-6)
    assert fid(whole, x) == pytest.approx(0, abs=1e-6)


def plain_cmmd(x: Tensor, y: Tensor, sigma: float, scale: float) -> float:
    """Every pair by itself, in the words of the definition."""
    x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)

    def kernel(a: Tensor, b: Tensor) -> float:
        return sum(math.exp(-float((u - v) @ (u - v)) / (2 * sigma**2)) for u in a for v in b) / (
            len(a) * len(b)
        )

    return scale * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))


def test_cmmd_by_hand() -> None:
    """One picture a side, at right angles: |x − y|² = 2, so MMD² = 1 + 1 − 2 e^(−2/2σ²). With σ = 10 and × 1000 it is
    2000 (1 − e^−0.01) = 19.9003; with σ = 1 and × 1, 2 (1 − 1/e) = 1.2642. Length does not count."""
    x, y = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.1]])
    assert cmmd(x, y) == pytest.approx(19.9003, abs=1e-4)
    assert cmmd(x, y, sigma=1, scale=1) == pytest.approx(1.2642, abs=1e-4)


@pytest.mark.parametrize("chunk", [4096, 7])
def test_cmmd_is_the_plain_one_in_any_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "_ROWS_AT_ONCE", chunk)
    x, y = features(20, 5, 5), features(15, 5, 6)
    assert cmmd(x, y) == pytest.approx(plain_cmmd(x, y, 10, 1000), rel=1e-7)
    assert cmmd(x, x) == 0


def test_diversity_by_hand() -> None:
    """Two equal pictures and one at right angles: cosines 1, 0, 0, mean 1/3. Opposite ones: 1 − (−1) = 2."""
    x = torch.tensor([[1.0, 0], [3, 0], [0, 2]])
    assert diversity(x) == pytest.approx(2 / 3)
    assert diversity(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(2)


def test_draws_of_diversity_leave_out_pairs_with_oneself() -> None:
    """Drawn twice, the first picture has two pairs with the third, and none with its copy: picks (0, 0, 2) have cosines
    0 and 0, diversity 1. One picture alone has no pair. Each once is the plain figure."""
    x = torch.tensor([[1.0, 0], [3, 0], [0, 2]])
    found = diversity_draws(x, np.array([[2.0, 0, 1], [3, 0, 0], [1, 1, 1]]))
    assert found[0] == pytest.approx(1) and math.isnan(found[1]) and found[2] == pytest.approx(diversity(x))
    many = features(30, 4, 7)
    draws = np.concatenate([diversity_draws(many, w) for w in resample(30, 400, 0)])
    assert (
        abs(draws.mean() - diversity(many)) < draws.std() / 4
    )  # unbiased, but for 20 draws' worth of chance


NAN = torch.full((3, 2), math.nan)
FINE = torch.eye(2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fid(FINE, torch.eye(3)), "width 2 and of width 3"),
        (lambda: cmmd(FINE, torch.eye(3)), "width 2 and of width 3"),
        (lambda: fid(FINE, NAN), "not finite"),
        (lambda: cmmd(NAN, FINE), "not finite"),
        (lambda: fid(FINE[:1], FINE), "at least two pictures, not 1"),
        (lambda: fid(FINE[:0], FINE), "at least one picture"),
        (lambda: cmmd(FINE[:0], FINE), "at least one picture"),
        (lambda: cmmd(FINE, FINE, sigma=0), "sigma"),
        (lambda: diversity(FINE[:1]), "1 is too few"),
        (lambda: diversity(torch.zeros(2, 2)), "no direction"),
        (lambda: diversity(torch.ones(3)), "must be"),
        (lambda: frechet_distance(FINE[0], FINE, FINE[0], torch.eye(3)), "for a mean of width 2"),
    ],
)
def test_what_cannot_be_compared_is_said(call: object, said: str) -> None:
    assert callable(call)
    with pytest.raises(LongalignError, match=said):
        call()
