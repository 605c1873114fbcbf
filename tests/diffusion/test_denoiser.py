"""One call for every backbone: against diffusers' pipelines, and the arithmetic of the three parameterisations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import tiny_sd3, tiny_sd15, tiny_sdxl
from tiny_denoiser import conditioning, scheduler, tiny_denoiser, tiny_unet, tiny_vae

import longalign
from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.solver import LinearSolver
from longalign.errors import LongalignError
from longalign.weights.stack import (
    load_pipeline,
)

PARAMETERISATIONS = ["epsilon", "v", "flow"]
MAKERS = {"sd15": tiny_sd15, "sdxl": tiny_sdxl, "sd3": lambda: tiny_sd3(with_t5=False)}


def of_kind(parameterisation: str, **given: Any) -> Denoiser:
    return tiny_denoiser("sd3" if parameterisation == "flow" else "sd15", parameterisation, **given)


@pytest.mark.parametrize("split", [False, True], ids=["together", "one after the other"])
@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3"])
def test_guided_sampling_is_the_pipelines(family: str, split: bool) -> None:
    """Same embeddings, same noise: pixels as from the pipeline with guidance 4, decoded by its VAE."""
    pipe = MAKERS[family]()
    if family == "sd3":
        pipe.vae.register_to_config(shift_factor=0.1)
    denoiser, solver = Denoiser.of(pipe), LinearSolver(pipe.scheduler, 3)
    encoded = longalign.encode(pipe, ["A cat.", "A dog in a house."], negative_prompt="blurry", length=40)
    noise = torch.randn(2, 4, 16, 16)
    wanted = pipe(
        **encoded.pipeline_kwargs(),
        latents=noise,
        num_inference_steps=3,
        guidance_scale=4.0,
        output_type="pt",
        height=32,
        width=32,
    ).images
    with torch.no_grad():
        x0 = solver.sample(lambda i, x, t: denoiser.guided(x, t, encoded, 4.0, split=split), noise)
        found = denoiser.decode(x0)
    assert (denoiser.family, denoiser.vae_factor) == (family, 2)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


def test_embedded_model() -> None:
    """v-prediction with no signal left at t = 999: α = 0, σ = 1, so x_0 there is −f."""
    denoiser = Denoiser.of(load_pipeline("stickers", device="cpu", dtype="float32"))
    x, f = torch.randn(2, 1, 8, 6, 6)
    assert (denoiser.parameterisation, denoiser.channels, denoiser.side, denoiser.vae_factor) == (
        "v",
        8,
        6,
        16,
    )
    torch.testing.assert_close(denoiser.x0(x, f, 999), -f)


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_target_stands_for_the_clean_latent(parameterisation: str) -> None:
    """x_0 of `noised` and its `target` is x_0 again, row by row, at any time but the end of an ε-schedule."""
    denoiser = of_kind(parameterisation)
    x0, eps = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    t = torch.tensor([0, 500, 980])
    target = denoiser.target(x0, eps, t)
    torch.testing.assert_close(denoiser.x0(denoiser.noised(x0, eps, t), target, t), x0)
    row = denoiser.noised(x0[1:2], eps[1:2], 500)
    torch.testing.assert_close(denoiser.noised(x0, eps, t)[1:2], row)


def test_noise_by_hand() -> None:
    """x_t = √ᾱ x_0 + √(1 − ᾱ) ε; target ε, or √ᾱ ε − √(1 − ᾱ) x_0. Flow: (1 − σ) x_0 + σ ε and ε − x_0, σ = t/1000."""
    alpha_bar = float(scheduler().alphas_cumprod[300])
    x0, eps = torch.full((1, 2, 4, 4), 2.0), torch.full((1, 2, 4, 4), 3.0)
    root, rest = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    for parameterisation, noised, target in [
        ("epsilon", 2 * root + 3 * rest, 3.0),
        ("v", 2 * root + 3 * rest, 3 * root - 2 * rest),
        ("flow", 0.7 * 2 + 0.3 * 3, 1.0),
    ]:
        denoiser = of_kind(parameterisation)
        assert float(denoiser.noised(x0, eps, 300).mean()) == pytest.approx(noised, rel=1e-5)
        assert float(denoiser.target(x0, eps, 300).mean()) == pytest.approx(target, rel=1e-5)


def test_between_time_steps_the_schedule_is_interpolated() -> None:
    """Half-way between 300 and 301, ᾱ is the mean of both."""
    denoiser = tiny_denoiser()
    alphas = scheduler().alphas_cumprod.double()
    alpha, sigma = denoiser.levels(300.5, torch.zeros(1, dtype=torch.float64))
    assert float(alpha**2) == pytest.approx(float(alphas[300:302].mean()), rel=1e-12)
    assert float(alpha**2 + sigma**2) == pytest.approx(1)


def test_terms_add_up() -> None:
    """f_n + w (f_c − f_n) = (1 − w) f_n + w f_c; at w ≤ 1 the text's prediction alone, as in diffusers."""
    denoiser, text = tiny_denoiser(), conditioning()
    x = torch.randn(1, 2, 4, 4)
    with torch.no_grad():
        with_text, without = denoiser(x, 10, text), denoiser(x, 10, text, negative=True)
        assert [w for w, _ in denoiser.terms(x, 10, text, 7.5, split=True)] == [-6.5, 7.5]
        wanted = without + 7.5 * (with_text - without)
        for split in (False, True):
            torch.testing.assert_close(denoiser.guided(x, 10, text, 7.5, split=split), wanted)
        torch.testing.assert_close(denoiser.guided(x, 10, text, 1.0), with_text)
    assert float((with_text - without).abs().max()) > 1e-3


