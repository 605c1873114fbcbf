"""Soft tokens and where they stand in a model's text: against insertion by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from soft_token_models import (
    FAMILIES,
    STAGES,
    by_hand,
    everywhere,
    inputs,
    inserted,
    model_of,
    near,
    tokens_for,
)
from tiny_denoiser import TEXT, tiny_denoiser
from torch import nn

from longalign.errors import LongalignError
from longalign.soft_tokens import SoftTokenConfig, SoftTokens, attached


@pytest.mark.parametrize(("backbone", "parameters"), [("sd15", 79_872), ("sdxl", 8_192), ("sd3", 798_720)])
def test_the_published_sizes(backbone: Any, parameters: int) -> None:
    """4·768 + 100·768; 4·2048; 5·4·1536 + 100·5·1536."""
    with torch.device("meta"):
        tokens = SoftTokens(SoftTokenConfig.published(backbone))
    assert sum(p.numel() for p in tokens.parameters()) == parameters


def test_the_published_trainers_size_on_sd3() -> None:
    """5·4·4096 + 100·5·1536 = 81,920 + 768,000."""
    with torch.device("meta"):
        tokens = SoftTokens(SoftTokenConfig.published("sd3", token_width=4096))
    assert sum(p.numel() for p in tokens.parameters()) == 849_920


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_in_all_stages_they_are_a_longer_text(family: str) -> None:
    """A UNet whose stages all see the tokens is one that is given them within the text; SD3 is written out."""
    model, given = model_of(family), inputs(family)
    tokens = tokens_for(model, **everywhere(family))
    wanted, plain = by_hand(family, model, tokens, given), model(**given)[0]
    with tokens.attach(model):
        assert near(model(**given)[0], wanted) and not near(wanted, plain, 1e-3)
        assert near(model(**{**given, "return_dict": True}).sample, wanted)


@pytest.mark.parametrize("stages", [("down",), ("mid",), ("up",), ("mid", "down")])
@torch.no_grad()
def test_only_the_chosen_stages_see_them(stages: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the blocks of the chosen stages alone get another text."""
    model, given = model_of("sd15"), inputs("sd15")
    tokens = tokens_for(model, stages=stages)
    with tokens.attach(model):
        found = model(**given)[0]
    longer = inserted(given["encoder_hidden_states"], tokens, given["timestep"])
    blocks = {"down": model.down_blocks[0], "mid": model.mid_block, "up": model.up_blocks[1]}
    for stage in stages:

        def with_tokens(*args: Any, own: Callable = blocks[stage].forward, **kwargs: Any) -> Any:
            return own(*args, **{**kwargs, "encoder_hidden_states": longer})

        monkeypatch.setattr(blocks[stage], "forward", with_tokens)
    assert near(found, model(**given)[0])


@torch.no_grad()
def test_masked_text_stays_masked() -> None:
    """A mask over L words becomes one over L + n in which the tokens count."""
    model, given = model_of("sd15"), inputs("sd15")
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]])
    tokens = tokens_for(model, stages=STAGES)
    longer = torch.cat([mask[:, :1], torch.ones(2, 4, dtype=torch.long), mask[:, 1:]], dim=1)
    wanted = by_hand("sd15", model, tokens, {**given, "encoder_attention_mask": longer})
    with tokens.attach(model):
        assert near(model(**given, encoder_attention_mask=mask)[0], wanted)
        other = given["encoder_hidden_states"].clone()
        other[0, 3:], other[1, 1] = 9, 9  # behind the mask
        given["encoder_hidden_states"] = other
        assert near(model(**given, encoder_attention_mask=mask)[0], wanted)


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_sd3_to_the_last_block(layers: int) -> None:
    """The last one gives back no text stream that tokens could be taken out of."""
    model, given = model_of("sd3"), inputs("sd3", 4)
    tokens = tokens_for(model, layers=layers)
    with tokens.attach(model):
        assert near(model(**given)[0], by_hand("sd3", model, tokens, given))


@torch.no_grad()
def test_sd3_tokens_from_before_the_context_embedder() -> None:
    """They are those that the embedder makes of them, and the time's are added after it."""
    model, given = model_of("sd3"), inputs("sd3")
    before = tokens_for(model, token_width=TEXT)
    after = tokens_for(model)
    after.tokens.copy_(model.context_embedder(before.tokens))
    after.time.copy_(before.time)  # type: ignore[union-attr, arg-type]
    with before.attach(model):
        found = model(**given)[0]
    assert near(found, by_hand("sd3", model, after, given))


