"""Solvers as linear maps: coefficients against hand arithmetic and against diffusers' own sampling."""

from __future__ import annotations

import inspect
import math

import diffusers
import pytest
import torch
from tiny import tiny_sd3, tiny_sd15
from tiny_denoiser import scheduler, tiny_denoiser

from longalign.diffusion.sampling import set_scheduler
from longalign.diffusion.solver import LCM_TIMESTEPS, LinearSolver, make_solver
from longalign.errors import LongalignError

NAMES = ["ddim", "unipc", "dpm++", "deis", "euler", "pndm"]


def random_chain(count: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    noise, *predictions = torch.randn(1 + count, 2, 3, 4, 4, generator=generator, dtype=dtype)
    return noise, predictions


def test_one_ddim_step_by_hand() -> None:
    """One step from t = 999 to the end, where ᾱ is 1: x_0 = (x − √(1 − ᾱ) f)/√ᾱ, so a = 1/√ᾱ, c = −√(1 − ᾱ)/√ᾱ."""
    solver = make_solver(scheduler(set_alpha_to_one=True), "ddim", 1, spacing="trailing")
    alpha_bar = float(scheduler().alphas_cumprod[999])
    assert solver.timesteps.tolist() == [999]
    assert solver.a == pytest.approx(1 / math.sqrt(alpha_bar), rel=1e-6)
    assert solver.c.tolist() == pytest.approx([-math.sqrt((1 - alpha_bar) / alpha_bar)], rel=1e-6)
    assert solver.inputs.tolist() == [[1, 0]]


def test_flow_euler_by_hand() -> None:
    """x ← x + (σ' − σ) f: with σ = 1, ½, 0 both predictions weigh −½, and the second input is x_T − ½ f_0."""
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    solver = LinearSolver(flow, 2)
    first, second = (solver.timesteps / 1000).tolist()
    assert solver.a == 1
    assert solver.c.tolist() == pytest.approx([second - first, -second], abs=1e-6)
    assert solver.inputs[1].tolist() == pytest.approx([1, second - first, 0], abs=1e-6)


def test_released_time_steps() -> None:
    """LongAlign §5.1: 50-step DDIM at t = 999, 979, …, 19; LCM at 999, 749, 499, 249."""
    assert make_solver(scheduler(), "ddim", 50, spacing="trailing").timesteps.tolist() == [
        *range(999, 0, -20)
    ]
    assert make_solver(scheduler(), "lcm", 4).timesteps.tolist() == list(LCM_TIMESTEPS)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_linear_map_gives_what_the_scheduler_gives(name: str, zero_snr: bool) -> None:
    """For random predictions, at the result and at every input of the denoiser."""
    kind = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True} if zero_snr else {}
    solver = make_solver(scheduler(**kind), name, 12, spacing="trailing")
    noise, predictions = random_chain(len(solver))
    seen: list[torch.Tensor] = []

    def predict(i: int, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return predictions[i]

    found = solver.sample(predict, noise)
    scale = float(found.abs().max())
    torch.testing.assert_close(solver.combine(noise, predictions), found.double(), rtol=0, atol=1e-5 * scale)
    parts = torch.stack([noise, *predictions])
    for row, x in zip(solver.inputs, seen, strict=True):
        bound = 1e-5 * float(x.abs().max())
        torch.testing.assert_close(torch.tensordot(row, parts, dims=1), x.double(), rtol=0, atol=bound)
    assert torch.triu(solver.inputs[:, 1:]).abs().max() == 0  # no input knows of a later prediction


@pytest.mark.parametrize("name", NAMES)
def test_sampling_is_the_pipelines(name: str) -> None:
    """Same noise, same UNet: `sample` and the coefficients give the latents that diffusers' pipeline gives."""
    pipe = tiny_sd15()
    solver = make_solver(pipe.scheduler, name, 5)
    pipe.scheduler = solver.scheduler
    noise, embeds = torch.randn(1, 4, 16, 16), torch.randn(1, 7, 32)
    kwargs = {"guidance_scale": 1.0, "num_inference_steps": 5, "output_type": "latent"}
    wanted = pipe(prompt_embeds=embeds, latents=noise, **kwargs).images
    predictions: list[torch.Tensor] = []

    @torch.no_grad()
    def predict(i: int, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        predictions.append(pipe.unet(x, t, encoder_hidden_states=embeds).sample)
        return predictions[-1]

    found = solver.sample(predict, noise)
    bound = 1e-5 * float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, rtol=0, atol=bound)
    torch.testing.assert_close(solver.combine(noise, predictions), wanted, rtol=0, atol=bound)


def test_sampling_is_sd3s_pipelines() -> None:
    pipe = tiny_sd3(with_t5=False)
    solver = make_solver(pipe.scheduler, "auto", 4)
    noise, embeds, pooled = torch.randn(1, 4, 16, 16), torch.randn(1, 7, 80), torch.randn(1, 56)
    wanted = pipe(
        prompt_embeds=embeds,
        pooled_prompt_embeds=pooled,
        latents=noise,
        guidance_scale=1.0,
        num_inference_steps=4,
        height=32,
        width=32,
        output_type="latent",
    ).images

    @torch.no_grad()
    def predict(i: int, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return pipe.transformer(x, embeds, pooled, t.expand(1)).sample

    found = solver.sample(predict, noise)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_lcm_is_linear_given_its_noise() -> None:
    """x_0 changes by Σ c_i Δf_i when predictions change by Δf and the noise between the steps stays.

    By hand: the last step gives c_out (x − √(1 − ᾱ) f)/√ᾱ + c_skip x, so its prediction weighs −c_out √(1 − ᾱ)/√ᾱ,
    with c_out = s/√(s² + ¼), s = 10·249.
    """
    solver = make_solver(scheduler(), "lcm", 4)
    noise, predictions = random_chain(4)
    others = [f + torch.randn_like(f) for f in predictions]
    ends = [
        solver.sample(lambda i, x, t, of=of: of[i], noise, generator=torch.Generator().manual_seed(7))
        for of in (predictions, others)
    ]
    change = sum(c * (b - a) for c, a, b in zip(solver.c.tolist(), predictions, others, strict=True))
    torch.testing.assert_close(ends[1] - ends[0], change, rtol=1e-6, atol=1e-6)
    alpha_bar = float(scheduler().alphas_cumprod[249])
    c_out = 2490 / math.sqrt(2490**2 + 0.25)
    assert float(solver.c[-1]) == pytest.approx(-c_out * math.sqrt((1 - alpha_bar) / alpha_bar), rel=1e-6)


def test_stopping_early_leaves_later_predictions_alone() -> None:
    solver = make_solver(scheduler(), "dpm++", 6)
    noise, predictions = random_chain(6)
    asked: list[int] = []

    def predict(i: int, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(i)
        return predictions[i]

    solver.sample(predict, noise, last=3)
    assert asked == [0, 1, 2, 3]


def test_making_a_solver_leaves_scheduler_and_random_state_alone() -> None:
    given = scheduler()
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    make_solver(given, "lcm", 4)
    LinearSolver(given, 10)
    assert torch.equal(torch.randn(3), expected)
    assert given.num_inference_steps is None


@pytest.mark.parametrize(
    "nonlinear",
    [
        diffusers.DDIMScheduler(clip_sample=True),
        diffusers.DPMSolverMultistepScheduler(thresholding=True),
        diffusers.UniPCMultistepScheduler(thresholding=True, sample_max_value=2.0),
    ],
    ids=["clips", "thresholds", "unipc thresholds"],
)
def test_nonlinear_solver_is_refused_by_name(nonlinear: object) -> None:
    with pytest.raises(LongalignError, match=rf"{type(nonlinear).__name__} is not linear.*clip_sample"):
        LinearSolver(nonlinear, 10)


@pytest.mark.parametrize("name", ["own", *NAMES, "lcm"])
@pytest.mark.parametrize("setting", ["clip_sample", "thresholding"])
def test_latents_are_never_clipped_whatever_the_published_configuration_says(name: str, setting: str) -> None:
    """A configuration without `clip_sample` (diffusers' DDIM: True), or with thresholding: linear all the same."""
    without = {k: v for k, v in scheduler().config.items() if k not in ("clip_sample", "thresholding")}
    published = diffusers.DDIMScheduler.from_config(without, thresholding=setting == "thresholding")
    assert published.config.clip_sample and published.config.thresholding == (setting == "thresholding")
    solver = make_solver(published, name, 4)
    wanted = make_solver(scheduler(), name, 4)
    torch.testing.assert_close(solver.c, wanted.c)
    pipe = tiny_sd15()
    pipe.scheduler = published
    if name != "lcm":
        set_scheduler(pipe, name)
        read = inspect.signature(
            type(pipe.scheduler).__init__
        ).parameters  # Euler carries what it does not read
        assert not any(pipe.scheduler.config[key] for key in ("clip_sample", "thresholding") if key in read)


def released_chain(noise: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """LongAlign's released DDIM by hand: t = 999, 979, …, 19; x̂_0 = (x − √(1 − ᾱ) f)/√ᾱ. The last x̂_0 is the end."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0)
    x = clean = noise
    for i, t in enumerate(range(999, 0, -20)):
        now = alpha_bar[t]
        clean = (x - (1 - now).sqrt() * f[i] * x.tanh()) / now.sqrt()
        if t >= 20:
            after = alpha_bar[t - 20]
            x = after.sqrt() * clean + (1 - after).sqrt() * f[i] * x.tanh()
    return clean


def test_clean_end_is_the_released_arithmetic() -> None:
    """Within 1e-6, relative; the scheduler's own end, with ᾱ_0 left on SD1.5's schedule, is 1e-4 and more away."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 4, 6, 6, dtype=torch.float64, generator=generator)
    f = torch.randn(50, 1, 4, 6, 6, dtype=torch.float64, generator=generator)
    wanted = released_chain(noise, f)
    given = scheduler(set_alpha_to_one=False)  # as published for SD1.5
    x0_weights = tiny_denoiser().x0_weights
    solver = make_solver(given, "ddim", 50, spacing="trailing", clean=x0_weights)
    predictions: list[torch.Tensor] = []

    def predict(i: int, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        predictions.append(f[i] * x.tanh())
        return predictions[-1]

    found = solver.sample(predict, noise)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6
    combined = solver.combine(noise, predictions)  # the coefficients, which the gradient is made of
    assert float((combined - wanted).norm() / wanted.norm()) < 1e-6
    own = make_solver(given, "ddim", 50, spacing="trailing").combine(noise, predictions)
    assert 1e-4 < float((own - wanted).norm() / wanted.norm()) < 1e-1


@pytest.mark.parametrize("name", NAMES)
def test_clean_end_of_every_solver_is_its_last_clean_prediction(name: str) -> None:
    """x_0 = (x_in − √(1 − ᾱ_t) f)/√ᾱ_t at the last time step t, and the coefficients say the same."""
    denoiser = tiny_denoiser()
    solver = make_solver(scheduler(), name, 8, clean=denoiser.x0_weights)
    noise, predictions = random_chain(len(solver))
    parts = torch.stack([noise, *predictions])
    last = torch.tensordot(solver.inputs[-1], parts, dims=1)
    wanted = denoiser.x0(last, predictions[-1], solver.timesteps[-1])
    bound = 1e-5 * float(wanted.abs().max())
    torch.testing.assert_close(solver.combine(noise, predictions), wanted, rtol=0, atol=bound)


def test_wrong_choices_are_refused() -> None:
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    for arguments, message in [
        ((scheduler(), "dimm", 5), "'dimm' is unknown"),
        ((flow, "unipc", 5), "does not fit a flow model"),
        ((scheduler(), "ddim", 0), "at least 1 step"),
        ((scheduler(), "ddim", 2000), "DDIMScheduler: cannot take these steps"),
    ]:
        with pytest.raises(LongalignError, match=message):
            make_solver(*arguments)
    with pytest.raises(LongalignError, match="spacing 'wide' is unknown"):
        make_solver(scheduler(), "ddim", 5, spacing="wide")
    with pytest.raises(LongalignError, match="chooses its own time steps"):
        make_solver(scheduler(), "ddim", 2, timesteps=(900, 100))
    with pytest.raises(LongalignError, match="2 time steps are given for 3 steps"):
        make_solver(scheduler(), "lcm", 3, timesteps=(900, 100))
    with pytest.raises(LongalignError, match="dynamic"):
        LinearSolver(diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), 4)
