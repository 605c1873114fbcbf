"""Soft tokens on a model beside everything else that it may carry, and off it again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from soft_token_models import (
    FAMILIES,
    LENGTH,
    STAGES,
    by_hand,
    everywhere,
    inputs,
    inserted,
    model_of,
    near,
    three_stage_unet,
    tokens_for,
)
from tiny_denoiser import SIDE, TEXT, conditioning, scheduler, tiny_denoiser
from torch import Tensor

from longalign.diffusion.denoiser import Denoiser
from longalign.errors import LongalignError
from longalign.soft_tokens import attached
from longalign.weights import lora
from longalign.weights.fingerprint import fingerprint


@torch.no_grad()
def test_beside_an_ip_adapters_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its UNet hands (text, images) to the blocks: the tokens go into the text."""
    model, given = model_of("sd15"), inputs("sd15")
    images = [torch.randn(2, 1, 3, TEXT)]
    monkeypatch.setattr(
        model,
        "process_encoder_hidden_states",
        lambda encoder_hidden_states, **_: (encoder_hidden_states, images),
    )
    for name, processor in list(model.attn_processors.items()):
        if "attn2" in name:
            processor = IPAdapterAttnProcessor2_0(8, TEXT, num_tokens=(3,))
        model.get_submodule(name.removesuffix(".processor")).set_processor(processor)
    tokens = tokens_for(model, stages=STAGES)
    wanted = by_hand("sd15", model, tokens, given)
    with tokens.attach(model):
        assert near(model(**given)[0], wanted)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_scale_0_and_detaching_leave_the_model_bit_equal(family: str) -> None:
    model, given = model_of(family), inputs(family)
    plain, state = model(**given)[0], list(model.state_dict())
    tokens = tokens_for(model)
    attachment = tokens.attach(model, scale=0)
    assert torch.equal(model(**given)[0], plain) and list(model.state_dict()) == state
    assert attached(model) is tokens
    tokens.scale = 1
    with_tokens = model(**given)[0]
    assert not near(with_tokens, plain, 1e-3)
    tokens.scale = 0.25
    assert near(model(**given)[0], 0.75 * plain + 0.25 * with_tokens)
    attachment.detach()
    assert torch.equal(model(**given)[0], plain) and attached(model) is None
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sum(hooks) == 0
    with tokens.attach(model, scale=1):
        assert torch.equal(model(**given)[0], with_tokens)


