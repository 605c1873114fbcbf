"""CMMD: squared maximum mean discrepancy between the features of two sets of pictures (Jayasumana et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longalign.metrics.distances import cmmd
from longalign.metrics.fid import shown_distance
from longalign.metrics.metric import Metric, MetricColumn, Number, PictureBatch
from longalign.metrics.prompt_bootstrap import PromptBootstrap


class Cmmd(Metric):
    """CMMD from the reference set. It is no mean over pictures, so it has no interval."""

    name = "cmmd"
    columns = (MetricColumn("cmmd", "CMMD", ".4g", "lower"),)
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
        return {self.name: shown_distance(cmmd(torch.stack(list(values)), torch.stack(list(reference))))}
