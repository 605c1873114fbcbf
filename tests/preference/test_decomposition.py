"""V, η and C⊥: arithmetic, one pass over any number of prompts, and files."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_clip import WIDTH, tiny_model
from torch.nn.functional import normalize

from longalign.errors import LongalignError
from longalign.preference.decomposition import Decomposition, fit_prompts, prompt_hash
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import scene

PROMPTS = [text_of(caption(scene(i, objects=(2, 7)), i)) for i in range(11)]


def units(n: int, width: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(n, width, generator=generator, dtype=torch.float64) + 0.7, dim=-1)


def test_by_hand() -> None:
    """E of (1, 0) and (0, 1) is (½, ½), of length 1/√2, so V = (1, 1)/√2 and η = 1/√2 for both.

    C⊥ of (1, 0) is (1, 0) − ½ (1, 1) = (½, −½). With ω = 0.3 it is (½, −½) + 0.3 · (½, ½) = (0.65, −0.35).
    """
    found = Decomposition.fit(torch.eye(2))
    assert found.V.tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    assert found.mean_length == pytest.approx(math.sqrt(0.5)) and found.count == 2
    c_perp, eta = found.split(torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert c_perp.tolist() == pytest.approx([0.5, -0.5]) and eta.item() == pytest.approx(math.sqrt(0.5))
    assert found.reweight(torch.tensor([1.0, 0.0]), 0.3).tolist() == pytest.approx([0.65, -0.35])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.lists(st.integers(0, 30), max_size=4), st.integers(0, 5))
def test_one_pass_in_any_batches_and_shards_is_the_mean(n: int, cuts: list[int], shard: int) -> None:
    """Batches of any size, empty ones too, and two merged processes give the mean of all."""
    c = units(n)
    bounds = [0, *sorted(min(cut, n) for cut in cuts), n]
    streamed = Decomposition.fit(c[a:b] for a, b in pairwise(bounds))
    assert streamed.count == n
    assert torch.allclose(streamed.V, normalize(c.mean(0), dim=0), rtol=1e-12)
    if 0 < shard < n:
        merged = Decomposition.fit(c[:shard]).merge(Decomposition.fit(c[shard:]))
        assert merged.count == n and torch.allclose(merged.V, streamed.V, rtol=1e-12)


def test_sums_are_exact_whatever_the_embeddings_are() -> None:
    """2¹³ halves are 4096. Added one by one in float16 they stop at 1024, since the next number there is 1025."""
    found = Decomposition.fit(torch.full((2**13, 1), 0.5, dtype=torch.float16))
    assert found.total.item() == 4096 and found.total.dtype == torch.float64


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 100), st.floats(-2, 2))
def test_split_and_reweight_hold_together(seed: int, omega: float) -> None:
    """C⊥ ⟂ V; C⊥ + ηV = C; ω = 1 changes nothing; |C⊥|² + η² = 1; linear in C."""
    found, c = Decomposition.fit(units(20)), units(5, seed=seed)
    c_perp, eta = found.split(c)
    assert (c_perp @ found.V).abs().max() < 1e-12
    assert torch.allclose(c_perp + eta[:, None] * found.V, c)
    assert torch.allclose(found.reweight(c, 1.0), c)
    assert torch.allclose(c_perp.square().sum(-1) + eta.square(), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(found.reweight(c, omega), c_perp + omega * eta[:, None] * found.V)
    assert torch.allclose(found.split(c.mean(0))[0], c_perp.mean(0), atol=1e-12)


def test_mean_of_eta_is_the_mean_length() -> None:
    """E[C]·V = |E[C]|."""
    c = units(50)
    found = Decomposition.fit(c)
    assert found.split(c)[1].mean().item() == pytest.approx(found.mean_length)


def test_one_prompt_a_batch_leaves_nothing_but_v() -> None:
    """FACTS §1.4: estimated from a single prompt, V is that prompt, so C⊥ = 0 and ω·C is left."""
    c = units(1)
    found = Decomposition.fit(c)
    assert found.split(c)[0].norm() < 1e-12
    assert torch.allclose(found.reweight(c, 0.3), 0.3 * c)


def test_embeddings_keep_dtype_and_gradient() -> None:
    found = Decomposition.fit(units(20))
    c = units(2).float().requires_grad_()
    c_perp, _ = found.split(c)
    assert c_perp.dtype == torch.float32
    c_perp[:, 0].sum().backward()
    assert c.grad is not None and (c.grad @ found.V.float()).abs().max() < 1e-6


def test_a_file_holds_it_all(tmp_path: Path) -> None:
    found = Decomposition.fit(units(20), source=prompt_hash("all of them"))
    again = Decomposition.load(found.save(tmp_path / "new" / "v.safetensors"), width=6)
    assert torch.equal(again.total, found.total)
    assert (again.count, again.source) == (found.count, found.source)


def test_another_width_is_refused(tmp_path: Path) -> None:
    found = Decomposition.fit(units(20))
    path = found.save(tmp_path / "v.safetensors")
    with pytest.raises(LongalignError, match=r"v\.safetensors: V has width 6, .* width 8"):
        Decomposition.load(path, width=8)
    with pytest.raises(LongalignError, match=r"V has width 6, .* width 8: it was made for another"):
        found.split(units(2, width=8))
    with pytest.raises(LongalignError, match="width"):
        found.merge(Decomposition.fit(units(2, width=8)))
    with pytest.raises(LongalignError, match="are they all from one model"):
        Decomposition.fit([units(2), units(2, width=8)])


def test_files_that_hold_none(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="no such decomposition file"):
        Decomposition.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no tensors at all, just words")
    with pytest.raises(LongalignError, match="cannot be read as safetensors"):
        Decomposition.load(tmp_path / "text")
    save_file({"sum": torch.ones(3)}, tmp_path / "other.safetensors")
    with pytest.raises(LongalignError, match="no decomposition of longalign"):
        Decomposition.load(tmp_path / "other.safetensors")


def test_embeddings_that_give_none() -> None:
    with pytest.raises(LongalignError, match="at least one embedding"):
        Decomposition.fit([])
    with pytest.raises(LongalignError, match="not finite"):
        Decomposition.fit(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(LongalignError, match=r"must be \(N, D\)"):
        Decomposition.fit(torch.ones(3))
    with pytest.raises(LongalignError, match="their mean is zero"):
        _ = Decomposition.fit(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).V


def test_prompts_are_read_once_and_in_chunks() -> None:
    """An iterator serves; chunks of 4 give the same as all at once; each prompt counts as the mean of its segments."""
    model = tiny_model()
    found = fit_prompts(model, iter(PROMPTS), chunk=4)
    assert found.count == len(PROMPTS) and found.width == WIDTH
    with torch.no_grad():
        one_by_one = torch.stack(
            [model.text([s.text for s in model.segments(prompt)]).mean(0) for prompt in PROMPTS]
        )
    assert torch.allclose(found.V, normalize(one_by_one.double().mean(0), dim=0), atol=1e-6)


def test_the_hash_knows_the_prompts_but_not_their_order() -> None:
    """Shards in any order have the hash of the whole; one prompt more or less changes it."""
    model = tiny_model()
    whole = fit_prompts(model, PROMPTS)
    shards = fit_prompts(model, PROMPTS[7:]).merge(fit_prompts(model, PROMPTS[:7]))
    assert whole.source == shards.source and len(whole.source) == 64
    assert fit_prompts(model, PROMPTS[:-1]).source != whole.source
    assert fit_prompts(model, PROMPTS[:1]).source == prompt_hash(PROMPTS[0])
    assert whole.merge(Decomposition.fit(torch.ones(1, WIDTH))).source == ""
