"""Diversity: 1 minus the mean cosine similarity between the features of different pictures of a set."""

from __future__ import annotations

import math

import numpy as np

from longalign.metrics.distances import diversity, diversity_draws
from longalign.metrics.intervals import resample
from longalign.metrics.metric import MetricColumn, Number, SetMetric
from longalign.metrics.prompt_bootstrap import TWO_NEEDED, PromptBootstrap


class Diversity(SetMetric):
    """How much the pictures of one set differ from each other. It falls where a model forgets what it can draw."""

    name = "diversity"
    columns = (MetricColumn("diversity", "diversity", ".3f", "higher"),)
    by_default = True

    def from_features(
        self, x: np.ndarray, y: np.ndarray | None, bootstrap: PromptBootstrap
    ) -> dict[str, Number]:
        if len(x) < 2:
            return {self.name: Number(math.nan, TWO_NEEDED)}
        features = np.asarray(x)
        draws = [
            diversity_draws(features, w[:, bootstrap.owner])
            for w in resample(bootstrap.count, bootstrap.samples, bootstrap.seed)
        ]
        return {self.name: bootstrap.number(diversity(features), np.concatenate(draws), len(x), ".3f")}
