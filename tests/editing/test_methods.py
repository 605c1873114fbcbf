"""Edits of latents against arithmetic by hand, on fields that are linear and on tiny random models."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from tiny_denoiser import SIDE, conditioning, scheduler, tiny_denoiser
from torch import Tensor, nn

from longalign.diffusion.denoiser import Denoiser
from longalign.editing.methods import Predict, coupled, guided, inversion
from longalign.editing.options import EditOptions
from longalign.editing.schedule import (
    edit_times,
    flowedit_coupling,
    step_weights,
    x0_coupling,
)
from longalign.encoding import Conditioning
from longalign.errors import LongalignError

ZEROS = torch.zeros(1, 1, 2, 2)
BETWEEN = torch.tensor([0.8, 0.2])  # ᾱ_0 and ᾱ_1: σ/α = ½ and 2


class Linear(nn.Module):
    """f(x, t, text) = slope·x + mean of the text, in the signatures of both kinds of backbones."""

    device, dtype, config = torch.device("cpu"), torch.float32, SimpleNamespace()

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(
        self,
        x: Tensor | None = None,
        times: Tensor | None = None,
        *,
        encoder_hidden_states: Tensor,
        **given: Any,
    ) -> tuple[Tensor]:
        x = given["hidden_states"] if x is None else x
        return (self.slope * x + encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1),)


def says(value: float, family: str = "sd3") -> Conditioning:
    """A text whose mean is `value`, and a negative one of mean 0."""
    embeds, where = torch.full((1, 1, 1), value), torch.zeros(1, 1, dtype=torch.long)
    pooled = torch.zeros(1, 1)
    return Conditioning(embeds, pooled, where, 0 * embeds, pooled, where, ((),), ((),), family)


def zeros() -> Tensor:
    return ZEROS


def drawing(seed: int = 0, shape: tuple[int, ...] = ZEROS.shape) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator)


def linear_flow(slope: float = 0.5) -> tuple[Denoiser, Predict, Predict]:
    denoiser = Denoiser(Linear(slope), "sd3", "flow")
    return denoiser, guided(denoiser, says(1.0), 2.0), guided(denoiser, says(3.0), 4.0)


@pytest.mark.parametrize(("n_start", "expected"), [(0, 2.0), (1, -3.0), (2, -6.75)])
def test_flowedit_on_a_linear_field(n_start: int, expected: float) -> None:
    """v = x/2 + text, guided 0 + 2·1 = 2 for the source and 0 + 4·3 = 12 for the target: Δv = d/2 + 10 under any noise.

    From z = 2, one step σ ½ → 0: d = −½·10 = −5, z = −3. Two steps 1 → ½ → 0: d = −5, then d = −5 − ½·(−2.5 + 10)
    = −8.75, z = −6.75.
    """
    denoiser, source, target = linear_flow()
    z = coupled(
        denoiser,
        ZEROS + 2,
        source,
        target,
        [1000.0, 500.0, None],
        flowedit_coupling,
        n_start=n_start,
        samples=3,
        noise=drawing(),
    )
    assert torch.allclose(z, ZEROS + expected, atol=1e-5)


def test_flowedit_ends_with_ordinary_sampling() -> None:
    """After one coupled step d = −5. Without noise x = ½·2 − 5 = −4, and Euler gives x − ½ (x/2 + 12) = −4 − 5 = −9."""
    denoiser, source, target = linear_flow()
    times = [1000.0, 500.0, None]
    z = coupled(
        denoiser, ZEROS + 2, source, target, times, flowedit_coupling, n_start=2, n_min=1, noise=zeros
    )
    assert torch.allclose(z, ZEROS - 9)


def test_the_noise_is_averaged() -> None:
    """f_tar = x² and f_src = 0 in one step from σ = ½: d = −½ · mean of (1 + ε/2)² over the noises, here 1 and −1.

    (1.5² + 0.5²)/2 = 1.25.
    """
    denoiser, _, _ = linear_flow()
    noises = iter([ZEROS + 1, ZEROS - 1])
    z = coupled(
        denoiser,
        ZEROS + 2,
        lambda x, t: 0 * x,
        lambda x, t: x**2,
        [500.0, None],
        flowedit_coupling,
        n_start=1,
        samples=2,
        noise=lambda: next(noises),
    )
    assert torch.allclose(z, ZEROS + 2 - 0.5 * 1.25)


@pytest.mark.parametrize(("slope", "expected"), [(0.0, -20.0), (0.5, -16.646)])
def test_the_x0_counterpart_moves_along_sigma_over_alpha(slope: float, expected: float) -> None:
    """ε̂ = slope·x + text: d += (k_s − k_t)(slope·α d + 12 − 2) with k = σ/α going 2 → ½ → 0, α = √0.2 and √0.8.

    First d = −1.5·10 = −15. Then −½·10 more is −20, and −½·½·√0.8·(−15) = 3.354 more with a slope of ½.
    """
    denoiser = Denoiser(Linear(slope), "sd15", "epsilon", BETWEEN)
    source, target = guided(denoiser, says(1.0, "sd15"), 2.0), guided(denoiser, says(3.0, "sd15"), 4.0)
    times = [1.0, 0.0, None]
    z = coupled(denoiser, ZEROS, source, target, times, x0_coupling, n_start=2, noise=drawing())
    assert torch.allclose(z, ZEROS + expected, atol=1e-3)


def test_the_x0_counterpart_is_the_same_in_either_parameterisation() -> None:
    """v = α ε̂ − σ x̂_0 with x̂_0 = (x − σ ε̂)/α says the same as ε̂; so does inversion, once each step is exact."""
    alphas_cumprod = torch.tensor([0.9, 0.7])
    epsilon = Denoiser(Linear(0.0), "sd15", "epsilon", alphas_cumprod)
    v = Denoiser(Linear(0.0), "sd15", "v", alphas_cumprod)

    def eps(shift: float) -> Predict:
        return lambda x, t: torch.tanh(x + shift)

    def as_v(shift: float) -> Predict:
        def predict(x: Tensor, t: float) -> Tensor:
            alpha, sigma = epsilon.levels(t, x)
            e = eps(shift)(x, t)
            return alpha * e - sigma * (x - sigma * e) / alpha

        return predict

    times = [1.0, 0.0, None]
    a, b = (
        coupled(d, ZEROS + 1, f(0.0), f(1.0), times, x0_coupling, n_start=2, noise=drawing())
        for d, f in ((epsilon, eps), (v, as_v))
    )
    assert torch.allclose(a, b, atol=1e-5) and (a - 1).abs().max() > 0.1
    down_a, down_b = (
        inversion(d, ZEROS + 1, f(0.0), f(1.0), times, n_start=2, iterations=100)
        for d, f in ((epsilon, eps), (v, as_v))
    )
    assert torch.allclose(down_a, down_b, atol=1e-5)


def test_the_x0_counterpart_begins_where_no_signal_is_left() -> None:
    """At α = 0, σ = 1 a v-model predicts −x̂_0, so d = x̂_0,tar − x̂_0,src: −(12 − 2)."""
    denoiser = Denoiser(Linear(0.0), "sd15", "v", torch.tensor([1.0, 0.0]))
    source, target = guided(denoiser, says(1.0, "sd15"), 2.0), guided(denoiser, says(3.0, "sd15"), 4.0)
    z = coupled(denoiser, ZEROS, source, target, [1.0, None], x0_coupling, n_start=1, noise=drawing())
    assert torch.allclose(z, ZEROS - 10)
    blind = Denoiser(Linear(0.0), "sd15", "epsilon", torch.tensor([1.0, 0.0]))
    with pytest.raises(LongalignError, match="start later"):
        coupled(blind, ZEROS, source, target, [1.0, None], x0_coupling, n_start=1, noise=drawing())


def tiny(family: str) -> tuple[Denoiser, list[float | None], Tensor]:
    flow = family == "sd3"
    denoiser = tiny_denoiser(family, "flow" if flow else "epsilon")
    kind = FlowMatchEulerDiscreteScheduler if flow else DDIMScheduler
    return denoiser, edit_times(scheduler(kind), 8), drawing(1, (2, 2, SIDE, SIDE))()


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_equal_predictions_leave_the_latents(family: str) -> None:
    denoiser, times, z = tiny(family)
    same = guided(denoiser, conditioning(family, 2), 3.0)
    for coupling in (flowedit_coupling, x0_coupling):
        with torch.no_grad():
            found = coupled(
                denoiser, z, same, same, times, coupling, n_start=6, noise=drawing(2, tuple(z.shape))
            )
        assert torch.equal(found, z)


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_no_step_leaves_the_latents(family: str) -> None:
    denoiser, times, z = tiny(family)
    predict = guided(denoiser, conditioning(family, 2), 3.0)
    assert torch.equal(inversion(denoiser, z, predict, predict, times, n_start=0), z)
    assert torch.equal(
        coupled(denoiser, z, predict, predict, times, x0_coupling, n_start=0, noise=drawing()), z
    )


@pytest.mark.parametrize("family", ["sd15", "sd3"])
@torch.no_grad()
def test_inversion_and_back_under_one_text(family: str) -> None:
    """The better the finer the steps are, and to rounding where each step of the way up is made exact."""
    denoiser, _, z = tiny(family)
    predict = guided(denoiser, conditioning(family, 2), 1.0)
    kind = FlowMatchEulerDiscreteScheduler if family == "sd3" else DDIMScheduler

    def error(steps: int, iterations: int) -> float:
        times = edit_times(scheduler(kind), steps)
        back = inversion(denoiser, z, predict, predict, times, n_start=steps // 2, iterations=iterations)
        return float((back - z).abs().max())

    coarse, fine, exact = error(4, 1), error(32, 1), error(4, 40)
    assert fine < coarse / 2 and exact < 1e-4 < coarse


def test_steps_are_those_of_diffusers() -> None:
    """One step of DDIM from 500 to 250 of 4, and of Euler on a flow."""
    x, f = drawing(3)(), drawing(4)()
    for kind, prediction in (("epsilon", "epsilon"), ("v", "v_prediction")):
        own = scheduler(DDIMScheduler, prediction_type=prediction)
        own.set_timesteps(4)
        denoiser = Denoiser(Linear(0.0), "sd15", kind, own.alphas_cumprod)  # type: ignore[arg-type]
        t, s = edit_times(own, 4)[1:3]
        assert t is not None
        a, b = step_weights(denoiser, t, s)
        assert torch.allclose(a * x + b * f, own.step(f, own.timesteps[1], x).prev_sample, atol=1e-5)
    euler = scheduler(FlowMatchEulerDiscreteScheduler)
    euler.set_timesteps(4)
    t, s = edit_times(euler, 4)[:2]
    assert t is not None
    a, b = step_weights(Denoiser(Linear(0.0), "sd3", "flow"), t, s)
    assert torch.allclose(a * x + b * f, euler.step(f, euler.timesteps[0], x).prev_sample, atol=1e-5)


def test_times_go_from_noise_to_the_clean_end() -> None:
    trailing = scheduler(DDIMScheduler, timestep_spacing="trailing")
    assert edit_times(trailing, 50) == [*range(999, 0, -20), None]
    for steps, says_why in ((0, "at least 1"), (2000, "too many")):
        with pytest.raises(LongalignError, match=says_why):
            edit_times(trailing, steps)


def test_what_is_not_said_suits_the_model() -> None:
    """SD3 draws with 4: the paper's 3.5 and 13.5 with 33 of 50 steps, and 9 with 30 of 50 with soft tokens."""
    flow, epsilon = Denoiser(Linear(0.0), "sd3", "flow"), Denoiser(Linear(0.0), "sd15", "epsilon", BETWEEN)
    plain = EditOptions.choose(flow, 4.0)
    tokens = EditOptions.choose(flow, 4.0, soft_tokens=True)
    assert (plain.method, plain.n_start, plain.steps) == ("flowedit", 33, 50)
    assert (plain.source_guidance, plain.target_guidance) == (3.5, 13.5)
    assert (tokens.n_start, tokens.target_guidance) == (30, 9.0)
    own = {"start": 0.8, "source_guidance": 2.0, "target_guidance": 2.5}
    said = EditOptions.choose(flow, 4.0, flowedit=own, soft_tokens=True, source_guidance=1.0)
    assert (said.n_start, said.source_guidance, said.target_guidance) == (40, 1.0, 2.5)
    assert EditOptions.choose(flow, 4.0, flowedit={"start": 0.8}).target_guidance == 13.5
    assert EditOptions.choose(epsilon, 7.5).method == "flowedit-x0"
    assert EditOptions.choose(epsilon, 7.5, method="ddim", steps=10, start=0.5).calls == 10


@pytest.mark.parametrize(
    ("given", "says_why"),
    [
        ({"method": "p2p"}, "unknown; There are auto, flowedit"),
        ({"method": "flowedit"}, "for flow models such as SD3"),
        ({"start": 1.1}, "from 0 to 1"),
        ({"steps": 0}, "at least 1"),
        ({"finish": 0.9, "start": 0.5}, "from 0 to start"),
        ({"method": "ddim", "samples": 2}, "draws no noise"),
        ({"iterations": 2}, "inverts nothing"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], says_why: str) -> None:
    with pytest.raises(LongalignError, match=says_why):
        EditOptions.choose(Denoiser(Linear(0.0), "sd15", "epsilon", BETWEEN), 7.5, **given)
