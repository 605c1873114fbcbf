"""Scores against the oracle, on pictures whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from longalign.errors import LongalignError
from longalign.metrics.metric import MetricColumn
from longalign.metrics.ranks import spearman
from longalign.report import Estimate
from longalign.stickers.changes import CHANGES
from longalign.studies.trust import (
    RIGHT,
    SEVERAL,
    WORSE,
    Judged,
    Trust,
    read_results,
    sentence_auc,
    trust,
    trust_steps,
    versions_of,
    weighted_spearman,
)


def judged(key: str, version: str, truth: float, score: float) -> Judged:
    return Judged(key, version, truth, np.array([1.0, 0.0]), {"score": score}, {"m": np.array([score, 0.5])})


def test_tables_by_hand() -> None:
    """Scene a: right 0.9 above swapped 0.2. Scene b: right 0.1 below swapped 0.3. AUC 1/2. Truth 1, 0.5, 1, 0.5 against
    scores 0.9, 0.2, 0.1, 0.3: ranks of truth 3.5, 1.5, 3.5, 1.5, of scores 4, 2, 1, 3: ρ = 0."""
    pictures = [
        judged("a", RIGHT, 1, 0.9),
        judged("a", "swap", 0.5, 0.2),
        judged("b", RIGHT, 1, 0.1),
        judged("b", "swap", 0.5, 0.3),
    ]
    found = Trust([("m", MetricColumn("score", "score", ".2f", "higher"))], {"short": pictures}, 2)
    correlations, mistakes, *_ = found.tables()
    rho, swapped = correlations.rows[0][1], mistakes.rows[0][1]
    assert isinstance(rho, Estimate) and rho.value == pytest.approx(0)
    assert isinstance(swapped, Estimate) and (swapped.value, swapped.n) == (0.5, 2)
    # sentences: score against 0.5 for the false one; above it once of four
    assert sentence_auc(pictures, "m").value == pytest.approx(0.25)


def test_weights_are_repeated_pictures() -> None:
    """Weights 2, 0, 1, 1 of four pictures give the correlation of the sample in which the first is twice."""
    x, y = np.array([0, 2, 1, 1]), np.array([3, 0, 1, 2])
    chosen = [0, 0, 2, 3]
    expected = spearman(x[chosen].astype(float), y[chosen].astype(float))
    assert weighted_spearman(x, y, np.array([2.0, 0, 1, 1])) == pytest.approx(expected)


def test_versions_differ_from_the_right_picture() -> None:
    sets = versions_of(2, (7, 9))
    assert [s.label for s in sets] == [RIGHT, *CHANGES, *SEVERAL, *WORSE]
    right = np.asarray(sets[0].pictures[0].image)
    assert all((np.asarray(s.pictures[0].image) != right).any() for s in sets[1:])
    assert len({s.pictures[0].text for s in sets}) == 1


@pytest.mark.slow
def test_the_embedded_scores_see_mistakes(tmp_path: Path) -> None:
    """P(true) puts right pictures above wrong ones; results of an evaluation need an oracle."""
    counted: list[int] = []
    row = {"run": "a", "id": "0", "oracle": {"true": 0.5, "marks": ["true", "false"]}}
    row["verdict"] = {"p_true": 0.7, "sentences": [0.9, 0.1]}
    (tmp_path / "results.jsonl").write_text((json.dumps(row) + "\n") * 3)
    found = trust(
        2, metrics="verdict", results=tmp_path / "results.jsonl", device="cpu", on_step=counted.append
    )
    assert sum(counted) == trust_steps(2)
    assert found._pairs(found.columns[0][1], "repaint").value == 1
    drawn = found.tables()[-1]
    assert drawn.caption == "On drawn pictures" and str(drawn.rows[0][-1]) == "100.0%"
    (tmp_path / "other.jsonl").write_text('{"run": "a", "id": "0"}\n')
    with pytest.raises(LongalignError, match="has no oracle"):
        read_results(tmp_path / "other.jsonl")
