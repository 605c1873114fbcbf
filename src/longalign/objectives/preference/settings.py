"""The sections ``preference`` and ``data`` of a recipe of preference training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PreferenceSettings(BaseModel):
    """The section `preference` of a recipe.

    `loss`: single (Eq. 4), seg (Eq. 6), seg-a (Eq. 9) or seg-o (Eq. 10).

    `v`: the direction that seg-o removes from the segments. ``running``: from a running mean of this training's text
    embeddings (`longalign.objectives.preference.objective.TextMean`); ``batch``: from the micro-batch in all processes;
    ``stored``: the one beside the model that training starts from.

    `prompt`: the text that L(p) of Eq. 9 and 10 reads. ``whole``: the prompt's first tokens, as in the paper, whose
    prompts are short. ``segments``: the mean of its segments, as the trained model will score it; for a prompt of one
    sentence both are the same.

    `head`: ``pooled`` is C_X·C_P alone. ``late`` also trains S by late interaction (`longalign.preference.late`): from
    the same pairs, with `late_weight`, and from true and false sentences, with `truth_weight`. With
    both towers frozen (train_vision, train_text) the late head alone is trained.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: Literal["single", "seg", "seg-a", "seg-o"] = "seg-o"
    v: Literal["running", "batch", "stored"] = "running"
    prompt: Literal["whole", "segments"] = "whole"
    v_horizon_texts: int = Field(
        8192, gt=0, description="number of texts after which the running mean forgets to 1/e"
    )
    v_prompts: int = Field(1024, gt=0, description="texts that V is computed from when the model is saved")
    head: Literal["pooled", "late"] = Field("pooled", description="how sentences are scored")
    late_width: int = Field(
        64, gt=0, description="width of patch and token embeddings, where the model has none yet"
    )
    late_weight: float = Field(0.5, ge=0, description="weight of the pair losses of S")
    truth_weight: float = Field(1.0, ge=0, description="weight of the loss on true and false sentences")
    train_vision: bool = Field(True, description="train the image tower")
    train_text: bool = Field(True, description="train the text tower")
    train_logit_scale: bool = Field(True, description="train the logit scale")
    gradient_checkpointing: bool = Field(False, description="less memory, a third more time")

    @model_validator(mode="after")
    def _single_reads_whole_prompts(self) -> PreferenceSettings:
        if self.loss == "single" and self.prompt == "segments":
            raise ValueError(
                "the single-value loss (Eq. 4) reads whole prompts: leave `prompt` out, or take seg-a or seg-o"
            )
        return self


class PreferenceDataSettings(BaseModel):
    """The section `data` of a recipe: names of sources as `longalign.data.preferences.load_pairs` takes them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pairs: str = Field("stickers", description="the source to train on")
    count: int = Field(100_000, gt=0, description="number of sticker pairs; files are read whole")
    held_out: str | None = Field(None, description="the source to evaluate on; null: no evaluation")
    held_out_count: int = Field(512, gt=0, description="most pairs to evaluate on")
