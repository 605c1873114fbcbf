"""Draws a region of a picture again and keeps the rest.

The picture's latents x_0 are noised to a time t, and from there the sampler goes on. After each step to a time s, the
latents outside of the region M are those of the known picture, noised to s by the same ε (RePaint, arXiv 2201.09865,
Eq. 8, with the noise held fixed as in diffusers' inpainting)::

    x_s ← M x_s + (1 − M) (α_s x_0 + σ_s ε)         x_0 itself at the end

So the latents outside are those of before, to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longalign.backbones.base import Pipeline
from longalign.diffusion.denoiser import Denoiser
from longalign.encoding.conditioning import Conditioning
from longalign.errors import LongalignError

# step, how many, x_in, f, t → another prediction f
Guide = Callable[[int, int, Tensor, Tensor, float], Tensor]


def steps_taken(steps: int, start: float) -> int:
    """How many of a picture's steps are taken to draw it again.

    Args:
        steps: of a whole picture.
        start: share of them; at least one step is taken.

    Raises:
        LongalignError: fewer than one step, or the start is out of range.
    """
    if steps < 1:
        raise LongalignError(f"drawing again takes at least 1 step, not {steps}")
    if not 0 < start <= 1:
        raise LongalignError(f"start is more than 0 and at most 1, not {start}")
    return max(1, round(start * steps))


@torch.no_grad()
def redraw(
    pipe: Pipeline,
    known: Tensor,
    region: Tensor,
    conditioning: Conditioning,
    seed: int,
    *,
    steps: int,
    start: float = 1.0,
    guidance: float = 1.0,
    guide: Guide | None = None,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> Tensor:
    """Draws a region of one picture again, by the pipeline's scheduler.

    Args:
        pipe: a pipeline of SD 1.x, 2.x, XL or 3.
        known: (C, h, w) clean latents of the picture.
        region: (h, w) bool, what is drawn again.
        conditioning: of one prompt.
        seed: of the noise.
        steps: of a whole picture.
        start: share of the steps that are taken. 1 draws the region from noise alone.
        guidance: classifier-free guidance scale.
        guide: changes the predictions.
        on_step: called with 1 after each step.

    Returns:
        (C, h, w) clean latents; outside of the region those of `known`, to the bit.

    Raises:
        LongalignError: there is nothing to draw, or steps or start are out of range.
    """
    if not region.any():
        raise LongalignError("the region is empty: there is nothing to draw again")
    taken = steps_taken(steps, start)
    denoiser = Denoiser.of(pipe)
    scheduler: Any = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps)
    per_step = max(1, len(scheduler.timesteps) // steps)  # PNDM and Heun call the model more often
    first = len(scheduler.timesteps) - taken * per_step if taken < steps else 0
    if hasattr(scheduler, "set_begin_index"):  # DDIM and the like find the place of a time by themselves
        scheduler.set_begin_index(first)
    times = scheduler.timesteps[first:]
    x_0 = known[None].to(denoiser.device)
    noise = torch.randn(known.shape, generator=torch.Generator().manual_seed(seed))[None].to(x_0)
    inside = region.to(x_0.device)
    x = _noised(scheduler, x_0, noise, times[0])
    if not first:  # as a new picture begins, without the known one
        x = torch.where(inside, noise * getattr(scheduler, "init_noise_sigma", 1.0), x)
    for i, t in enumerate(times):
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        f = denoiser.guided(scaled, float(t), conditioning, guidance)
        if guide is not None:
            f = guide(i, len(times), scaled, f, float(t))
        x = scheduler.step(f, t, x, return_dict=False)[0]
        last = i + 1 == len(times)
        x = torch.where(inside, x, x_0 if last else _noised(scheduler, x_0, noise, times[i + 1]))
        on_step(1)
    return x[0]


def _noised(scheduler: Any, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The latents at a time of the scheduler, in the scheduler's own scale."""
    if hasattr(scheduler, "scale_noise"):  # flow models
        return scheduler.scale_noise(x_0, t[None], noise)
    return scheduler.add_noise(x_0, noise, t[None])
