"""The sides of the benchmark of reward fine-tuning: one step each, by the closed form or by autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from longalign.diffusion.solver import LinearSolver
from longalign.objectives.reward.gradient import Plan, backpropagate, sample_keeping
from reward_step_models import Case

Side = Callable[[], None]


def spread_out(total: int, count: int) -> Plan:
    """DRTune's steps from a fixed start."""
    return Plan(tuple((total // 2 + i * total) // count for i in range(count)))


def ours(case: Case, solver: LinearSolver, count: int, split: bool = False, at_once: int = 1) -> None:
    def terms(_: int, x: Tensor, t: Tensor) -> Iterator[tuple[float, Tensor]]:
        return case.denoiser.terms(x, t, case.conditioning, case.guidance, split=split)

    plan = spread_out(len(solver), count)
    sampled = sample_keeping(solver, terms, case.noise, plan)
    g = torch.empty_like(sampled.x0)
    for rows in (slice(i, i + at_once) for i in range(0, len(g), at_once)):
        latents = sampled.x0[rows].detach().requires_grad_()
        [g[rows]] = torch.autograd.grad(case.loss(latents, rows), latents)
    backpropagate(solver, terms, sampled, plan, g)


def by_autograd(case: Case, solver: LinearSolver, count: int, checkpointed: bool) -> None:
    plan = spread_out(len(solver), count)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        return case.denoiser.guided(x, t, case.conditioning, case.guidance)

    def predict(i: int, x: Tensor, t: Tensor) -> Tensor:
        with torch.set_grad_enabled(i in plan.steps):
            if i in plan.steps and checkpointed:
                return checkpoint(guided, x.detach(), t, use_reentrant=False)
            return guided(x.detach(), t)

    case.loss(solver.sample(predict, case.noise)).backward()


@dataclass(frozen=True)
class Names:
    """What the sides are called."""

    ours: str
    few: str
    many: str
    fast: str
    split: str = "ours, split"
    together: str = "ours, all pictures scored together"
    plain: str = "autograd, plain"
    checkpointed: str = "autograd, checkpointed"

    @classmethod
    def of(cls, steps: tuple[int, int], counts: tuple[int, int, int]) -> Names:
        few, some, many = counts
        return cls(
            f"ours, DDIM-{steps[0]}, {some} gradient steps",
            f"ours, {few} gradient step{'s' if few > 1 else ''}",
            f"ours, {many} gradient steps",
            f"ours, UniPC-{steps[1]}, {some} gradient steps",
        )


def sides_of(case: Case, steps: tuple[int, int], counts: tuple[int, int, int]) -> dict[str, Side]:
    names = Names.of(steps, counts)
    ddim, unipc = case.solver("ddim", steps[0]), case.solver("unipc", steps[1])
    few, some, many = counts
    return {
        names.ours: lambda: ours(case, ddim, some),
        names.split: lambda: ours(case, ddim, some, split=True),
        names.together: lambda: ours(case, ddim, some, at_once=len(case.noise)),
        names.few: lambda: ours(case, ddim, few),
        names.many: lambda: ours(case, ddim, many),
        names.fast: lambda: ours(case, unipc, some),
        names.plain: lambda: by_autograd(case, ddim, some, False),
        names.checkpointed: lambda: by_autograd(case, ddim, some, True),
    }
