"""The gradient of a loss on a sampled latent, without a graph through the whole sampling.

With x_0 = a·x_T + Σ c_i f_i and x_in,i = A_i,0 x_T + Σ_{j<i} A_i,1+j f_j (`diffusion/solver.py`), and g = ∂L/∂x_0::

    inputs detached (DRTune)      ∂L/∂θ = Σ_{i∈S} (∂f_i/∂θ)ᵀ c_i g
    inputs attached (DRaFT)       ∂L/∂θ = Σ_{i∈S} (∂f_i/∂θ)ᵀ u_i,
                                  u_i = c_i g + Σ_{j∈S, j>i} A_j,1+i (∂f_j/∂x_in,j)ᵀ u_j

Each f_i is recomputed on its stored input and released again, so memory holds one graph at a time. The result is the
gradient that autograd gives for the whole chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from longalign.diffusion.solver import LinearSolver
from longalign.errors import LongalignError

Method = Literal["drtune", "draft", "alignprop", "refl"]
# step, (B, …) x_in, t → the parts of the (guided) prediction, as (weight, (B, …)), one after the other
Terms = Callable[[int, Tensor, Tensor], Iterator[tuple[float, Tensor]]]


@dataclass(frozen=True)
class Plan:
    """The predictions of a chain that get gradient.

    Attributes:
        steps: S above, ascending.
        attached: whether the gradient continues through their inputs to earlier steps of S.
        one_step: the chain ends at the last of `steps`; x_0 is the clean latent that its prediction gives.
    """

    steps: tuple[int, ...]
    attached: bool = False
    one_step: bool = False


def drtune(total: int, count: int, generator: torch.Generator | None = None) -> Plan:
    """Deep Reward Tuning (LongAlign, Eq. 5): ``count`` of all steps at equal distances from a random start.

    Released: every 10th of 50 from a start of 0…9. Every step is as likely as any other, also where ``count`` does not
    divide their number.
    """
    start = _draw(total, generator)
    return Plan(tuple((start + i * total) // count for i in range(count)))


def draft(total: int, count: int, generator: torch.Generator | None = None) -> Plan:
    """DRaFT-K: the last K = ``count`` steps, inputs attached."""
    return Plan(tuple(range(total - count, total)), attached=True)


def alignprop(total: int, count: int, generator: torch.Generator | None = None) -> Plan:
    """AlignProp: the last K steps, inputs attached, K drawn uniformly from 1 to all; ``count`` is not used."""
    return draft(total, 1 + _draw(total, generator))


def refl(total: int, count: int, generator: torch.Generator | None = None) -> Plan:
    """ReFL: one random step of the last quarter (30…39 of its 40), and from there to x_0 in one step."""
    late = max(1, total // 4)
    return Plan((total - late + _draw(late, generator),), one_step=True)


METHODS: dict[str, Callable[..., Plan]] = {
    "drtune": drtune,
    "draft": draft,
    "alignprop": alignprop,
    "refl": refl,
}


def make_plan(method: str, total: int, count: int, generator: torch.Generator | None = None) -> Plan:
    """Draw the steps with gradient for one sampling of ``total`` predictions.

    Args:
        generator: else torch's own.

    Raises:
        LongalignError: more gradient steps than there are steps.
    """
    if not 1 <= count <= total:
        raise LongalignError(f"{count} steps with gradient cannot be chosen from {total}")
    return METHODS[method](total, count, generator)


def _draw(count: int, generator: torch.Generator | None) -> int:
    """0 … count − 1."""
    return int(torch.randint(count, (), generator=generator))


@dataclass(frozen=True)
class Kept:
    """A step with gradient: the input of the denoiser, and the random state at that time, for dropout."""

    x: Tensor
    t: Tensor
    random: RandomState


@dataclass(frozen=True)
class Sampled:
    """A sampling without gradient: x_0, and the steps with gradient."""

    x0: Tensor
    kept: dict[int, Kept] = field(default_factory=dict)


@torch.no_grad()
def sample_keeping(
    solver: LinearSolver,
    terms: Terms,
    noise: Tensor,
    plan: Plan,
    x0_of: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    *,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> Sampled:
    """Sample, and keep what `backpropagate` needs.

    Args:
        noise: (B, …) x_T.
        x0_of: x_in, f, t → the clean latent that f gives; a plan that ends in one step needs it.
        generator: of a stochastic solver's noise, one or one a row; None is torch's own.
    """
    kept: dict[int, Kept] = {}
    one_step: list[Tensor] = []

    def predict(i: int, x: Tensor, t: Tensor) -> Tensor:
        if i in plan.steps:
            kept[i] = Kept(x.detach(), t, RandomState.now(x.device))
        f = torch.zeros_like(x)
        for weight, part in terms(i, x, t):
            f += weight * part
        if plan.one_step and i == plan.steps[-1]:
            assert x0_of is not None
            one_step.append(x0_of(x, f, t))
        return f

    last = plan.steps[-1] if plan.one_step else None
    end = solver.sample(predict, noise, last=last, generator=generator)
    # Casts of trained weights that autocast made here have no graph, and older torch would use them again.
    torch.clear_autocast_cache()
    return Sampled(one_step[0] if plan.one_step else end, kept)


def backpropagate(
    solver: LinearSolver,
    terms: Terms,
    sampled: Sampled,
    plan: Plan,
    g: Tensor,
    *,
    backward: Callable[[Tensor], None] = Tensor.backward,
    loss_scale: float = 1.0,
    one_step_weight: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> None:
    """Add ∂L/∂θ to `.grad`.

    Args:
        terms: as in `sample_keeping`, now with gradients.
        g: (B, …) ∂L/∂x_0.
        backward: of a scalar; `accelerator.backward`.
        loss_scale: the factor that ``backward`` puts before gradients (float16's scaler).
        one_step_weight: t, x_in → ∂x_0/∂f of a plan that ends in one step.
    """
    back: dict[int, Tensor] = {}  # (∂f_j/∂x_in,j)ᵀ u_j
    for i in sorted(plan.steps, reverse=True):
        step = sampled.kept[i]
        if plan.one_step:
            assert one_step_weight is not None
            u = one_step_weight(step.t, step.x) * g
        else:
            u = float(solver.c[i]) * g
        for j, v in back.items():
            u = u + float(solver.inputs[j, 1 + i]) * v
        x = step.x.clone().requires_grad_() if plan.attached else step.x
        with step.random.restored():
            for weight, f in terms(i, x, step.t):
                backward((f * (weight * u)).sum())
                del f
        if x.grad is not None:
            back[i] = x.grad / loss_scale


@dataclass(frozen=True)
class RandomState:
    """torch's random state on the CPU and one device, so that a recomputed prediction has the same dropout."""

    cpu: Tensor
    of_device: Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        other = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), other, device)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """The state as it was then, inside; as it is now, afterwards."""
        with torch.random.fork_rng(devices=[self.device] if self.of_device is not None else []):
            torch.set_rng_state(self.cpu)
            if self.of_device is not None:
                torch.cuda.set_rng_state(self.of_device, self.device)
            yield
