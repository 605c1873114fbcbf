"""FID, CMMD, KID, precision and recall: by hand, by plain numpy, and by torchmetrics and torch-fidelity.

Tolerances are relative. Between float64 formulas they are 1e-9; where a library falls short of that, the test says by
how much.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_libraries import library
from torch import Tensor, nn

from longalign.errors import LongalignError
from longalign.metrics import METRICS, precision
from longalign.metrics.distances import Moments, cmmd, fid
from longalign.metrics.features import Features
from longalign.metrics.fid import Fid
from longalign.metrics.kid import Kid, KidOptions, kid
from longalign.metrics.metric import Number, Tools
from longalign.metrics.precision import Precision, PrecisionOptions, precision_recall
from longalign.metrics.prompt_bootstrap import PromptBootstrap


def features(n: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated float64 features."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return torch.randn(n, width, generator=rng, dtype=torch.float64) @ mixing + shift


def unit_features(n: int, width: int, seed: int) -> Tensor:
    """Unit vectors that lie close together, as C_X of a CLIP do."""
    return nn.functional.normalize(0.3 * features(n, width, seed) / width**0.5 + 1, dim=1)


class ModuleOfFeatures(nn.Module):
    """torchmetrics wants a module that makes features of pictures; here the pictures are the features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_fid_is_torchmetrics_and_torch_fidelitys() -> None:
    """More pictures than features: 1e-9. torchmetrics returns the type of the features, hence float64 here."""
    x, y = features(90, 12, 1), features(70, 12, 2, 0.5)
    theirs = (
        library("torchmetrics.image.fid")
        .FrechetInceptionDistance(ModuleOfFeatures(12))
        .set_dtype(torch.float64)
    )
    for rows, real in ((y, True), (x, False)):
        for batch in rows.split(32):
            theirs.update(batch, real=real)
    assert fid(x, y) == pytest.approx(float(theirs.compute()), rel=1e-9)
    other = library("torch_fidelity.metric_fid")
    statistics = [other.fid_features_to_statistics(rows) for rows in (x, y)]
    found = other.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert fid(x, y) == pytest.approx(found, rel=1e-9)


def test_fid_with_fewer_pictures_than_features_and_an_offset() -> None:
    """A set of 20 pictures in 64 dimensions, moved by 0.5: FID is |δ|² = 64 · 0.25 = 16.

    Both libraries take roots of the eigenvalues of Σ_a Σ_b. Where 45 of 64 should be 0, rounding makes them small and
    complex, and their roots are not small: the libraries are off by 1e-5. torchmetrics also takes covariances as
    differences of sums of squares: far from the origin nothing is left of them.
    """
    x = features(20, 64, 3)
    y = x + 0.5
    assert fid(x, y) == pytest.approx(16, rel=1e-9)
    other = library("torch_fidelity.metric_fid")
    statistics = [other.fid_features_to_statistics(rows) for rows in (x, y)]
    theirs = other.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert theirs == pytest.approx(16, rel=1e-4)
    metric = (
        library("torchmetrics.image.fid")
        .FrechetInceptionDistance(ModuleOfFeatures(64))
        .set_dtype(torch.float64)
    )
    metric.update(x + 1e6, real=True)
    metric.update(y + 1e6, real=False)
    assert abs(fid(x + 1e6, y + 1e6) - 16) < 1e-5 and abs(float(metric.compute()) - 16) > 0.01


def test_fid_of_features_without_variance() -> None:
    """All pictures equal: Σ = 0, so FID is |μ_a − μ_b|² + tr Σ_b, here 4 · 9 = 36 for two such sets."""
    one = torch.ones(5, 4)
    assert fid(one, one) == 0
    assert fid(one, one + 3) == pytest.approx(36, rel=1e-12)
    y = features(10, 4, 4)
    spread = float(y.T.cov().trace())
    assert fid(one, y) == pytest.approx(float((1 - y.mean(0)).square().sum()) + spread, rel=1e-9)


def test_moments_of_shards_merge_as_torchmetrics_adds_them_up() -> None:
    """Two shards of 30 and 20 pictures: both give the FID of the 50, ours to 1e-12 of itself."""
    x, y = features(50, 6, 5), features(40, 6, 6)
    merged = Moments.fit(x[:30]).merge(Moments.fit(x[30:]))
    assert fid(merged, y) == pytest.approx(fid(x, y), rel=1e-12)


