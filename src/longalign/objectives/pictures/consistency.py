"""Consistency distillation into a LoRA (LCM-LoRA: Luo et al. 2023; as LongAlign uses it, FACTS §1.6).

A student f(x_t, t) that says where the teacher's path from x_t ends: f(x_t, t) = f(x_s, s) for all t and s on one path,
and f(x_0, 0) = x_0. The path is a step of DDIM with the teacher's guided prediction; the student has the guidance in
its weights and is sampled without, in four steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from longalign.data.text_states import Padding, TextStates, join
from longalign.encoding import Conditioning
from longalign.errors import LongalignError
from longalign.objectives.lora_off import without_lora
from longalign.objectives.pictures.captioned import FromPictures
from longalign.objectives.pictures.settings import PictureSettings
from longalign.objectives.random_draws import normal, uniform


class ConsistencySettings(PictureSettings):
    """The section `consistency` of a recipe. `guidance` is the teacher's: f_n + w (f_c − f_n)."""

    guidance: float | None = Field(7.5, ge=0, description="the teacher's; null: the model's own")
    ddim_steps: int = Field(50, gt=0, description="of the teacher's path")
    huber_c: float = Field(0.001, gt=0)
    sigma_data: float = Field(0.5, gt=0)
    timestep_scaling: float = Field(10.0, gt=0)


class ConsistencyObjective(FromPictures):
    """Huber distance between the student's answers at neighbouring steps of the teacher's path.

    The teacher is the model with the LoRAs of earlier stages and without the student's.

    Raises:
        LongalignError: a flow model, tune 'full', or steps that do not divide the schedule.
    """

    Settings = ConsistencySettings
    name = "consistency"
    trains_adapter = False
    solver = ("lcm", 4)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.denoiser.alphas_cumprod is None:
            raise LongalignError("consistency: distils models that predict ε or v, and this is a flow model")
        if self.settings.tune == "full":
            raise LongalignError(
                "consistency: the teacher is the model without the LoRA, so tune has to be lora"
            )
        count = len(self.denoiser.alphas_cumprod)
        if count % self.settings.ddim_steps:
            raise LongalignError(
                f"consistency.ddim_steps should divide {count}, and {self.settings.ddim_steps} does not"
            )
        self.stride = count // self.settings.ddim_steps

    def learn(
        self, x0: Tensor, states: Sequence[TextStates], padding: Padding, accelerator: Any
    ) -> dict[str, float | Tensor]:
        """One micro-batch, without caption dropout; see `FromPictures.learn`."""
        own = self.draws_of(len(x0)).rows(len(x0))
        t = self.times(uniform(own)).to(x0.device)
        eps = normal(own, *x0.shape[1:], dtype=x0.dtype).to(x0.device)
        total = x0.new_zeros(())
        for members, conditioning in join(states, padding, self.adapter):
            loss = self.losses(x0[members], t[members], eps[members], conditioning).sum() / len(x0)
            accelerator.backward(loss)
            total += loss.detach()
        return {"loss": total}

    # L = E d( f_θ(x_t, t), f_θ⁻(x̂_s, s) ),  d(a, b) = √(|a − b|² + c²) − c,  x̂_s: one step of DDIM from x_t
    def losses(self, x0: Tensor, t: Tensor, eps: Tensor, conditioning: Conditioning) -> Tensor:
        """(B,) means over channels and places."""
        x_t = self.denoiser.noised(x0, eps, t)
        student = self.answer(x_t, t, conditioning)
        with torch.no_grad():
            s = (t - self.stride).clamp(min=0)
            with without_lora(self.denoiser.module, self.name):
                f = self.denoiser.guided(x_t, t, conditioning, self.guidance)
            target = self.answer(self.step(x_t, f, t, s), s, conditioning)
        c = self.settings.huber_c
        return (((student - target).square() + c**2).sqrt() - c).flatten(1).mean(1)

    # f_θ(x, t) = c_skip(t) x + c_out(t) x̂_0,  c_skip = σ²/((k t)² + σ²),  c_out = k t/√((k t)² + σ²)
    def answer(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """(B, C, h, w) what the student says that x_0 is; at t = 0 that is x_t itself."""
        sigma, scaled = self.settings.sigma_data, self.settings.timestep_scaling * t.double()
        c_skip = sigma**2 / (scaled**2 + sigma**2)
        c_out = scaled / (scaled**2 + sigma**2).sqrt()
        f = self.denoiser(x_t, t, conditioning)
        x0 = self.denoiser.x0(x_t, f, t)
        skip, out = (c.to(x_t).view(-1, *[1] * (x_t.ndim - 1)) for c in (c_skip, c_out))
        return skip * x_t + out * x0

    # x̂_s = α_s x̂_0 + σ_s ε̂,  x_t = α_t x̂_0 + σ_t ε̂
    def step(self, x_t: Tensor, f: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """DDIM from t to s (η = 0). s = 0 is the schedule's first step, where a little noise is left."""
        x0 = self.denoiser.x0(x_t, f, t)
        alpha, sigma = self.denoiser.levels(t, x_t)
        return self.denoiser.noised(x0, (x_t - alpha * x0) / sigma, s)

    def times(self, u: Tensor) -> Tensor:
        """One of the teacher's steps: 19, 39, …, 999 for 50 of 1000."""
        return ((u * self.settings.ddim_steps).long() + 1) * self.stride - 1
