"""Times and step weights of an edit, as plain numbers in float64.

A deterministic step (DDIM; Euler's for flow models) from time t to s goes by x̂_0 and ε̂, which are both linear in x_t
and the prediction f::

    x̂_0 = p x_t + q f        ε̂ = r x_t + u f        x_s = α_s x̂_0 + σ_s ε̂ = (α_s p + σ_s r) x_t + (α_s q + σ_s u) f

    epsilon   r = 0, u = 1          v   r = σ, u = α          flow   r = 1, u = 1 − σ
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch

from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.sampling import latent_scheduler
from longalign.errors import LongalignError

Time = float | None  # None: the clean end, α = 1 and σ = 0, which is before t = 0 of most diffusion schedules
_LIKE = torch.empty(0, dtype=torch.float64)


class StepWeights(NamedTuple):
    """x_s = a·x_t + b·f(x_t, t)."""

    a: float
    b: float


class Coupling(NamedTuple):
    """One step of an edit d = z − z_src that is coupled to the source (see `methods.coupled`).

    ``along``: x_tar = x_src + along·d.  ``keep``, ``change``: d ← keep·d + change·(f_tar − f_src).
    """

    along: float
    keep: float
    change: float


def edit_times(scheduler: Any, steps: int) -> list[Time]:
    """The N + 1 times of a pipeline's noise schedule from noise to the clean end, as its own steps are spaced.

    Raises:
        LongalignError: fewer than one step, or more than the schedule has times.
    """
    import diffusers

    if steps < 1:
        raise LongalignError(f"an edit takes at least 1 step, not {steps}")
    if "FlowMatch" in type(scheduler).__name__:
        own = copy.deepcopy(scheduler)
    else:  # DDIM's times, whatever solver the pipeline has at the moment
        own = latent_scheduler(diffusers.DDIMScheduler, scheduler.config)
    try:
        own.set_timesteps(steps)
    except ValueError as error:
        raise LongalignError(f"{steps} steps are too many: {str(error).splitlines()[0]}") from error
    return [*own.timesteps.double().tolist(), None]


def levels(denoiser: Denoiser, t: Time) -> tuple[float, float]:
    """α and σ."""
    if t is None:
        return 1.0, 0.0
    alpha, sigma = denoiser.levels(t, _LIKE)
    return float(alpha), float(sigma)


def step_weights(denoiser: Denoiser, t: float, s: Time) -> StepWeights:
    """Of the deterministic step from time t to s, in either direction.

    Raises:
        LongalignError: an ε-model at a time at which no signal is left, where its prediction tells nothing of x_0.
    """
    (alpha, sigma), (alpha_s, sigma_s) = levels(denoiser, t), levels(denoiser, s)
    p, q = _x0_weights(denoiser, t, alpha)
    r, u = {"epsilon": (0.0, 1.0), "v": (sigma, alpha), "flow": (1.0, alpha)}[denoiser.parameterisation]
    return StepWeights(alpha_s * p + sigma_s * r, alpha_s * q + sigma_s * u)


# FlowEdit:  x_tar = z + x_src − z_src,   z ← z + (σ_s − σ_t)(v_tar − v_src)
def flowedit_coupling(denoiser: Denoiser, t: float, s: Time) -> Coupling:
    """The coupling of FlowEdit's step (arXiv 2412.08629, Algorithm 1); for flow models only."""
    return Coupling(1.0, 1.0, levels(denoiser, s)[1] - levels(denoiser, t)[1])


# x_tar = α_t z + σ_t ε = x_src + α_t d,   d ← ρ d + (1 − ρ)(x̂_0,tar − x̂_0,src),   ρ = (σ_s/α_s)/(σ_t/α_t)
# with x̂_0,tar − x̂_0,src = p α_t d + q (f_tar − f_src)
def x0_coupling(denoiser: Denoiser, t: float, s: Time) -> Coupling:
    """Of the same step in the coordinates y = x/α, k = σ/α, in which every Gaussian path is y = x_0 + k ε.

    There dy/dk = ε̂, so FlowEdit's difference of two paths with the same noise is d ← d + (k_s − k_t)(ε̂_tar − ε̂_src),
    and both paths are pictures under exactly the noise of their time. Written with x̂_0 it also holds where no
    signal is left (k = ∞, ρ = 0). An extension of this project; for one time drawn at random in place of a
    schedule, the same difference is the gradient of the delta denoising score (arXiv 2304.07090).
    """
    (alpha, sigma), (alpha_s, sigma_s) = levels(denoiser, t), levels(denoiser, s)
    p, q = _x0_weights(denoiser, t, alpha)
    rho = (sigma_s * alpha) / (alpha_s * sigma)
    return Coupling(alpha, rho + (1 - rho) * p * alpha, (1 - rho) * q)


def _x0_weights(denoiser: Denoiser, t: float, alpha: float) -> tuple[float, float]:
    if denoiser.parameterisation == "epsilon" and alpha == 0:
        raise LongalignError(
            f"a model that predicts ε knows nothing of the picture at t = {t:g}, where only noise is left: "
            "start later (a smaller --start)"
        )
    p, q = denoiser.x0_weights(t, _LIKE)
    return float(p), float(q)