@pytest.mark.parametrize("t", [7, 430.0, torch.tensor(430), torch.tensor([430.0])], ids=type)
@torch.no_grad()
def test_one_time_for_all_rows(t: Any) -> None:
    model = model_of("sd15")
    tokens = tokens_for(model)
    with tokens.attach(model):
        each = model(**inputs("sd15", t=torch.as_tensor(t).reshape(-1).expand(2)))[0]
        assert near(model(**inputs("sd15", t=t))[0], each)


def test_time_buckets() -> None:
    """⌊t/10⌋, and t = 1000, which flow models start from, shares the last."""
    tokens = SoftTokens(SoftTokenConfig.published("sd15", width=2))
    times = torch.arange(1001)
    assert torch.equal(tokens.buckets(times), (times // 10).clamp(max=99))
    assert tokens.buckets(torch.tensor([569.99, 9.5])).tolist() == [56, 0]
    coarse = SoftTokens(SoftTokenConfig.published("sd15", width=2, buckets=4))
    assert coarse.buckets(torch.tensor([249, 250, 999])).tolist() == [0, 1, 3]


def test_start() -> None:
    """SD1.5's start from one vector; noise sets them apart, without which they would stay equal."""
    config, vector = SoftTokenConfig.published("sd15", width=3), torch.tensor([1.0, 2, 3])
    assert torch.equal(SoftTokens(config, start=vector).tokens[0], vector.expand(4, 3))
    apart = SoftTokens(config, start=vector, noise=0.01, generator=torch.Generator().manual_seed(0)).tokens[0]
    assert 0 < torch.pdist(apart).min() < 0.1 and near(apart, vector.expand(4, 3), 0.1)
    big = SoftTokens(SoftTokenConfig.published("sd15"))
    assert all(p.std().item() == pytest.approx(0.02, rel=0.1) for p in big.parameters())
    with pytest.raises(LongalignError, match=r"of shape \(1, 4, 3\) cannot start from \(2,\)"):
        SoftTokens(config, start=torch.zeros(2))


def test_another_models_tokens_are_refused_by_name() -> None:
    unet, sdxl, sd3 = (model_of(family) for family in FAMILIES)
    unet.register_to_config(_name_or_path="some/base")
    tokens = tokens_for(unet)
    with pytest.raises(
        LongalignError,
        match=r"are for Stable Diffusion 1 or 2 with text of width 8 \(some/base\), and the model is SDXL with text of",
    ):
        tokens.attach(sdxl)
    with pytest.raises(LongalignError, match="and the model is Stable Diffusion 3 with text of width 8"):
        tokens.attach(sd3)
    with pytest.raises(
        LongalignError, match=r"with text of width 768, and the model is .* width 8 \(some/base\)"
    ):
        SoftTokens(SoftTokenConfig.published("sd15")).attach(unet)
    with pytest.raises(LongalignError, match="for 5 blocks, and this model has 2"):
        SoftTokens(SoftTokenConfig.published("sd3", width=8)).attach(sd3)
    with pytest.raises(LongalignError, match="of width 9 before the context embedder, which takes 8"):
        tokens_for(sd3, token_width=9)
    with pytest.raises(LongalignError, match="the mid stage, which has no cross-attention in this UNet"):
        tokens_for(tiny_denoiser().module, stages=("down", "mid"))
    with pytest.raises(LongalignError, match="Linear is not the model of a known backbone"):
        tokens.attach(nn.Linear(2, 2))
    with torch.no_grad():
        tokens.tokens[0, 1, 2] = torch.nan
    with pytest.raises(LongalignError, match="NaN or infinity among the values"):
        tokens.attach(unet)
    assert attached(unet) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backbone": "flux", "width": 8}, "one of sd15, sdxl, sd3, not 'flux'"),
        ({"backbone": "sd15", "width": 8}, "need a stage"),
        ({"backbone": "sd15", "width": 8, "stages": ("middle",)}, "stages of a UNet are down, mid, up"),
        ({"backbone": "sd3", "width": 8, "stages": ("mid",)}, "SD3 has no stages"),
        ({"backbone": "sd3", "width": 8, "count": 0}, "must be at least 1"),
    ],
)
def test_configurations_that_make_no_sense(given: Any, message: str) -> None:
    with pytest.raises(LongalignError, match=message):
        SoftTokenConfig(**given)
    tokens = SoftTokens(SoftTokenConfig.published("sd15", width=2))
    with pytest.raises(LongalignError, match=r"lies between 0 and 1, not at 1\.5"):
        tokens.scale = 1.5
    with pytest.raises(LongalignError, match="both, cond, uncond, not 'none'"):
        tokens.branches = "none"  # type: ignore[assignment]
