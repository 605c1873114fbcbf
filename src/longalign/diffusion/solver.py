"""Solvers as linear maps: the weights with which noise and predictions add up to a sampled latent.

A solver that neither clips nor thresholds is a linear map of its starting noise and of the denoiser's predictions. The
weights depend on the time steps alone::

    x_0  = a·x_T    + Σ_i c_i·f_i                    x_in,i = A_i,0·x_T + Σ_{j<i} A_i,1+j·f_j

Here x_in,i is the input of the denoiser in step i, and f_i its prediction. So ∂x_0/∂f_i is the number c_i, and a loss
on x_0 needs no graph through the chain. A stochastic solver adds noise of its own to both, which changes no weight.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from longalign.diffusion.sampling import SCHEDULERS, latent_scheduler
from longalign.errors import LongalignError
from longalign.plugins import unknown

LCM_TIMESTEPS = (999, 749, 499, 249)  # LongAlign's LCM variant is trained at these (App. C)
SOLVERS = {**SCHEDULERS, "lcm": "LCMScheduler"}
SPACINGS = ("own", "trailing", "leading", "linspace")

# Schedulers that always compute in float32 have an error of 1e-7 a step, and more where σ starts in the thousands
# (zero terminal SNR). Clipping has an error of about 1.
_TOLERANCE = 1e-3
_SEED = 0

Predict = Callable[[int, Tensor, Tensor], Tensor]
X0Weights = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # `Denoiser.x0_weights`


class LinearSolver:
    """A diffusers scheduler with its time steps, and its coefficients.

    Args:
        scheduler: a diffusers scheduler; it is copied.
        steps: number of steps. PNDM and Heun call the denoiser more often.
        timesteps: the time steps, for schedulers that accept them (LCM, Euler); None: the scheduler's own choice.
        clean: `Denoiser.x0_weights`. Then x_0 is the clean prediction of the last step, p·x_in + q·f, as in the
            released LongAlign trainer. None: what the scheduler has after its last step. The two differ where the
            schedule keeps ᾱ_0 < 1 to the end (``set_alpha_to_one: false``, as SD1.5's).

    Attributes:
        timesteps: (N,) on the CPU, one for each call of the denoiser.
        a: the weight of the starting noise of unit variance; it includes the scheduler's `init_noise_sigma`.
        c: (N,) float64, the weights of the predictions.
        inputs: (N, 1 + N) float64, the matrix A; its last N columns are strictly lower triangular.

    Raises:
        LongalignError: the scheduler does not accept these steps, or is not linear (the message names it).
    """

    def __init__(
        self,
        scheduler: Any,
        steps: int,
        timesteps: Sequence[int] | None = None,
        *,
        clean: X0Weights | None = None,
    ) -> None:
        if steps < 1:
            raise LongalignError(f"a solver takes at least 1 step, not {steps}")
        self.scheduler = copy.deepcopy(scheduler)
        self.name = type(scheduler).__name__
        self._clean = clean
        self._setting = _setting(self.scheduler, steps, timesteps)
        self._takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        self._restart()
        self.timesteps: Tensor = self.scheduler.timesteps.clone()  # (N,)
        self.a, self.c, self.inputs = self._coefficients()

    def __len__(self) -> int:
        """N, the number of predictions."""
        return len(self.timesteps)

    def sample(
        self,
        predict: Predict,
        noise: Tensor,
        *,
        last: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Tensor:
        """Runs the scheduler as diffusers' pipelines do.

        Args:
            predict: step, (B, …) x_in, t → (B, …) f.
            noise: (B, …) x_T, of unit variance.
            last: the last step to take; None takes all.
            generator: of a stochastic solver's noise; None is torch's own.

        Returns:
            (B, …) x_0, or what the scheduler has after an earlier step ``last``.
        """
        self._restart()
        scheduler = self.scheduler
        kwargs = {"generator": generator} if self._takes_generator else {}
        x = noise * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else noise
        # Time steps stay on the CPU, where schedulers keep their constants: a step on the device would cost a wait.
        for i, t in enumerate(self.timesteps if last is None else self.timesteps[: last + 1]):
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            f = predict(i, scaled, t)
            if self._clean is not None and i == len(self) - 1:
                p, q = self._clean(t, scaled)
                return p * scaled + q * f
            x = scheduler.step(f, t, x, return_dict=False, **kwargs)[0]
        return x

    def combine(self, noise: Tensor, predictions: Sequence[Tensor]) -> Tensor:
        """a·x_T + Σ c_i·f_i: x_0 of a solver without noise of its own, from (B, …) x_T and N times (B, …) f."""
        x_0 = self.a * noise
        for c, f in zip(self.c.tolist(), predictions, strict=True):
            x_0 = x_0 + c * f
        return x_0

    def _restart(self) -> None:
        try:
            self.scheduler.set_timesteps(**self._setting)
        except (ValueError, TypeError) as error:
            raise LongalignError(f"{self.name}: cannot take these steps: {error}") from error
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)

    # x_T = e_0, f_i = e_{1+i}: then x_0 = (a, c_0, …, c_{N−1}), and each input is a row of A
    def _coefficients(self) -> tuple[float, Tensor, Tensor]:
        width = 1 + len(self)
        basis = torch.eye(width, dtype=torch.float64).view(width, 1, width, 1, 1)
        # The contribution of the solver's own noise is subtracted. That noise is the same each time.
        origin, origin_inputs = self._run(torch.zeros_like(basis))
        end, end_inputs = self._run(basis)
        weights = (end - origin).flatten()  # (1 + N,)
        inputs = (end_inputs - origin_inputs).view(len(self), width)

        random = torch.randn(basis.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(_SEED))
        random *= 3  # large enough values to make a clipping solver clip
        found, _ = self._run(random)
        expected = origin + torch.tensordot(weights, random, dims=1)
        error = float((found - expected).abs().max() / expected.abs().max())
        if not error < _TOLERANCE:  # written in this way, NaN is an error, too
            raise LongalignError(
                f"{self.name} is not linear with this configuration (it misses the linear map by {error:.1g}): it "
                "clips (clip_sample), thresholds (thresholding), or draws noise without a generator. Turn that "
                "off, or take another solver"
            )
        return float(weights[0]), weights[1:].clone(), inputs

    def _run(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(1 + N, …) x_T and predictions → (…) x_0 and (N, …) inputs, always with the same noise."""
        inputs: list[Tensor] = []

        def given(i: int, x: Tensor, t: Tensor) -> Tensor:
            inputs.append(x)
            return vectors[1 + i]

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            end = self.sample(given, vectors[0], generator=torch.Generator().manual_seed(_SEED))
        return end.double(), torch.stack(inputs).double()


def make_solver(
    scheduler: Any,
    name: str,
    steps: int,
    *,
    spacing: str = "own",
    timesteps: Sequence[int] | None = None,
    clean: X0Weights | None = None,
) -> LinearSolver:
    """A solver with the noise schedule of a pipeline's scheduler. It neither clips nor thresholds (`latent_scheduler`).

    Args:
        scheduler: the pipeline's.
        name: ``own`` (the pipeline's), ``ddim``, ``unipc``, ``dpm++``, ``deis``, ``euler``, ``pndm`` or ``lcm``;
            ``auto`` is DDIM; for flow models it is the model's own solver.
        spacing: of the time steps: ``own``, ``trailing`` (999, 979, …, 19 for 50 steps: the published trainer's),
            ``leading`` or ``linspace``. Flow models and LCM ignore it.
        clean: of `LinearSolver`.
        timesteps: the time steps themselves. None: the scheduler's choice; LCM with 4 steps takes 999, 749, 499, 249.

    Raises:
        LongalignError: an unknown name or spacing, a diffusion solver for a flow model, a solver that is not linear.
    """
    import diffusers

    flow = "FlowMatch" in type(scheduler).__name__
    if name == "auto":
        name = "own" if flow else "ddim"
    if name != "own" and name not in SOLVERS:
        raise LongalignError(unknown("solver", name, ["auto", "own", *SOLVERS]))
    if spacing not in SPACINGS:
        raise LongalignError(unknown("spacing", spacing, SPACINGS))
    if flow and name != "own":
        raise LongalignError(f"solver {name!r} does not fit a flow model: use auto")
    changes: dict[str, Any] = {}
    if spacing != "own" and not flow and name != "lcm":
        changes["timestep_spacing"] = spacing
    if name == "pndm":
        changes["skip_prk_steps"] = True  # without Runge-Kutta steps, as the published pipelines use it
    kind = type(scheduler) if name == "own" else getattr(diffusers, SOLVERS[name])
    if name == "lcm" and timesteps is None and steps == len(LCM_TIMESTEPS):
        timesteps = LCM_TIMESTEPS
    return LinearSolver(latent_scheduler(kind, scheduler.config, **changes), steps, timesteps, clean=clean)


def _setting(scheduler: Any, steps: int, timesteps: Sequence[int] | None) -> dict[str, Any]:
    """The arguments of `set_timesteps`."""
    if timesteps is None:
        return {"num_inference_steps": steps}
    known = inspect.signature(scheduler.set_timesteps).parameters
    if "timesteps" not in known:
        raise LongalignError(
            f"{type(scheduler).__name__} chooses its own time steps; it cannot be given them"
        )
    if len(timesteps) != steps:
        raise LongalignError(f"{len(timesteps)} time steps are given for {steps} steps")
    setting: dict[str, Any] = {"timesteps": list(timesteps)}
    if (
        "original_inference_steps" in known
    ):  # without this, LCM warns of every step that is not among its usual fifty
        setting["original_inference_steps"] = steps
    return setting
