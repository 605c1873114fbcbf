"""CMMD: squared maximum mean discrepancy between the features of two sets of pictures (Jayasumana et al. 2024)."""

from __future__ import annotations

import numpy as np

from longalign.metrics.distances import cmmd
from longalign.metrics.fid import shown_distance
from longalign.metrics.metric import MetricColumn, Number, SetMetric
from longalign.metrics.prompt_bootstrap import PromptBootstrap


class Cmmd(SetMetric):
    """CMMD from the reference set. It is no mean over pictures, so it has no interval."""

    name = "cmmd"
    columns = (MetricColumn("cmmd", "CMMD", ".4g", "lower"),)
    needs = frozenset(("reference", "features"))
    by_default = True

    def from_features(
        self, x: np.ndarray, y: np.ndarray | None, bootstrap: PromptBootstrap
    ) -> dict[str, Number]:
        assert y is not None
        return {self.name: shown_distance(cmmd(np.asarray(x), np.asarray(y)))}
