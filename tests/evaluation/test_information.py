"""The contrastive bound on mutual information: by hand, against a known value, with tokens and from the terminal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from picture_objectives import LENGTH, data
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.errors import LongalignError
from longalign.evaluation.information import (
    WITH,
    WITHOUT,
    Information,
    InformationConfig,
    ceiling,
    information,
)
from longalign.objectives.contrastive.pairs import batches_of, row_figures
from longalign.soft_tokens import SoftTokenConfig, SoftTokens


def test_figures_of_a_batch_by_hand() -> None:
    """E = ((0, 0.07), (0, 0.07)): row 0 finds its caption, row 1 takes the wrong one. Logits 4 and 4/e in both rows.

    L = log(1 + e^(4/e − 4)) = 0.0767 and log(1 + e^(4 − 4/e)) = 2.6052, so log 2 − L = 0.6164 and −1.9120.
    """
    errors = torch.tensor([[0.0, 0.07], [0.0, 0.07]], dtype=torch.float64)
    found = row_figures(errors)
    assert found["accuracy"].tolist() == [1, 0] and found["matched"].tolist() == [0, 0.07]
    assert found["contrast"].tolist() == pytest.approx([0.0767, 2.6052], abs=1e-4)
    assert found["information"].tolist() == pytest.approx([0.6164, -1.9120], abs=1e-4)


def test_a_caption_that_comes_twice_counts_once() -> None:
    """Three captions, the first two the same: rows 0 and 1 choose between two, row 2 among three."""
    errors = torch.zeros(3, 3)
    same = torch.tensor([[False, True, False], [True, False, False], [False, False, False]])
    found = row_figures(errors, same)
    assert found["contrast"].tolist() == pytest.approx([math.log(2), math.log(2), math.log(3)])
    assert found["information"].tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_the_ceiling() -> None:
    """Own error 0, others infinite: logits 4 and 0, L = log(1 + 15 e⁻⁴) = 0.2428 of log 16 = 2.7726."""
    errors = torch.full((16, 16), torch.inf).fill_diagonal_(0)
    assert row_figures(errors)["information"].mean().item() == pytest.approx(ceiling(16, 4.0), abs=1e-6)
    assert ceiling(16, 4.0) == pytest.approx(2.7726 - 0.2428, abs=1e-4)


def test_it_is_a_lower_bound() -> None:
    """x is one of 8 things and y says which, rightly in 3 of 4 cases, else any other: I = log 8 − H(y | x) = 1.0306.

    With the best logits, log p(y | x), errors are E = −τ log(logit / s), and batches of 64 come near it from below.
    """
    known = math.log(8) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25 / 7)
    assert known == pytest.approx(1.0306, abs=1e-4)
    rng = np.random.default_rng(0)
    bounds = []
    for _ in range(200):
        x = rng.integers(8, size=64)
        y = np.where(rng.random(64) < 0.75, x, (x + rng.integers(1, 8, size=64)) % 8)
        wanted = torch.tensor(
            np.where(x[:, None] == y, math.log(0.75 * 28), 0.0) + 0.5
        )  # any constant may be added
        errors = -0.07 * (wanted / 4).log()
        bounds.append(float(row_figures(errors)["information"].mean()))
    assert 0.9 < np.mean(bounds) < known + 2 * np.std(bounds) / math.sqrt(200)


def test_batches() -> None:
    assert batches_of([range(9)], 4) == [range(4), range(4, 8)] and batches_of([range(3)], 4) == [range(3)]
    assert batches_of([range(1)], 4) == [] == batches_of([], 4)


def test_intervals_are_over_batches() -> None:
    """Batches of means 0 and 1 and tokens that add ½ to each: the difference has no spread, the means have."""
    values = np.array([0.0, 1.0] * 8)
    sides = {
        side: dict.fromkeys(("information", "contrast", "accuracy", "matched"), values + add)
        for side, add in ((WITHOUT, 0.0), (WITH, 0.5))
    }
    found = Information(4, 1.2, list(range(16)), sides)
    mean, delta = found.estimate(WITHOUT, "information"), found.difference("information")
    assert mean.value == 0.5 and mean.low == pytest.approx(0.25, abs=0.07) and mean.n == 64
    assert (delta.value, delta.low, delta.high) == pytest.approx((0.5, 0.5, 0.5))
    whole, by_time = found.tables()
    assert [row[0] for row in whole.rows] == [WITHOUT, WITH, "difference"] and len(by_time.rows) == 3
    assert found.to_json()["figures"]["difference"]["information"]["value"] == 0.5


def measure(tokens: Any = None, **config: Any) -> Information:
    settings = {"length": LENGTH, "rows": 8, "batch": 4, "temperature": 2.0, "pairs_at_once": 5, **config}
    return information(tiny.tiny_sd15(), data(8), InformationConfig(**settings), tokens=tokens)


def test_with_and_without_tokens() -> None:
    """The side without tokens is the untouched model's, the other one another, and the model is left as it was."""
    pipe = tiny.tiny_sd15()
    tokens = SoftTokens(SoftTokenConfig.of(pipe.unet))
    with torch.no_grad():
        tokens.tokens.mul_(100)
    bare, both = measure(), measure(tokens)
    assert list(bare.means) == [WITHOUT] and len(bare.times) == 2 and bare.times == both.times
    for name, values in bare.means[WITHOUT].items():
        assert np.array_equal(values, both.means[WITHOUT][name])
    assert not np.allclose(both.means[WITH]["matched"], both.means[WITHOUT]["matched"])
    assert tokens.scale == 1
    tokens.attach(pipe.unet)  # they are on no model any more


def test_what_cannot_be() -> None:
    with pytest.raises(
        LongalignError, match="two batches or more of at least 2 pictures; there are 8 pictures"
    ):
        measure(batch=8)
    with pytest.raises(LongalignError, match="these soft tokens are for Stable Diffusion 3"):
        measure(SoftTokens(SoftTokenConfig.published("sd3")))


@pytest.mark.slow  # the embedded model
def test_from_the_terminal(tmp_path: Path) -> None:
    """Tokens that say nothing yet, on twelve small scenes: a run folder and its numbers as JSON."""
    from longalign.weights.stack import (
        load_pipeline,
    )

    file = SoftTokens(SoftTokenConfig.of(load_pipeline(device="cpu").unet)).save(tmp_path)
    command = ["information", "--soft-tokens", str(file), "--rows", "12", "--batch", "3", "--objects", "1-3"]
    result = CliRunner().invoke(app, [*command, "--device", "cpu", "--json", "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found["figures"]) == {WITHOUT, WITH, "difference"} and found["batches"] == 4
    assert found["figures"][WITHOUT]["information"]["value"] <= found["ceiling"]
    assert (tmp_path / "run" / "report.html").is_file()
    refused = CliRunner().invoke(
        app, [*command[:3], "--rows", "4", "--batch", "3", "--out", str(tmp_path / "no")]
    )
    assert isinstance(refused.exception, LongalignError) and "two batches of 3" in str(refused.exception)
