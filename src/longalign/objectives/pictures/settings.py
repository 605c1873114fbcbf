"""Sections of recipes for objectives that train on captioned pictures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from longalign.data.sources import Objects


def _one_range(value: Any) -> Any:
    one = isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(v, int) for v in value)
    return (value,) if one else value


def _in_range(value: tuple[Objects, ...]) -> tuple[Objects, ...]:
    if not value or not all(1 <= least <= most <= 9 for least, most in value):
        raise ValueError("should be least and most, from 1 to 9")
    return value


# Numbers of stickers in a scene. A recipe may give one pair or a list of pairs.
ObjectRanges = Annotated[tuple[Objects, ...], BeforeValidator(_one_range), AfterValidator(_in_range)]


class CaptionedSettings(BaseModel):
    """Settings that all objectives on captioned pictures share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: str = Field(
        "clip-cat", description="plain, clip-cat, t5-mlp or clip+t5: how captions are encoded"
    )
    length: int | None = Field(None, gt=0, description="padded length in tokens; null: the model's own")
    start_from: tuple[str, ...] = Field(
        (), description="LoRA folders of earlier stages, in order; they are on the model and frozen"
    )
    gradient_checkpointing: bool = Field(False, description="less memory, a third more time")
    oracle_scenes: int = Field(
        0, ge=0, description="held-out captions that are drawn and judged, where the model has an oracle"
    )
    sample_pictures: int = Field(
        4, ge=0, description="held-out captions whose pictures a tracker shows at each evaluation"
    )
    guidance: float | None = Field(None, ge=0, description="classifier-free guidance; null: the model's own")


class PictureSettings(CaptionedSettings):
    """Settings that the supervised and the consistency objective share: which weights of the denoiser are trained.

    `tune`: ``lora``, or ``full`` for all weights of the UNet or transformer (for small models).
    """

    tune: Literal["lora", "full"] = "lora"
    rank: int = Field(32, gt=0, description="of the LoRA")
    start_from: tuple[str, ...] = Field(
        (),
        description="LoRA folders of earlier stages, in order; they stay on the model, frozen, and are saved with the "
        "new LoRA as one",
    )


class SupervisedSettings(PictureSettings):
    """The section ``supervised`` of a recipe.

    `noisings`: how many times each row is noised, at different times. The picture and the caption are encoded once for
    all of them, and the denoiser sees a batch that is so many times larger. `time_power` p: t = 1000 u^p for uniform u.
    Below 1, times of high noise are more frequent; there the layout of the picture is decided. `tune_text`: ``lora``
    also trains a LoRA on each CLIP. With ``clip-cat:context=before`` or ``context=referent`` it learns what "it" means.
    """

    caption_dropout: float = Field(
        0.1, ge=0, le=1, description="share of captions replaced by the empty caption"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="on the inputs of the LoRA; the released models had 0.1"
    )
    noisings: int = Field(1, gt=0, description="how many times each row is noised in a step")
    time_power: float = Field(1.0, gt=0, description="p of t = 1000 u^p, u uniform in [0, 1)")
    tune_text: Literal["none", "lora"] = Field(
        "none", description="what of the CLIP text encoders is trained"
    )
    text_rank: int = Field(8, gt=0, description="rank of the text encoders' LoRAs")


class ConsistencySettings(PictureSettings):
    """The section ``consistency`` of a recipe. `guidance` is the teacher's: f_n + w (f_c − f_n)."""

    guidance: float | None = Field(7.5, ge=0, description="the teacher's; null: the model's own")
    ddim_steps: int = Field(50, gt=0, description="steps of the teacher's path")
    huber_c: float = Field(0.001, gt=0, description="c of the pseudo-Huber distance √(x² + c²) − c")
    sigma_data: float = Field(0.5, gt=0, description="σ of c_skip and c_out")
    timestep_scaling: float = Field(10.0, gt=0, description="k of c_skip and c_out")


class PictureDataSettings(BaseModel):
    """The section ``data`` of a recipe: captioned pictures.

    A source is ``stickers``, a file or folder that `longalign.data.sources.open_source` reads, or a cache folder that
    `longalign cache` made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: str = Field("stickers", description="the source to train on")
    images: str | None = Field(
        None, description="folder that picture paths are relative to; null: the folder of the list"
    )
    column: str | None = Field(None, description="key of the captions; null: caption, prompt or text")
    captions: Literal["all", "random"] = Field(
        "all",
        description="of pictures with several captions: a row for each, or one that is drawn at each step",
    )
    size_px: int | None = Field(
        None, gt=0, description="side of the model's square pictures; null: the model's own"
    )
    buckets: bool = Field(
        True, description="keep the shape of pictures: a batch is of one aspect ratio; false: squares are cut"
    )
    bucket_step_px: int | None = Field(
        None, gt=0, description="sides of buckets are multiples of it; null: 64, or less for a small model"
    )
    flip: bool = Field(
        False, description="mirror half of the pictures, which makes left and right in captions wrong"
    )
    count: int = Field(1_000_000, gt=0, description="number of sticker scenes; files are read whole")
    objects: ObjectRanges = Field(
        ((1, 9),), description="least and most stickers of a scene, or several such ranges in turn"
    )
    referring: float = Field(
        0.0, ge=0, le=1, description="share of sticker captions with sentences that refer to the one before"
    )
    held_out: str | None = Field(None, description="the source to evaluate on; null: no evaluation")
    held_out_count: int = Field(256, gt=0, description="most rows to evaluate on")
