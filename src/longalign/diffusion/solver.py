"""Solvers as linear maps: what a sampled latent is made of .

A solver that neither clips nor thresholds adds up its starting noise and the denoiser's predictions with weights that
depend on its time steps alone::

    x_0  = a·x_T    + Σ_i c_i·f_i                    x_in,i = A_i,0·x_T + Σ_{j<i} A_i,1+j·f_j

with x_in,i what the denoiser sees in step i, and f_i what it says. So ∂x_0/∂f_i is the number c_i, and a loss on x_0
needs no graph through the chain. A stochastic solver adds its own noise to both, which changes no weight.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from longalign.diffusion.sampling import SCHEDULERS
from longalign.errors import LongalignError

LCM_TIMESTEPS = (999, 749, 499, 249)  # LongAlign's LCM variant is trained at these
SOLVERS = {**SCHEDULERS, "lcm": "LCMScheduler"}
SPACINGS = ("own", "trailing", "leading", "linspace")

# Schedulers that compute in float32 whatever they are given are off by 1e-7 a step, more where σ starts in the
# thousands (zero terminal SNR); clipping is off by about 1.
_TOLERANCE = 1e-3
_SEED = 0

Predict = Callable[[int, Tensor, Tensor], Tensor]


class LinearSolver:
    """A diffusers scheduler with its time steps, and its coefficients.

    Args:
        scheduler: it is copied.
        steps: how many; the denoiser may be called more often (`PNDM`, `Heun`).
        timesteps: in place of those that the scheduler would choose, where it can be told (LCM, Euler).

    Attributes:
        timesteps: (N,) on the CPU, one for each call of the denoiser.
        a: the weight of the starting noise, which has unit variance: the scheduler's `init_noise_sigma` is in it.
        c: (N,) float64, the weights of the predictions.
        inputs: (N, 1 + N) float64, A above; its last columns are strictly lower triangular.

    Raises:
        LongalignError: the scheduler cannot take these steps, or is not linear (it is named).
    """

    def __init__(self, scheduler: Any, steps: int, timesteps: Sequence[int] | None = None) -> None:
        if steps < 1:
            raise LongalignError(f"a solver takes at least 1 step, not {steps}")
        self.scheduler = copy.deepcopy(scheduler)
        self.name = type(scheduler).__name__
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
            (B, …) x_0, or what the scheduler has after step ``last``.
        """
        self._restart()
        scheduler = self.scheduler
        kwargs = {"generator": generator} if self._takes_generator else {}
        x = noise * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else noise
        # On the CPU: schedulers look their constants up there, and would wait for a time step on the device.
        for i, t in enumerate(self.timesteps if last is None else self.timesteps[: last + 1]):
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(predict(i, scaled, t), t, x, return_dict=False, **kwargs)[0]
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
        # What the solver's own noise alone comes to is taken off again. It is drawn alike each time.
        origin, origin_inputs = self._run(torch.zeros_like(basis))
        end, end_inputs = self._run(basis)
        weights = (end - origin).flatten()  # (1 + N,)
        inputs = (end_inputs - origin_inputs).view(len(self), width)

        random = torch.randn(basis.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(_SEED))
        random *= 3  # far enough out for whatever clips to clip
        found, _ = self._run(random)
        expected = origin + torch.tensordot(weights, random, dims=1)
        error = float((found - expected).abs().max() / expected.abs().max())
        if not error < _TOLERANCE:  # so written, NaN is an error, too
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
) -> LinearSolver:
    """Another solver over the noise schedule of a pipeline's scheduler.

    Args:
        scheduler: the pipeline's.
        name: ``own`` (the pipeline's), ``ddim``, ``unipc``, ``dpm++``, ``deis``, ``euler``, ``pndm`` or ``lcm``;
            ``auto`` is DDIM, but a flow model's own solver for flow models.
        spacing: of the time steps: ``own``, ``trailing`` (999, 979, …, 19 for 50 steps: the published trainer's),
            ``leading`` or ``linspace``. Means nothing to flow models and LCM.
        timesteps: given one by one; LCM's are 999, 749, 499, 249 where nothing is said and ``steps`` is 4.

    Raises:
        LongalignError: an unknown name or spacing, a diffusion solver for a flow model, a solver that is not linear.
    """
    import diffusers

    flow = "FlowMatch" in type(scheduler).__name__
    if name == "auto":
        name = "own" if flow else "ddim"
    if name != "own" and name not in SOLVERS:
        raise LongalignError(f"solver {name!r} is unknown; one of auto, own, {', '.join(SOLVERS)}")
    if spacing not in SPACINGS:
        raise LongalignError(f"spacing {spacing!r} is unknown; one of {', '.join(SPACINGS)}")
    if flow and name != "own":
        raise LongalignError(f"solver {name!r} does not fit a flow model: use auto")
    # As arguments, since `from_config` passes over what the configuration calls a default.
    changes: dict[str, Any] = {}
    if spacing != "own" and not flow and name != "lcm":
        changes["timestep_spacing"] = spacing
    if name == "pndm":
        changes["skip_prk_steps"] = True  # without Runge-Kutta steps, as the published pipelines use it
    kind = type(scheduler) if name == "own" else getattr(diffusers, SOLVERS[name])
    if name == "lcm" and timesteps is None and steps == len(LCM_TIMESTEPS):
        timesteps = LCM_TIMESTEPS
    return LinearSolver(kind.from_config(scheduler.config, **changes), steps, timesteps)


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
    if "original_inference_steps" in known:  # else LCM warns of every step that is not among its usual fifty
        setting["original_inference_steps"] = steps
    return setting
