"""Reward fine-tuning: the closed-form gradient against autograd through the chain, and which steps get gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import pytest
import torch
from tiny_denoiser import SIDE, conditioning, scheduler, tiny_denoiser
from torch import Tensor, nn

from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.solver import LinearSolver, make_solver
from longalign.encoding import Conditioning
from longalign.errors import LongalignError
from longalign.objectives.reward.gradient import (
    METHODS,
    Plan,
    Terms,
    backpropagate,
    make_plan,
    sample_keeping,
)

Loss = Callable[[Tensor], Tensor]
SOLVERS = {
    "DDIM-50": ("ddim", 50),
    "UniPC-25": ("unipc", 25),
    "DPM-Solver++-25": ("dpm++", 25),
    "Euler-25": ("euler", 25),
    "flow Euler-28": ("flow", 28),
}


def solver_of(name: str, steps: int) -> LinearSolver:
    if name == "flow":
        return LinearSolver(scheduler(diffusers.FlowMatchEulerDiscreteScheduler), steps)
    return make_solver(scheduler(), name, steps, spacing="trailing")


def denoiser_of(name: str, dtype: torch.dtype) -> tuple[Denoiser, Conditioning]:
    family = "sd3" if name == "flow" else "sd15"
    denoiser = tiny_denoiser(family)
    denoiser.module.to(dtype)
    return denoiser, conditioning(family, dtype=dtype)


def loss_of(x0: Tensor) -> Tensor:
    """Stands for decoder and scorer: smooth, not linear, different for every number."""
    weights = torch.linspace(-1, 1, x0.numel(), dtype=x0.dtype).view(x0.shape)
    return (torch.tanh(x0 / 10) * weights).sum() + (weights * x0 / 10).square().sum()


def terms_of(denoiser: Denoiser, text: Conditioning, guidance: float, split: bool = False) -> Terms:
    def parts(_: int, x: Tensor, t: Tensor) -> Iterator[tuple[float, Tensor]]:
        return denoiser.terms(x, t, text, guidance, split=split)

    return parts


def gradient(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def by_autograd(
    solver: LinearSolver, denoiser: Denoiser, text: Conditioning, guidance: float, plan: Plan, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient with all predictions of the plan in one graph through the scheduler.

    The scheduler runs as in sampling; a prediction outside of the plan has no graph, and an input is detached where
    the plan says so.
    """

    def predict(i: int, x: Tensor, t: Tensor) -> Tensor:
        with torch.set_grad_enabled(i in plan.steps):
            return denoiser.guided(x if plan.attached else x.detach(), t, text, guidance)

    denoiser.module.zero_grad()
    loss = loss_of(solver.sample(predict, noise))
    loss.backward()
    return loss.detach(), gradient(denoiser.module)


