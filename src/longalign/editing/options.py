"""The settings of an edit: as a user asks for them, and as they are completed and checked for a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from longalign.diffusion.denoiser import Denoiser
from longalign.editing.methods import OnStep, Predict, coupled, inversion
from longalign.editing.schedule import Time, flowedit_coupling, x0_coupling
from longalign.errors import LongalignError
from longalign.plugins import unknown

METHODS = ("flowedit", "flowedit-x0", "ddim")


@dataclass(frozen=True)
class EditSettings:
    """How a user asks for an edit. None stands for what suits the method and the model (`EditOptions.choose`).

    Attributes:
        method: one of `METHODS`, or ``auto``: flowedit for flow models, flowedit-x0 for the others.
        steps: N, of the whole schedule from noise.
        start: share of the steps that are taken, the last ones (n_start = round(start · N); FlowEdit's 33 of 50 is
            0.66). 0 leaves the picture as it is, 1 begins with nothing but noise.
        source_guidance, target_guidance: classifier-free guidance for each text; at most 1 is none.
        finish: share of the steps at the end that sample the target without the source (n_min; not for ddim).
        samples: noises that are averaged in each step (n_avg; not for ddim).
        iterations: of the inversion's fixed point (ddim only).
    """

    method: str = "auto"
    steps: int | None = None
    start: float | None = None
    source_guidance: float | None = None
    target_guidance: float | None = None
    finish: float = 0.0
    samples: int = 1
    iterations: int = 1


@dataclass(frozen=True)
class EditOptions:
    """How an edit is done: `EditSettings` with every value known. Made by `choose`.

    Attributes:
        method: one of `METHODS`.
        steps, start, source_guidance, target_guidance, finish, samples, iterations: as in `EditSettings`.
    """

    method: str
    steps: int
    start: float
    source_guidance: float
    target_guidance: float
    finish: float = 0.0
    samples: int = 1
    iterations: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise LongalignError(unknown("method", self.method, ["auto", *METHODS]))
        for name in ("steps", "samples", "iterations"):
            if getattr(self, name) < 1:
                raise LongalignError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.start <= 1:
            raise LongalignError(
                f"start is the share of the steps that are taken, from 0 to 1, not {self.start}"
            )
        if not 0 <= self.finish <= self.start:
            raise LongalignError(
                f"finish is the share of the steps that end without the source, from 0 to start ({self.start:g}), "
                f"not {self.finish}"
            )
        if self.method == "ddim" and (self.finish or self.samples > 1):
            raise LongalignError("finish and samples belong to flowedit and flowedit-x0; ddim draws no noise")
        if self.method != "ddim" and self.iterations > 1:
            raise LongalignError(f"iterations belong to ddim; {self.method} inverts nothing")

    @property
    def n_start(self) -> int:
        """Steps that are taken."""
        return round(self.start * self.steps)

    @property
    def n_min(self) -> int:
        """Steps of those that end without the source."""
        return round(self.finish * self.steps)

    @property
    def calls(self) -> int:
        """How often `run` calls back, each time with the number of pictures."""
        return self.n_start * (2 if self.method == "ddim" else 1)

    @classmethod
    def choose(
        cls,
        denoiser: Denoiser,
        guidance: float,
        *,
        flowedit: Mapping[str, float] | None = None,
        soft_tokens: bool = False,
        asked: EditSettings | None = None,
        **given: Any,
    ) -> EditOptions:
        """The settings that were asked for, completed by what suits the model.

        FlowEdit's guidance scales are those of its paper (arXiv 2412.08629, for SD3: 3.5 and 13.5, at 33 of 50
        steps), as a multiple of SD3's usual scale of 4. With soft tokens they are SoftREPA's (arXiv 2503.08250): 9 for
        the target, at 30 of 50 steps. The other two methods use the model's own scale for the target. flowedit-x0 uses
        it for the source, too, so that the parts that both texts share cancel. ddim uses no guidance for the source,
        because an inversion with guidance drifts.

        Args:
            denoiser: decides what ``auto`` is: flowedit for flow models, flowedit-x0 for the others.
            guidance: the model's own scale for drawing.
            flowedit: settings of FlowEdit in the model's folder (`ModelSettings`). They replace those of the papers.
            soft_tokens: whether there are soft tokens on the model.
            asked: the settings that were asked for.
            given: fields of `EditSettings` that replace those of `asked`.

        Raises:
            LongalignError: a setting is out of range, unknown or belongs to another method; or flowedit is asked for,
                and the model is no flow model.
        """
        asked = replace(asked or EditSettings(), **given)
        method, start = asked.method, asked.start
        source_guidance, target_guidance = asked.source_guidance, asked.target_guidance
        flow = denoiser.parameterisation == "flow"
        if method == "auto":
            method = "flowedit" if flow else "flowedit-x0"
        if method == "flowedit" and not flow:
            raise LongalignError(
                f"flowedit is for flow models such as SD3, and this one predicts {denoiser.parameterisation}: use "
                "flowedit-x0 or ddim"
            )
        usual_start, source, target = {
            "flowedit": (0.66, 3.5 / 4 * guidance, 13.5 / 4 * guidance),
            "flowedit-x0": (0.8, guidance, guidance),
            "ddim": (0.6, 1.0, guidance),
        }.get(method, (0.0, 1.0, 1.0))  # an unknown method is refused below
        if soft_tokens and method == "flowedit":
            usual_start, target = 0.6, 9.0 / 4 * guidance
        if flowedit is not None and method == "flowedit":
            usual_start = flowedit.get("start", usual_start)
            source, target = flowedit.get("source_guidance", source), flowedit.get("target_guidance", target)
        return cls(
            method=method,
            steps=50 if asked.steps is None else asked.steps,
            start=usual_start if start is None else start,
            source_guidance=source if source_guidance is None else source_guidance,
            target_guidance=target if target_guidance is None else target_guidance,
            finish=asked.finish,
            samples=asked.samples,
            iterations=asked.iterations,
        )

    def run(
        self,
        denoiser: Denoiser,
        z_src: Tensor,
        source: Predict,
        target: Predict,
        times: list[Time],
        noise: Callable[[], Tensor],
        on_step: OnStep = lambda pictures: None,
    ) -> Tensor:
        """Edits (B, C, h, w) latents by the method; for the arguments see `methods`."""
        if self.method == "ddim":
            return inversion(
                denoiser,
                z_src,
                source,
                target,
                times,
                n_start=self.n_start,
                iterations=self.iterations,
                on_step=on_step,
            )
        return coupled(
            denoiser,
            z_src,
            source,
            target,
            times,
            flowedit_coupling if self.method == "flowedit" else x0_coupling,
            n_start=self.n_start,
            n_min=self.n_min,
            samples=self.samples,
            noise=noise,
            on_step=on_step,
        )
