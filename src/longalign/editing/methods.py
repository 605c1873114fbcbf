"""Edits of latents z, by a source text, which describes them, and a target text, which describes the result.

    v_cfg(x, t, text) = v_null + w (v_text − v_null)             in all of them, with one w for each text

`coupled` is FlowEdit or, with other weights, its counterpart for ε- and v-models; `inversion` is DDIM inversion. All
methods take the last `n_start` steps of the schedule; with n_start = 0 the latents stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from longalign.diffusion.denoiser import Denoiser
from longalign.editing.schedule import Coupling, Time, step_weights
from longalign.encoding import Conditioning
from longalign.errors import LongalignError

Predict = Callable[[Tensor, float], Tensor]  # (B, C, h, w) x_t and t → (B, C, h, w) f
OnStep = Callable[[int], None]


def guided(denoiser: Denoiser, conditioning: Conditioning, guidance: float) -> Predict:
    """The prediction for one text under its guidance scale; at most 1 is without guidance, as in diffusers."""
    return lambda x, t: denoiser.guided(x, t, conditioning, guidance)


# x_src = α z_src + σ ε,   x_tar = x_src + c d,   d ← A d + B (f_tar(x_tar) − f_src(x_src)),   z = z_src + d
def coupled(
    denoiser: Denoiser,
    z_src: Tensor,
    source: Predict,
    target: Predict,
    times: Sequence[Time],
    coupling: Callable[[Denoiser, float, Time], Coupling],
    *,
    n_start: int,
    n_min: int = 0,
    samples: int = 1,
    noise: Callable[[], Tensor],
    on_step: OnStep = lambda pictures: None,
) -> Tensor:
    """FlowEdit (arXiv 2412.08629, Algorithm 1), and its counterpart for ε- and v-models.

    Every step adds new noise to the source, adds the difference so far for the target, and takes the difference of the
    two predictions. Nothing is inverted. Equal predictions leave z unchanged.

    Args:
        z_src: (B, C, h, w) clean latents of the pictures.
        source, target: predictions for the two texts.
        times: N + 1, as `edit_times` gives them.
        coupling: c, A and B of a step.
        n_start: how many of the N steps are taken, the last ones (FlowEdit's n_max).
        n_min: how many of those, at the end, are ordinary sampling of the target, from the state of the edit.
        samples: noises whose differences are averaged in each step (FlowEdit's n_avg).
        noise: (B, C, h, w) of fresh noise at each call.
        on_step: called after each step with B.

    Returns:
        (B, C, h, w) edited latents.
    """
    steps = _last(times, n_start)
    d = z_src * 0
    x: Tensor | None = None  # where ordinary sampling is, once it has begun
    for left, (t, s) in zip(range(len(steps), 0, -1), steps, strict=True):
        along, keep, change = coupling(denoiser, t, s)
        if left > n_min:
            difference = z_src * 0
            for _ in range(samples):
                x_src = denoiser.noised(z_src, noise(), t)
                difference = difference + target(x_src + along * d, t) - source(x_src, t)
            d = keep * d + change * difference / samples
        else:
            if x is None:
                x = denoiser.noised(z_src, noise(), t) + along * d
            a, b = step_weights(denoiser, t, s)
            x = a * x + b * target(x, t)
        on_step(len(z_src))
    return z_src + d if x is None else x


# up, from s to t:  x_t = (x_s − b f_src(x_t, t)) / a,  with x_s for x_t inside f at first
# down, from t to s:  x_s = a x_t + b f_tar(x_t, t)
def inversion(
    denoiser: Denoiser,
    z_src: Tensor,
    source: Predict,
    target: Predict,
    times: Sequence[Time],
    *,
    n_start: int,
    iterations: int = 1,
    on_step: OnStep = lambda pictures: None,
) -> Tensor:
    """DDIM inversion under the source text, then DDIM under the target text (arXiv 2010.02502, §4.3; Euler on flows).

    Args:
        z_src, source, target, times, n_start, on_step: as for `coupled`.
        iterations: of the fixed point x_t = (x_s − b f(x_t, t))/a. One is DDIM inversion as it is usually done; more
            make it the exact inverse of the sampling (arXiv 2309.04907), with that many calls in each step.

    Raises:
        LongalignError: the inversion reaches a time at which nothing of the picture is left.
    """
    steps = _last(times, n_start)
    x = z_src
    for t, s in reversed(steps):
        a, b = step_weights(denoiser, t, s)
        if abs(a) < 1e-6:
            raise LongalignError(
                f"at t = {t:g} nothing is left of the picture, so it cannot be inverted that far: start later "
                "(a smaller --start)"
            )
        x_s = x
        for _ in range(iterations):
            x = (x_s - b * source(x, t)) / a
        on_step(len(x))
    for t, s in steps:
        a, b = step_weights(denoiser, t, s)
        x = a * x + b * target(x, t)
        on_step(len(x))
    return x


def _last(times: Sequence[Time], n_start: int) -> list[tuple[float, Time]]:
    """(from, to) of the last steps."""
    part = list(times)[len(times) - 1 - n_start :]
    return [(t, s) for t, s in pairwise(part) if t is not None]
