"""Diversity: 1 minus the mean cosine similarity between the features of different pictures of a set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longalign.metrics.distances import diversity, diversity_draws
from longalign.metrics.intervals import resample
from longalign.metrics.metric import MISSING, Metric, MetricColumn, Number, PictureBatch
from longalign.metrics.prompt_bootstrap import PromptBootstrap


class Diversity(Metric):
    """How much the pictures of one set differ from each other. It falls where a model forgets what it can draw."""

    name = "diversity"
    columns = (MetricColumn("diversity", "diversity", ".3f", "higher"),)
    needs = frozenset(("features",))
    level = "set"
    by_default = True

    def measure(self, batch: PictureBatch) -> Sequence[Tensor]:
        """(D,) features of each picture."""
        return list(batch.features)

    def cells(
        self, values: Sequence[Any], bootstrap: PromptBootstrap, reference: Sequence[Any] | None
    ) -> dict[str, Number]:
        if len(values) < 2:
            return {self.name: Number(math.nan, MISSING)}
        x = torch.stack(list(values))  # (N, D)
        draws = [
            diversity_draws(x, w[:, bootstrap.owner])
            for w in resample(bootstrap.count, bootstrap.samples, bootstrap.seed)
        ]
        return {self.name: bootstrap.number(diversity(x), np.concatenate(draws), len(x), ".3f")}