def test_cmmd_is_torch_fidelitys_biased_rbf_estimator() -> None:
    """torch-fidelity has no CMMD, but its RBF kernel and its biased estimator are CMMD's: 1e-9 of the kernel's 1.

    1000 · 1e-12 in absolute terms, since the library keeps the ones of the kernel, which cancel.
    """
    x, y = unit_features(40, 16, 1), unit_features(30, 16, 2)
    other = library("torch_fidelity.metric_kid")
    kernels = [
        other.kernel_rbf(a.numpy(), b.numpy(), kid_kernel_rbf_sigma=10.0) for a, b in ((x, x), (x, y), (y, y))
    ]
    m = len(y)  # the library wants equal sizes: compare with as many pictures
    square = [
        other.kernel_rbf(a.numpy(), b.numpy(), kid_kernel_rbf_sigma=10.0)
        for a, b in ((x[:m], x[:m]), (x[:m], y), (y, y))
    ]
    assert cmmd(x[:m], y) == pytest.approx(1000 * other.mmd2(*square, mmd_est="biased"), abs=1e-9)
    plain = kernels[0].mean() + kernels[2].mean() - 2 * kernels[1].mean()
    assert cmmd(x, y) == pytest.approx(1000 * plain, abs=1e-9)


def test_kid_by_hand() -> None:
    """D = 1, x = (0, 1), y = (2, 3), k(a, b) = (ab + 1)³.

    k(0, 1) = 1; k(2, 3) = 343; k(x, y) = 1, 1, 27, 64, of mean 23.25. KID = 1 + 343 − 46.5 = 297.5.
    """
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    assert kid(x, y) == (pytest.approx(297.5, rel=1e-12), 0)


def test_kid_is_torchmetrics_on_whole_sets() -> None:
    """Subsets as large as the sets, so that torchmetrics' draws from the global generator do not matter: 1e-9.

    In float32, which our features are, the difference of sums near 1 loses torchmetrics most of the value for unit
    features.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it keeps all features in memory, and says so
        make = library("torchmetrics.image.kid").KernelInceptionDistance

        def theirs(x: Tensor, y: Tensor) -> float:
            metric = make(ModuleOfFeatures(x.shape[1]), subsets=1, subset_size=len(x))
            metric.update(y, real=True)
            metric.update(x, real=False)
            with torch.random.fork_rng():
                return float(metric.compute()[0])

        x, y = features(60, 8, 1), features(60, 8, 2, 0.3)
        assert kid(x, y)[0] == pytest.approx(theirs(x, y), rel=1e-9)
        x, y = unit_features(200, 768, 1).float(), unit_features(200, 768, 2).float()
        exact = kid(x.double(), y.double())[0]
        assert kid(x, y)[0] == pytest.approx(exact, rel=1e-9)
        assert abs(theirs(x, y) - exact) > 0.1 * abs(exact)


def test_kid_is_torch_fidelitys_on_subsets() -> None:
    """The same draws for the same seed: mean and deviation over 7 subsets of 20 agree to 1e-9."""
    x, y = features(50, 8, 1), features(64, 8, 2, 0.3)
    found = library("torch_fidelity.metric_kid").kid_features_to_metric(
        x, y, kid_subsets=7, kid_subset_size=20, rng_seed=5, verbose=False
    )
    mean, deviation = kid(x, y, 7, 20, 5)
    assert mean == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-9)
    assert deviation == pytest.approx(found["kernel_inception_distance_std"], rel=1e-6)


def test_kid_is_the_same_to_the_bit_each_time() -> None:
    """Whatever other code draws in between."""
    x, y = features(50, 8, 1).float().numpy(), features(40, 8, 2).float().numpy()
    first = kid(x, y, 5, 20)
    np.random.seed(1)
    torch.manual_seed(1)
    assert kid(x, y, 5, 20) == first != kid(x, y, 5, 20, seed=1)


def plain_precision(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Share of x within the ball of some y, picture by picture."""
    hits = 0
    for a in x:
        for j, b in enumerate(y):
            radius = sorted(np.linalg.norm(y - b, axis=1)[np.arange(len(y)) != j])[k - 1]
            if np.linalg.norm(a - b) <= radius:
                hits += 1
                break
    return hits / len(x)


def test_precision_and_recall_by_hand() -> None:
    """On a line, k = 1. x = 0, 1, 5: balls reach 1, 1, 4. y = 1.5, 2, 9: balls reach 0.5, 0.5, 7.

    x: 0 is 1.5 from the nearest y and 9 from the wide ball: outside; 1 is 0.5 from 1.5: inside; 5 is 4 from 9: inside.
    Precision 2/3. y: 1.5 is 0.5 from 1: inside; 2 is 1 from 1: inside; 9 is 4 from 5: inside. Recall 1.
    """
    x, y = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[1.5], [2.0], [9.0]])
    assert precision_recall(x, y, 1) == (pytest.approx(2 / 3), 1)


