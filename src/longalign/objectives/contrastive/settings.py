"""The section `contrastive` of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from longalign.objectives.pictures.settings import CaptionedSettings
from longalign.soft_tokens.config import Stage


class AlignmentGuidedSettings(BaseModel):
    """Alignment-Guided Score Matching in place of the contrastive loss: `longalign.objectives.contrastive.guided`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    negatives: int = Field(3, gt=0, description="captions of others that each picture is seen under")
    gamma_positive: float = Field(1.0, ge=0, description="how far the own caption's target is moved")
    gamma_negative: float = Field(1.0, ge=0, description="how far other captions' are; 0.1 for SD3")
    temperature: float = Field(0.1, gt=0, description="of the posterior over captions")
    weight: float = Field(1.0, gt=0, description="A, of the errors in that posterior")
    step: float = Field(1.0, gt=0, description="Ã, of the directions")
    ema: float = Field(0.9999, ge=0, lt=1, description="decay of the tokens that the directions come from")


class ContrastiveSettings(CaptionedSettings):
    """The section `contrastive` of a recipe (SoftREPA). Only soft tokens are trained."""

    scale: float = Field(4.0, gt=0, description="s of logit = s·exp(−E/τ)")
    temperature: float = Field(0.07, gt=0, description="τ of logit = s·exp(−E/τ)")
    matched_weight: float | None = Field(
        None, ge=0, description="λ of the own captions' mean error; null: 10, for SD3 0"
    )
    symmetric: bool = Field(False, description="contrast pictures under each caption, too")
    near_negatives: int = Field(
        0, ge=0, description="further negatives of each picture: its caption with one sentence changed"
    )
    alignment_guided: AlignmentGuidedSettings | None = Field(
        None, description="train by Alignment-Guided Score Matching instead"
    )
    pairs_at_once: int = Field(
        16, gt=0, description="pairs of picture and caption in one call of the denoiser; decides the memory"
    )
    skip_below: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="pairs whose weight in the gradient is below this share of the greatest are left out of it, which "
        "saves their second pass; 0: the exact gradient",
    )

    tokens: int = Field(4, gt=0, description="soft tokens at one place")
    stages: tuple[Stage, ...] | None = Field(
        None, description="of a UNet: among down, mid, up; null: down, for SDXL down and mid"
    )
    layers: int | None = Field(None, gt=0, description="of SD3: how many blocks; null: 5, or all of fewer")
    time_tokens: bool | None = Field(
        None, description="tokens that differ from time to time; null: yes, for SDXL no"
    )
    start: Literal["empty", "random"] | None = Field(
        None,
        description="the first state of the empty prompt, or N(0, 0.02); null: empty for SD1.5, else random",
    )
    start_noise: float = Field(
        0.02, ge=0, description="noise on the first state; 0: equal tokens, which stay equal for ever"
    )

    held_out_batch: int = Field(8, gt=1, description="pictures that are contrasted at once in evaluations")