def in_closed_form(
    solver: LinearSolver,
    denoiser: Denoiser,
    text: Conditioning,
    guidance: float,
    plan: Plan,
    noise: Tensor,
    *,
    split: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    terms = terms_of(denoiser, text, guidance, split)
    sampled = sample_keeping(solver, terms, noise, plan, denoiser.x0)
    x0 = sampled.x0.requires_grad_()
    loss = loss_of(x0)
    [g] = torch.autograd.grad(loss, x0)
    denoiser.module.zero_grad()
    weight = lambda t, x: denoiser.x0_weights(t, x)[1]  # noqa: E731
    backpropagate(solver, terms, sampled, plan, g, one_step_weight=weight, **options)
    return loss.detach(), gradient(denoiser.module)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def start(dtype: torch.dtype) -> Tensor:
    return torch.randn(1, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(5), dtype=dtype)


@pytest.mark.parametrize("attached", [False, True], ids=["drtune", "draft"])
@pytest.mark.parametrize("name", ["ddim", "unipc", "euler"])
def test_closed_form_with_the_clean_end_is_autograds_gradient(name: str, attached: bool) -> None:
    """`reward.final: clean`, with the last step among those with gradient."""
    denoiser, text = denoiser_of(name, torch.float64)
    solver = make_solver(scheduler(), name, 6, spacing="trailing", clean=denoiser.x0_weights)
    plan = Plan((1, 3, len(solver) - 1), attached=attached)
    noise = start(torch.float64)
    loss, wanted = by_autograd(solver, denoiser, text, 3.0, plan, noise)
    found_loss, found = in_closed_form(solver, denoiser, text, 3.0, plan, noise)
    assert float(loss) == pytest.approx(float(found_loss), rel=1e-5)
    assert apart(found, wanted) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("guidance", [1.0, 7.5], ids=["plain", "guided"])
@pytest.mark.parametrize("name", SOLVERS)
def test_closed_form_is_autograds_gradient(name: str, guidance: float, dtype: torch.dtype) -> None:
    """Σ (∂f_i/∂θ)ᵀ c_i g is what autograd finds in the chain with detached inputs: 1e-6 in float64, 1e-3 in float32."""
    kind, steps = SOLVERS[name]
    solver = solver_of(kind, steps)
    denoiser, text = denoiser_of(kind, dtype)
    plan = METHODS["drtune"](len(solver), 5)
    noise = start(dtype)
    wanted_loss, wanted = by_autograd(solver, denoiser, text, guidance, plan, noise)
    loss, found = in_closed_form(solver, denoiser, text, guidance, plan, noise)
    assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-12 if dtype == torch.float64 else 1e-5)
    assert len(plan.steps) == 5 and float(wanted.norm()) > 1e-4
    assert apart(found, wanted) < (1e-6 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize("name", ["unipc", "flow"])
def test_branches_one_after_the_other_change_nothing(name: str) -> None:
    solver = solver_of(name, 6)
    denoiser, text = denoiser_of(name, torch.float64)
    plan, noise = Plan((1, 4)), start(torch.float64)
    together = in_closed_form(solver, denoiser, text, 5.0, plan, noise)[1]
    assert apart(in_closed_form(solver, denoiser, text, 5.0, plan, noise, split=True)[1], together) < 1e-12


@pytest.mark.parametrize("split", [False, True], ids=["together", "split"])
@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc", "flow"])
def test_attached_inputs_too(name: str, split: bool) -> None:
    """DRaFT's gradient goes on through inputs; a multistep solver hands one prediction to several of them."""
    solver = solver_of(name, 8)
    denoiser, text = denoiser_of(name, torch.float64)
    plan, noise = METHODS["draft"](8, 4), start(torch.float64)
    _, wanted = by_autograd(solver, denoiser, text, 3.0, plan, noise)
    _, found = in_closed_form(solver, denoiser, text, 3.0, plan, noise, split=split)
    _, detached = in_closed_form(solver, denoiser, text, 3.0, Plan(plan.steps), noise)
    assert apart(found, wanted) < 1e-6
    assert apart(detached, wanted) > 1e-3  # so the inputs do matter


def test_attached_with_a_gradient_scaler() -> None:
    """`backward` that multiplies by 1,024 gives 1,024 times the gradient, also of what goes through the inputs."""
    solver = solver_of("ddim", 6)
    denoiser, text = denoiser_of("ddim", torch.float64)
    plan, noise = METHODS["draft"](6, 3), start(torch.float64)
    _, wanted = in_closed_form(solver, denoiser, text, 3.0, plan, noise)
    scaled = {"backward": lambda loss: (1024 * loss).backward(), "loss_scale": 1024.0}
    assert apart(in_closed_form(solver, denoiser, text, 3.0, plan, noise, **scaled)[1] / 1024, wanted) < 1e-12


@pytest.mark.parametrize("name", ["ddim", "flow"])
def test_refl_scores_the_clean_latent_of_one_prediction(name: str) -> None:
    """Sample to step 5, where x̂_0 of the prediction is the picture; gradient through that prediction alone."""
    solver = solver_of(name, 8)
    denoiser, text = denoiser_of(name, torch.float64)
    plan, noise = Plan((5,), one_step=True), start(torch.float64)
    seen: list[Tensor] = []

    @torch.no_grad()
    def predict(i: int, x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return denoiser.guided(x, t, text, 3.0)

    solver.sample(predict, noise, last=5)
    t = solver.timesteps[5]
    denoiser.module.zero_grad()
    wanted_loss = loss_of(denoiser.x0(seen[5], denoiser.guided(seen[5], t, text, 3.0), t))
    wanted_loss.backward()
    wanted = gradient(denoiser.module)
    loss, found = in_closed_form(solver, denoiser, text, 3.0, plan, noise)
    assert float(loss) == pytest.approx(float(wanted_loss.detach()))
    assert apart(found, wanted) < 1e-12


def test_lcm_gradient_given_its_noise() -> None:
    """All four steps of LCM with gradient; both sides draw the same noise between steps."""
    solver = make_solver(scheduler(), "lcm", 4)
    denoiser, text = denoiser_of("ddim", torch.float64)
    plan, noise = METHODS["drtune"](4, 4), start(torch.float64)
    torch.manual_seed(9)
    _, wanted = by_autograd(solver, denoiser, text, 1.0, plan, noise)
    torch.manual_seed(9)
    _, found = in_closed_form(solver, denoiser, text, 1.0, plan, noise)
    assert plan.steps == (0, 1, 2, 3)
    assert apart(found, wanted) < 1e-6


def test_dropout_falls_alike_when_a_prediction_is_recomputed() -> None:
    """With dropout the gradient is that of the masks that made the picture; afterwards the random state goes on."""
    solver = solver_of("ddim", 4)
    denoiser, text = denoiser_of("ddim", torch.float64)
    for module in denoiser.module.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    denoiser.module.train()
    plan, noise = Plan((1, 3)), start(torch.float64)
    torch.manual_seed(3)
    _, wanted = by_autograd(solver, denoiser, text, 3.0, plan, noise)
    after = torch.rand(())
    torch.manual_seed(3)
    _, found = in_closed_form(solver, denoiser, text, 3.0, plan, noise)
    assert apart(found, wanted) < 1e-6
    assert torch.rand(()) == after


def test_under_autocast_every_weight_gets_its_gradient() -> None:
    """Autocast keeps casts of weights from sampling, which have no graph; with them gradients would be missing."""
    solver = solver_of("ddim", 4)
    denoiser, text = denoiser_of("ddim", torch.float32)
    plan, noise = Plan((1, 3)), start(torch.float32)
    _, wanted = in_closed_form(solver, denoiser, text, 3.0, plan, noise)
    with torch.autocast("cpu", torch.bfloat16):
        _, found = in_closed_form(solver, denoiser, text, 3.0, plan, noise)
    assert found.shape == wanted.shape
    assert apart(found, wanted) < 0.2


def test_only_chosen_inputs_are_kept() -> None:
    solver = solver_of("ddim", 10)
    denoiser, text = denoiser_of("ddim", torch.float32)
    sampled = sample_keeping(solver, terms_of(denoiser, text, 1.0), start(torch.float32), Plan((2, 7)))
    assert sorted(sampled.kept) == [2, 7]
    assert not sampled.x0.requires_grad


def test_drtune_takes_every_tenth_of_fifty() -> None:
    """Released: start 0…9, then every 10th. Also where 5 does not divide 28, every step is as likely as any other."""
    torch.manual_seed(0)
    starts = Counter()
    for _ in range(400):
        steps = METHODS["drtune"](50, 5).steps
        assert steps == tuple(range(steps[0], 50, 10))
        starts[steps[0]] += 1
    assert sorted(starts) == list(range(10))
    # (r + 28 i) // 5 for r = 0 … 27 and i = 0 … 4 meets each step five times.
    met = Counter((r + 28 * i) // 5 for r in range(28) for i in range(5))
    assert set(met.values()) == {5} and sorted(met) == list(range(28))


def test_plans_of_the_other_methods() -> None:
    torch.manual_seed(0)
    assert METHODS["draft"](50, 3) == Plan((47, 48, 49), attached=True)
    lengths = {len(METHODS["alignprop"](6, 2).steps) for _ in range(100)}
    assert lengths == {1, 2, 3, 4, 5, 6}
    assert METHODS["alignprop"](6, 2).steps[-1] == 5
    refl = {METHODS["refl"](40, 1) for _ in range(200)}
    assert {plan.steps[0] for plan in refl} == set(range(30, 40)) and all(plan.one_step for plan in refl)
    with pytest.raises(LongalignError, match="6 steps with gradient cannot be chosen from 5"):
        make_plan("drtune", 5, 6)