def test_rows_may_have_their_own_times() -> None:
    denoiser, text = tiny_denoiser(), conditioning(prompts=2)
    x, t = torch.randn(2, 2, 4, 4), torch.tensor([10, 900])
    with torch.no_grad():
        both = denoiser.guided(x, t, text, 3.0)
        alone = [denoiser.guided(x[i : i + 1], int(t[i]), text[i], 3.0) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(alone))


def test_half_precision_weights_take_and_give_the_latents_precision() -> None:
    denoiser = tiny_denoiser()
    denoiser.module.to(torch.bfloat16)
    x = torch.randn(1, 2, 4, 4)
    with torch.no_grad():
        assert denoiser(x, 10, conditioning()).dtype == torch.float32


def test_decoding_passes_gradients_and_stays_in_range() -> None:
    denoiser = tiny_denoiser(vae=tiny_vae(scaling_factor=0.5))
    latents = torch.randn(1, 2, 4, 4, requires_grad=True)
    pixels = denoiser.decode(latents)
    [gradient] = torch.autograd.grad(pixels.sum(), latents)
    assert (
        pixels.shape == (1, 3, 8, 8)
        and 0 <= float(pixels.detach().min()) <= float(pixels.detach().max()) <= 1
    )
    assert float(gradient.abs().max()) > 0
    torch.testing.assert_close(
        pixels, (denoiser.vae.decode(latents / 0.5).sample / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-6
    )


def test_latent_means_are_put_back() -> None:
    """Latents of a VAE with statistics: z = latents · std / scaling + mean, channel by channel."""
    vae = tiny_vae(latents_mean=[1.0, 2.0], latents_std=[3.0, 4.0], scaling_factor=0.5)
    latents = torch.randn(1, 2, 4, 4)
    z = latents * torch.tensor([6.0, 8.0]).view(2, 1, 1) + torch.tensor([1.0, 2.0]).view(2, 1, 1)
    with torch.no_grad():
        wanted = (vae.decode(z).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(tiny_denoiser(vae=vae).decode(latents), wanted)


def test_what_does_not_fit_is_refused() -> None:
    denoiser = tiny_denoiser()
    x = torch.randn(1, 2, 4, 4)
    with pytest.raises(LongalignError, match="for sdxl does not fit sd15"):
        denoiser(x, 0, conditioning("sdxl"))
    with pytest.raises(LongalignError, match="1 latents need as many prompts, not 2"):
        denoiser(x, 0, conditioning(prompts=2))
    with pytest.raises(LongalignError, match="needs a noise schedule"):
        Denoiser(tiny_unet(), "sd15", "epsilon")
    with pytest.raises(LongalignError, match="not 'x0'"):
        Denoiser(tiny_unet(), "sd15", "x0")  # type: ignore[arg-type]
    pipe = tiny_sd15()
    pipe.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(LongalignError, match="prediction type 'sample'"):
        Denoiser.of(pipe)
    distilled = tiny_unet()
    distilled.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(LongalignError, match="guidance scale as an input"):
        Denoiser(distilled, "sd15", "epsilon", scheduler().alphas_cumprod)
