"""Rank correlation and AUC by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from longalign.metrics.ranks import auc, ranks, spearman


def test_ranks_of_equal_values_are_shared() -> None:
    """3, 1, 3, 2: ranks 3.5, 1, 3.5, 2."""
    assert ranks(np.array([3.0, 1, 3, 2])).tolist() == [3.5, 1, 3.5, 2]


def test_spearman_by_hand() -> None:
    """Ranks 1 2 3 and 1 3 2: ρ = 1 − 6·(0 + 1 + 1) / (3·8) = 0.5. With ties it is Pearson's of the ranks."""
    assert spearman(np.array([10.0, 20, 30]), np.array([1.0, 9, 4])) == pytest.approx(0.5)
    x, y = np.array([1.0, 1, 2, 5]), np.array([3.0, 4, 4, 9])
    assert spearman(x, y) == pytest.approx(np.corrcoef([1.5, 1.5, 3, 4], [1, 2.5, 2.5, 4])[0, 1])
    assert math.isnan(spearman(np.ones(3), np.arange(3.0)))


def test_auc_counts_pairs() -> None:
    """2 and 3 against 1 and 2: pairs 2>1, 2=2, 3>1, 3>2 give (1 + ½ + 1 + 1) / 4."""
    assert auc(np.array([2.0, 3]), np.array([1.0, 2])) == pytest.approx(3.5 / 4)
    assert math.isnan(auc(np.array([]), np.array([1.0])))
