"""Consistency distillation into a LoRA (LCM-LoRA, Luo et al. 2023, arXiv 2311.05556), as used in LongAlign §5.4.

The student f(x_t, t) predicts where the teacher's path from x_t ends: f(x_t, t) = f(x_s, s) for all t and s on one
path, and f(x_0, 0) = x_0. The path is a DDIM step with the teacher's guided prediction. The student has the guidance in
its weights, and is sampled without guidance in four steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longalign.data.text_states import Padding, TextStates, join
from longalign.encoding import Conditioning
from longalign.errors import LongalignError
from longalign.objectives.lora_off import without_lora
from longalign.objectives.pictures.settings import ConsistencySettings
from longalign.objectives.pictures.tuned import TunedDenoiserObjective
from longalign.objectives.random_draws import normal, uniform


class ConsistencyObjective(TunedDenoiserObjective):
    """Huber distance between the student's answers at neighbouring steps of the teacher's path.

    The teacher is the same model without the student's LoRA; LoRAs of earlier stages are on it.

    Raises:
        LongalignError: a flow model, tune 'full', or steps that do not divide the schedule.
    """

    Settings = ConsistencySettings
    name = "consistency"
    trains_adapter = False
    solver = ("lcm", 4)
    settings: ConsistencySettings

    def prepare(self) -> None:
        """Attach the student's LoRA; see `TunedDenoiserObjective.prepare`."""
        super().prepare()
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
        """See `CaptionedObjective.learn`. There is no caption dropout."""
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
        """(B,) means over channels and positions; see `TunedDenoiserObjective.losses`."""
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
        """(B, C, h, w): the student's prediction of x_0. At t = 0 it is x_t itself."""
        sigma, scaled = self.settings.sigma_data, self.settings.timestep_scaling * t.double()
        c_skip = sigma**2 / (scaled**2 + sigma**2)
        c_out = scaled / (scaled**2 + sigma**2).sqrt()
        f = self.denoiser(x_t, t, conditioning)
        x0 = self.denoiser.x0(x_t, f, t)
        skip, out = (c.to(x_t).view(-1, *[1] * (x_t.ndim - 1)) for c in (c_skip, c_out))
        return skip * x_t + out * x0

    # x̂_s = α_s x̂_0 + σ_s ε̂,  x_t = α_t x̂_0 + σ_t ε̂
    def step(self, x_t: Tensor, f: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """A DDIM step from t to s (η = 0). At s = 0, the schedule's first step, a little noise is left."""
        x0 = self.denoiser.x0(x_t, f, t)
        alpha, sigma = self.denoiser.levels(t, x_t)
        return self.denoiser.noised(x0, (x_t - alpha * x0) / sigma, s)

    def times(self, u: Tensor) -> Tensor:
        """The teacher's steps for u in [0, 1), (B,): 19, 39, …, 999 for 50 steps of 1000."""
        return ((u * self.settings.ddim_steps).long() + 1) * self.stride - 1