@torch.no_grad()
def test_between_0_and_1_arguments_that_are_used_up_serve_twice() -> None:
    """Of a T2I-Adapter's residuals each block takes one off the list."""
    model, given = model_of("sd15"), inputs("sd15")
    residuals = [torch.randn(2, 8, SIDE, SIDE), torch.randn(2, 8, SIDE // 2, SIDE // 2)]

    def run() -> Tensor:
        return model(**given, down_intrablock_additional_residuals=[r.clone() for r in residuals])[0]

    plain = run()
    tokens = tokens_for(model)
    with tokens.attach(model):
        full, tokens.scale = run(), 0.5
        assert near(run(), (plain + full) / 2)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_one_branch_of_guidance(family: str) -> None:
    """Rows of the other one are as without tokens, to the bit."""
    model, given = model_of(family), inputs(family, 4)
    tokens = tokens_for(model)
    plain = model(**given)[0]
    with tokens.attach(model):
        full = model(**given)[0]
        tokens.branches = "cond"
        with pytest.raises(
            LongalignError, match="need to know which rows are conditional: run the model within"
        ):
            model(**given)
        with tokens.branch("cfg"):
            assert torch.equal(model(**given)[0], torch.cat([plain[:2], full[2:]]))
            tokens.scale = 0.5
            assert near(model(**given)[0], torch.cat([plain[:2], (plain[2:] + full[2:]) / 2]))
            tokens.scale = 1
        with tokens.branch(torch.tensor([True, False, False, True])):
            assert torch.equal(model(**given)[0], torch.cat([full[:1], plain[1:3], full[3:]]))
            with pytest.raises(
                LongalignError, match=r"\(4,\) truth values do not tell the rows of a batch of 2"
            ):
                model(**inputs(family, 2))
        with tokens.branch("cond"):
            assert torch.equal(model(**given)[0], full)
        with tokens.branch("uncond"):
            assert torch.equal(model(**given)[0], plain)
        tokens.branches = "uncond"
        with tokens.branch("cfg"):
            assert torch.equal(model(**given)[0], torch.cat([full[:2], plain[2:]]))
            with pytest.raises(LongalignError, match="a batch of 3 has no two halves"):
                model(**inputs(family, 3))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("branches", ["both", "cond", "uncond"])
@torch.no_grad()
def test_a_denoiser_says_which_rows_are_which(family: str, branches: Any) -> None:
    """f = f_n + 3 (f_c − f_n), each with tokens or without them; in one call and in two."""
    denoiser, c = (
        tiny_denoiser(family, "flow" if family == "sd3" else "epsilon"),
        conditioning(family, 2, LENGTH),
    )
    x, t = torch.randn(2, 2, SIDE, SIDE), 430
    tokens = tokens_for(denoiser.module, **({} if family == "sd3" else {"stages": ("down",)}))
    plain = [denoiser(x, t, c, negative=negative) for negative in (True, False)]
    with tokens.attach(denoiser.module):
        full = [denoiser(x, t, c, negative=negative) for negative in (True, False)]
        without = plain[0] if branches == "cond" else full[0]
        with_text = plain[1] if branches == "uncond" else full[1]
        tokens.branches = branches
        for split in (False, True):
            found = denoiser.guided(x, t, c, 3.0, split=split)
            assert near(found, without + 3 * (with_text - without), 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_under_checkpointing(family: str) -> None:
    """Two calls at different times before one backward pass: blocks run again must find the time of their own call."""
    model = model_of(family)
    tokens = tokens_for(model, buckets=100, **everywhere(family))
    model.requires_grad_(False).train()

    def gradients() -> list[Tensor]:
        tokens.zero_grad()
        losses = [model(**inputs(family, t=torch.full((2,), t)))[0].square().mean() for t in (100.0, 800.0)]
        tokens.scale = 0  # what is set after the call is none of its business
        sum(losses).backward()  # type: ignore[union-attr]
        tokens.scale = 1
        return [p.grad.clone() for p in tokens.parameters()]  # type: ignore[union-attr]

    with tokens.attach(model):
        plain = gradients()
        model.enable_gradient_checkpointing()
        again = gradients()
    assert all(near(a, b, 1e-7) and a.abs().max() > 1e-4 for a, b in zip(plain, again, strict=True))
    rows = plain[1].flatten(1).abs().amax(1).nonzero().flatten()
    assert rows.tolist() == [10, 80]


@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_lora_on_the_same_model(family: str) -> None:
    """Both act, both get gradients, and neither the model's fingerprint nor its LoRA knows of the tokens."""
    model, given = model_of(family), inputs(family)
    if family != "sd3":
        given["timestep"] = 430
    tokens = tokens_for(model, **everywhere(family))
    mark = fingerprint(model, "x")
    tokens.attach(model)
    own = lora.attach(model, 2)
    with torch.no_grad():
        for p in own:
            p.normal_(std=0.1)
    assert fingerprint(model, "x") == mark
    found = model(**given)[0]
    found.square().mean().backward()
    assert all(p.grad is not None for p in [*own, *tokens.parameters()])
    tokens.detach()
    assert near(found, by_hand(family, model, tokens, given))
    with tokens.attach(model):
        lora.merge(model)
        assert near(found, model(**given)[0], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_under_torch_compile(family: str) -> None:
    """In one graph, though it was compiled before they came; gone when they are taken off; with gradients."""
    model = tiny_denoiser(family, "flow" if family == "sd3" else "epsilon").module.requires_grad_(False)
    given = inputs(family)
    tokens = tokens_for(model)
    plain = model(**given)[0]
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert near(compiled(**given)[0], plain)
    with tokens.attach(compiled):
        full = model(**given)[0]
        tokens.scale = 0.5
        half = compiled(**given)[0]
    assert near(half, (plain + full) / 2) and not near(full, plain, 1e-3)
    assert torch.equal(compiled(**given)[0], plain)
    wanted = torch.autograd.grad((full / 2).sum(), tokens.tokens)[0]
    assert near(torch.autograd.grad(half.sum(), tokens.tokens)[0], wanted, 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_16_bits(family: str) -> None:
    """The tokens and their gradients stay in float32."""
    model, given = model_of(family).to(torch.bfloat16), inputs(family)
    given = {k: v.bfloat16() if isinstance(v, Tensor) and k != "timestep" else v for k, v in given.items()}
    if family == "sdxl":
        given["added_cond_kwargs"] = {k: v.bfloat16() for k, v in given["added_cond_kwargs"].items()}
    tokens = tokens_for(model)
    with tokens.attach(model):
        found = model(**given)[0]
    found.float().square().mean().backward()
    assert found.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 and p.grad.abs().max() > 0 for p in tokens.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast(family: str) -> None:
    model, given = model_of(family), inputs(family)
    tokens = tokens_for(model)
    with tokens.attach(model):
        wanted = model(**given)[0]
        with torch.autocast("cpu", torch.bfloat16):
            found = model(**given)[0]
    found.float().square().mean().backward()
    assert near(found.float(), wanted, 0.1) and tokens.tokens.grad is not None


@torch.no_grad()
def test_arguments_without_names() -> None:
    model, given = model_of("sd15"), inputs("sd15")
    tokens = tokens_for(model)
    with tokens.attach(model):
        a = model(given["sample"], given["timestep"], given["encoder_hidden_states"]).sample
        assert torch.equal(a, model(**given)[0])


def test_copies_are_attached_to_nothing() -> None:
    model = model_of("sd15")
    tokens = tokens_for(model)
    with tokens.attach(model):
        other = copy.deepcopy(tokens)
        assert torch.equal(other.tokens, tokens.tokens) and other.config == tokens.config
        with pytest.raises(LongalignError, match="this model has soft tokens already"):
            other.attach(model)
        with pytest.raises(LongalignError, match="attached to a model already"):
            tokens.attach(three_stage_unet())
    tokens.detach()
    with other.attach(model):
        assert attached(model) is other


@torch.no_grad()
def test_a_denoiser_of_a_long_conditioning() -> None:
    """Of CLIP-cat's many first positions only the whole text's is followed by tokens."""
    model, c = three_stage_unet(), conditioning("sd15", 1, 40)
    denoiser = Denoiser(model, "sd15", "epsilon", scheduler().alphas_cumprod)
    tokens, x = tokens_for(model, stages=STAGES), torch.randn(1, 2, SIDE, SIDE)
    wanted = model(x, 430, inserted(c.embeds, tokens, 430)).sample
    with tokens.attach(model):
        assert near(denoiser(x, 430, c), wanted)