@pytest.mark.parametrize("at_once", [1024, 7])
def test_precision_and_recall_are_the_plain_definition_and_torch_fidelitys(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts are equal, in one block and in blocks of 7."""
    monkeypatch.setattr(precision, "_ROWS_AT_ONCE", at_once)
    x, y = features(33, 4, 1), features(26, 4, 2, 3.0)
    found = precision_recall(x.numpy(), y.numpy())
    assert found == (plain_precision(x.numpy(), y.numpy(), 3), plain_precision(y.numpy(), x.numpy(), 3))
    assert 0.1 < found[0] < 0.95 and 0.1 < found[1] < 0.95
    theirs = library("torch_fidelity.metric_prc").prc_features_to_metric(x, y, verbose=False)
    assert found == (pytest.approx(theirs["precision"], rel=1e-6), pytest.approx(theirs["recall"], rel=1e-6))


def test_precision_of_features_without_variance() -> None:
    """Equal pictures have balls of radius 0, which hold equal pictures and no others.

    |a|² + |b|² − 2 a·b is not quite 0 for equal features, and differs from place to place.
    """
    one = features(1, 300, 1).float().expand(40, -1)
    assert precision_recall(one, one) == (1, 1)
    assert precision_recall(one, one + 1e-3) == (0, 0)


def tools(width: int) -> Tools:
    return Tools(reference="x", features=Features("f", "f", lambda pixels: torch.zeros(len(pixels), width)))


def test_the_metrics_give_cells() -> None:
    """KID and precision of 60 pictures; and what they say of too few."""
    x, y = features(60, 4, 1).float().numpy(), features(60, 4, 2).float().numpy()
    draws = PromptBootstrap([str(i) for i in range(60)])
    found = Kid(tools(4), KidOptions(subsets=3, subset_size=20)).from_features(x, y, draws)["kid"]
    assert found.value == kid(x, y, 3, 20)[0] and found.cell == f"{found.value:.4g}"
    both = Precision(tools(4)).from_features(x, y, draws)
    assert (both["precision"].value, both["recall"].value) == precision_recall(x, y)
    assert both["recall"].cell == f"{both['recall'].value:.1%}"
    few = Precision(tools(4), PrecisionOptions(k=5)).from_features(x[:5], y, draws)["recall"]
    assert math.isnan(few.value) and few.cell == "— (more than 5 pictures needed)"
    assert math.isnan(Kid(tools(4)).from_features(x[:1], y, draws)["kid"].value)
    assert METRICS["kid"] is Kid and METRICS["precision"] is Precision


def test_features_on_the_disk_are_only_read(tmp_path: Path) -> None:
    """As the evaluation keeps them: float32 in a file that cannot be written. No warning, the same numbers."""
    x, y = features(30, 4, 1).float().numpy(), features(40, 4, 2).float().numpy()
    np.concatenate([x, y]).tofile(tmp_path / "features")
    both = np.memmap(tmp_path / "features", np.float32, "r", shape=(70, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kid(both[:30], both[30:], 3, 20) == kid(x, y, 3, 20)
        assert precision_recall(both[:30], both[30:]) == precision_recall(x, y)
        assert fid(both[:30], both[30:]) == fid(x, y)
        assert cmmd(both[:30], both[30:]) == cmmd(x, y)


def test_fid_says_what_it_is_worth() -> None:
    """Too few pictures for the width: meaningless. No variance: 0, which is true. One picture: no covariance."""
    draws = PromptBootstrap([str(i) for i in range(10)])
    x, y = features(10, 16, 1).float().numpy(), features(40, 16, 2).float().numpy()
    metric = Fid(tools(16))
    assert metric.from_features(x, y, draws)["fid"].cell == f"{fid(x, y):.4g} (meaningless)"
    one = np.ones((40, 16), np.float32)
    assert metric.from_features(one, one, draws)["fid"] == Number(0, "0")
    few = metric.from_features(x[:1], y, draws)["fid"]
    assert math.isnan(few.value) and few.cell == "— (2 pictures needed)"


def test_errors() -> None:
    x = features(5, 4, 1)
    with pytest.raises(LongalignError, match="KID needs at least two pictures on each side"):
        kid(x[:1], x)
    with pytest.raises(LongalignError, match="0 subsets"):
        kid(x, x, subsets=0)
    with pytest.raises(LongalignError, match="features of width 4 and of width 3"):
        kid(x, x[:, :3])
    with pytest.raises(LongalignError, match="features of width 3 and of width 4"):
        precision_recall(x[:, :3], x)
    with pytest.raises(LongalignError, match=r"more than k pictures on each side; here are 5 and 3"):
        precision_recall(x, x[:3])
    with pytest.raises(LongalignError, match="not finite"):
        precision_recall(x * math.nan, x)
