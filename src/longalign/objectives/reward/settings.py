"""The sections `reward` and `data` of a recipe of reward fine-tuning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from longalign.diffusion.solver import LCM_TIMESTEPS, SOLVERS, SPACINGS
from longalign.objectives.pictures.settings import ObjectRanges
from longalign.objectives.reward.gradient import Method

VSource = Literal["stored", "batch"]
TextReading = Literal["segments", "single"]


class RewardModel(BaseModel):
    """One preference model of the reward. A recipe may give just its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="stickers/…, a CLIPModel folder, a hub name, or an open_clip checkpoint")
    weight: float = 1.0
    omega: float | None = Field(None, description="null: the section's")
    text: TextReading = "segments"
    tokenizer: str | None = Field(None, description="where the model has none of its own")

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value


class RewardSettings(BaseModel):
    """The section `reward` of a recipe (LongAlign, §2.3, §4.2, §5.1).

    `solver` with `spacing` and `steps` is how pictures are sampled; `method` and `gradient_steps` say which predictions
    get gradient: drtune (5 of 50, spread out), draft (the last), alignprop (a random number of last ones), refl (a late
    one, and no further sampling).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rewards: tuple[RewardModel, ...] = Field(
        (RewardModel.model_validate("stickers/clip"),),
        min_length=1,
        description="preference models; their weighted sum is maximised",
    )
    omega: float = Field(
        0.3, description="factor of the text-irrelevant part; 1: the plain score, 0: alignment only"
    )
    v: VSource = "stored"
    half: bool = Field(
        False, description="half of the loss, as released; matters where gradients are clipped"
    )
    crop: float = Field(504 / 512, gt=0, le=1, description="share of each side that is scored")

    method: Method = "drtune"
    gradient_steps: int | None = Field(
        None, gt=0, description="null: 5, or all of the four of lcm; for drtune and draft"
    )
    solver: str = Field(
        "auto", description="ddim, unipc, …, lcm, own; auto: ddim, a flow model's own for those"
    )
    spacing: str = Field("trailing", description="of the time steps; own: that of the model's scheduler")
    steps: int | None = Field(None, gt=0, description="null: 50, for lcm 4")
    timesteps: tuple[int, ...] | None = Field(
        None, description="the time steps themselves, for solvers that take them (lcm)"
    )
    final: Literal["scheduler", "clean"] = Field(
        "scheduler",
        description="the latents that are decoded: what the scheduler has after its last step, or the clean prediction "
        "of that step (clean: the released trainer)",
    )
    guidance: float | None = Field(None, ge=0, description="null: the model's own; for lcm none")
    split_guidance: bool = Field(
        False, description="compute the two branches of guidance one after the other: half the memory"
    )
    pictures_at_once: int = Field(8, gt=0, description="decoded and scored together, with gradient")
    gradient_checkpointing: bool = Field(False, description="less memory, a third more time")

    strategy: str = Field("clip-cat", description="text encoding, as of longalign generate")
    length: int | None = Field(None, gt=0, description="padded length in tokens; null: the model's own")
    negative_prompt: str | None = None
    rank: int = Field(32, gt=0, description="of the LoRA")
    start_from: tuple[str, ...] = Field(
        (),
        description="LoRA folders of earlier stages, in order; they stay on, frozen, and are saved with it as one",
    )

    evaluate_with: tuple[RewardModel, ...] = Field(
        (),
        description="preference models that score held-out prompts and are not trained on; the first (else the "
        "first reward) has the features of diversity, fid and cmmd",
    )
    distance_to: Literal["base", "pictures", "none"] = Field(
        "base",
        description="fid and cmmd compare with pictures of the model without this run's LoRA (base), or with the "
        "pictures that the prompts are captions of (pictures; stickers only)",
    )
    sample_pictures: int = Field(
        4, ge=0, description="held-out prompts whose pictures a tracker shows at each evaluation"
    )
    evaluate_at_once: int = Field(16, gt=0, description="pictures sampled together")

    @field_validator("solver")
    @classmethod
    def _known_solver(cls, value: str) -> str:
        return _one_of(value, ("auto", "own", *SOLVERS))

    @field_validator("spacing")
    @classmethod
    def _known_spacing(cls, value: str) -> str:
        return _one_of(value, SPACINGS)

    @model_validator(mode="after")
    def _few_enough(self) -> RewardSettings:
        if self.method in ("drtune", "draft") and self.resolved_gradient_steps > self.resolved_steps:
            raise ValueError(
                f"gradient_steps should be at most steps ({self.resolved_steps}), "
                f"and is {self.resolved_gradient_steps}"
            )
        return self

    @property
    def resolved_steps(self) -> int:
        if self.steps is not None:
            return self.steps
        if self.timesteps is not None:
            return len(self.timesteps)
        return len(LCM_TIMESTEPS) if self.solver == "lcm" else 50

    @property
    def resolved_gradient_steps(self) -> int:
        if self.gradient_steps is not None:
            return self.gradient_steps
        return self.resolved_steps if self.solver == "lcm" else min(5, self.resolved_steps)


class RewardDataSettings(BaseModel):
    """The section `data` of a recipe: prompts, no pictures.

    A source is ``stickers`` (captions of random scenes) or a file with a prompt a line, or JSONL with a key prompt,
    text or caption.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: str = Field("stickers", description="the source to train on")
    count: int = Field(100_000, gt=0, description="number of sticker captions; files are read whole")
    objects: ObjectRanges = Field(
        ((1, 9),), description="least and most stickers of a scene, or several such ranges in turn"
    )
    referring: float = Field(
        0.0, ge=0, le=1, description="share of sticker captions with sentences that refer to the one before"
    )
    held_out: str | None = Field(None, description="the source to evaluate on; null: no evaluation")
    held_out_count: int = Field(64, gt=0, description="most prompts to evaluate on")


def _one_of(value: str, names: tuple[str, ...]) -> str:
    if value not in names:
        raise ValueError(f"should be one of {', '.join(names)}")
    return value
