"""FID: Fréchet distance between the features of two sets of pictures (Heusel et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longalign.metrics.distances import fid
from longalign.metrics.metric import MISSING, Metric, MetricColumn, Number, PictureBatch
from longalign.metrics.prompt_bootstrap import PromptBootstrap

# Behind a FID of N pictures with D features where N ≤ D: the covariance, of rank N − 1, is then mostly missing.
TOO_FEW = "(meaningless)"
ROUNDING = 1e-6  # the distance of a set from itself is below this


class Fid(Metric):
    """Fréchet distance from the reference set. It is no mean over pictures, so it has no interval."""

    name = "fid"
    columns = (MetricColumn("fid", "FID", ".4g", "lower"),)
    needs = frozenset(("reference", "features"))
    level = "set"
    by_default = True

    def measure(self, batch: PictureBatch) -> Sequence[Tensor]:
        """(D,) features of each picture."""
        return list(batch.features)

    def cells(
        self, values: Sequence[Any], bootstrap: PromptBootstrap, reference: Sequence[Any] | None
    ) -> dict[str, Number]:
        assert reference is not None
        if len(values) < 2:
            return {self.name: Number(math.nan, MISSING)}
        x, y = torch.stack(list(values)), torch.stack(list(reference))  # (N, D), (M, D)
        found = shown_distance(fid(x, y))
        if min(len(x), len(y)) <= x.shape[1]:
            found = found._replace(cell=f"{found.cell} {TOO_FEW}")
        return {self.name: found}


def shown_distance(value: float) -> Number:
    """A distance with its cell; one that is only rounding shows as 0."""
    return Number(value, "0" if value < ROUNDING else f"{value:.4g}")
