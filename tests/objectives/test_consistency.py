"""Consistency distillation: the boundary, DDIM's step, the loss by hand, and a teacher without the student's LoRA."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny
import torch
from diffusers import DDIMScheduler
from picture_objectives import LENGTH, TEXTS, accelerator, batch_of, data, gradients, make
from segment_encoding import encode

from longalign.errors import LongalignError
from longalign.objectives.lora_off import without_lora
from longalign.objectives.pictures.consistency import ConsistencyObjective
from longalign.objectives.pictures.settings import ConsistencySettings
from longalign.objectives.random_draws import Draws
from longalign.training import read_recipe


def consistency(**options: Any) -> ConsistencyObjective:
    return make(ConsistencyObjective, **options)


def v_pipe() -> Any:
    pipe = tiny.tiny_sd15()
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    return pipe


def answer(x: torch.Tensor, f: torch.Tensor, t: int, bar: torch.Tensor, kind: str) -> torch.Tensor:
    """c_skip x + c_out x̂_0 with k t = 10 t and σ = ½."""
    alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    x0 = (x - sigma * f) / alpha if kind == "epsilon" else alpha * x - sigma * f
    scaled = 10.0 * t
    return 0.25 / (scaled**2 + 0.25) * x + scaled / (scaled**2 + 0.25) ** 0.5 * x0


@pytest.mark.parametrize("make_pipe", [tiny.tiny_sd15, v_pipe])
def test_the_loss_by_hand(make_pipe: Any) -> None:
    """Row by row: a student with LoRA, a teacher that never had one, f_n + 3 (f_c − f_n), one step of DDIM."""
    pipe = make_pipe()
    teacher = copy.deepcopy(pipe.unet)
    objective = consistency(pipe=pipe, guidance=3.0)
    batch = batch_of(objective)
    torch.manual_seed(7)
    found = objective.backward(batch, accelerator())
    grads = gradients(objective)
    torch.manual_seed(7)
    own = Draws.now(4).rows(4)
    times = [((int(torch.rand((), generator=generator) * 50)) + 1) * 20 - 1 for generator in own]
    x0, _, _ = objective.encode(batch)
    eps = torch.stack([torch.randn(x0.shape[1:], generator=generator) for generator in own])
    bars, kind = pipe.scheduler.alphas_cumprod, objective.denoiser.parameterisation
    total: Any = 0.0
    for i, t in enumerate(times):
        c = encode(pipe, TEXTS[i], length=LENGTH)
        s = max(t - 20, 0)
        x_t = bars[t].sqrt() * x0[[i]] + (1 - bars[t]).sqrt() * eps[[i]]
        student = answer(x_t, pipe.unet(x_t, t, c.embeds).sample, t, bars[t], kind)
        with torch.no_grad():
            without = teacher(x_t, t, c.negative_embeds).sample
            f = without + 3 * (teacher(x_t, t, c.embeds).sample - without)
            if kind == "epsilon":
                e, clean = f, (x_t - (1 - bars[t]).sqrt() * f) / bars[t].sqrt()
            else:
                clean = bars[t].sqrt() * x_t - (1 - bars[t]).sqrt() * f
                e = bars[t].sqrt() * f + (1 - bars[t]).sqrt() * x_t
            x_s = bars[s].sqrt() * clean + (1 - bars[s]).sqrt() * e
            target = answer(x_s, pipe.unet(x_s, s, c.embeds).sample, s, bars[s], kind)
        total = total + (((student - target) ** 2 + 0.001**2).sqrt() - 0.001).mean() / 4
    total.backward()
    torch.testing.assert_close(found["loss"], total.detach(), rtol=1e-3, atol=1e-5)
    for name, g in gradients(objective).items():
        torch.testing.assert_close(grads[name], g, rtol=1e-2, atol=1e-5)
    assert all("lora_" in name for name in grads)


def test_the_boundary() -> None:
    """f(x, 0) = x exactly; at t = 1, k t = 10: c_skip = ¼/100¼."""
    objective = consistency()
    x = torch.randn(2, 4, 16, 16)
    c = encode(objective.pipe, [TEXTS[0], TEXTS[2]], length=LENGTH)
    with torch.no_grad():
        assert torch.equal(objective.answer(x, torch.zeros(2, dtype=torch.long), c), x)
        t = torch.ones(2, dtype=torch.long)
        x0 = objective.denoiser.x0(x, objective.denoiser(x, t, c), t)
        expected = 0.25 / 100.25 * x + 10 / 100.25**0.5 * x0
        torch.testing.assert_close(objective.answer(x, t, c), expected)


@pytest.mark.parametrize("make_pipe", [tiny.tiny_sd15, v_pipe])
def test_the_step_is_ddim(make_pipe: Any) -> None:
    """diffusers' own, at its first, a middle and its last step; there it has ᾱ_0 left, without set_alpha_to_one."""
    pipe = make_pipe()
    objective = consistency(pipe=pipe)
    ddim = DDIMScheduler.from_config(
        pipe.scheduler.config,
        prediction_type=pipe.scheduler.config.prediction_type,  # which from_config takes for a default
        timestep_spacing="trailing",
        set_alpha_to_one=False,
    )
    ddim.set_timesteps(50)
    x, f = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    for t in (999, 499, 19):
        assert t in ddim.timesteps
        here, there = torch.tensor([t]), torch.tensor([max(t - 20, 0)])
        torch.testing.assert_close(
            objective.step(x, f, here, there), ddim.step(f, t, x).prev_sample, rtol=1e-4, atol=1e-4
        )


def test_times_are_the_teachers() -> None:
    assert consistency().times(torch.tensor([0.0, 0.5, 0.9999])).tolist() == [19, 519, 999]


def test_the_teacher_is_without_this_lora_alone() -> None:
    pipe = tiny.tiny_sd15()
    base = copy.deepcopy(pipe.unet)
    consistency(pipe=pipe)
    x, states = torch.randn(1, 4, 16, 16), torch.randn(1, 7, tiny.WIDTH)
    trainable = [p.requires_grad for p in pipe.unet.parameters()]
    with torch.no_grad():
        own = pipe.unet(x, 5, states).sample
        with without_lora(pipe.unet, "consistency"):
            torch.testing.assert_close(pipe.unet(x, 5, states).sample, base(x, 5, states).sample)
        assert torch.equal(pipe.unet(x, 5, states).sample, own)
    assert [p.requires_grad for p in pipe.unet.parameters()] == trainable


def test_evaluation_is_the_same_every_time() -> None:
    objective = consistency(held_out=data(4))
    assert objective.evaluate(accelerator()) == objective.evaluate(accelerator())


def test_what_is_refused() -> None:
    with pytest.raises(LongalignError, match="this is a flow model"):
        consistency(pipe=tiny.tiny_sd3())
    with pytest.raises(LongalignError, match="tune has to be lora"):
        consistency(tune="full")
    with pytest.raises(LongalignError, match="ddim_steps should divide 1000, and 33 does not"):
        consistency(ddim_steps=33)


def test_the_recipe_is_valid() -> None:
    settings = read_recipe("sd15-lcm").settings
    assert isinstance(settings, ConsistencySettings)
    assert (settings.ddim_steps, settings.guidance, settings.huber_c) == (50, 7.5, 0.001)
