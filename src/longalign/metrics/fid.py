"""FID: Fréchet distance between the features of two sets of pictures (Heusel et al. 2017)."""

from __future__ import annotations

import math

import numpy as np

from longalign.metrics.distances import Moments, fid, rows_of
from longalign.metrics.metric import MetricColumn, Number, SetMetric
from longalign.metrics.prompt_bootstrap import TWO_NEEDED, PromptBootstrap

# Behind a FID of N pictures with D features where N ≤ D: the covariance, of rank N − 1, is then mostly missing.
TOO_FEW = "(meaningless)"
ROUNDING = 1e-6  # the distance of a set from itself is below this


class Fid(SetMetric):
    """Fréchet distance from the reference set. It is no mean over pictures, so it has no interval."""

    name = "fid"
    columns = (MetricColumn("fid", "FID", ".4g", "lower"),)
    needs = frozenset(("reference", "features"))
    by_default = True

    def from_features(
        self, x: np.ndarray, y: np.ndarray | None, bootstrap: PromptBootstrap
    ) -> dict[str, Number]:
        assert y is not None
        if min(len(x), len(y)) < 2:
            return {self.name: Number(math.nan, TWO_NEEDED)}
        found = shown_distance(fid(Moments.fit(rows_of(x)), Moments.fit(rows_of(y))))
        if min(len(x), len(y)) <= x.shape[1]:
            found = found._replace(cell=f"{found.cell} {TOO_FEW}")
        return {self.name: found}


def shown_distance(value: float) -> Number:
    """A distance with its cell; one that is only rounding shows as 0."""
    return Number(value, "0" if value < ROUNDING else f"{value:.4g}")
