"""Sections of recipes for objectives that learn from captioned pictures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from longalign.data.sources import (
    Objects,
)


def _one_range(value: Any) -> Any:
    one = isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(v, int) for v in value)
    return (value,) if one else value


def _in_range(value: tuple[Objects, ...]) -> tuple[Objects, ...]:
    if not value or not all(1 <= least <= most <= 9 for least, most in value):
        raise ValueError("should be least and most, from 1 to 9")
    return value


# Of sticker scenes; in a recipe one pair will do.
ObjectRanges = Annotated[tuple[Objects, ...], BeforeValidator(_one_range), AfterValidator(_in_range)]


class PictureSettings(BaseModel):
    """What the supervised and the consistency objective have in common.

    `tune`: lora, or full: all weights of the UNet or transformer (for small models).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: str = Field(
        "clip-cat", description="plain, clip-cat, t5-mlp or clip+t5: how captions are encoded"
    )
    length: int | None = Field(None, gt=0, description="padded length in tokens; null: the model's own")
    tune: Literal["lora", "full"] = "lora"
    rank: int = Field(32, gt=0, description="of the LoRA")
    start_from: tuple[str, ...] = Field(
        (),
        description="LoRA folders of earlier stages, in order; they stay on, frozen, and are saved with it as one",
    )
    gradient_checkpointing: bool = Field(False, description="less memory, a third more time")
    oracle_scenes: int = Field(
        0, ge=0, description="held-out captions that are drawn and judged, where the model has an oracle"
    )
    sample_pictures: int = Field(
        4, ge=0, description="held-out captions whose pictures a tracker shows at each evaluation"
    )
    guidance: float | None = Field(None, ge=0, description="classifier-free guidance; null: the model's own")


class PictureDataSettings(BaseModel):
    """The section `data` of a recipe: captioned pictures.

    A source is ``stickers``, a file or folder as `longalign.data.sources.open_source` takes it, or a cache folder that
    `longalign cache` made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: str = Field("stickers", description="to train on")
    images: str | None = Field(
        None, description="folder that picture paths are relative to; null: that of the list"
    )
    column: str | None = Field(None, description="key of the captions; null: caption, prompt or text")
    size_px: int | None = Field(None, gt=0, description="side of the squares; null: the model's own")
    count: int = Field(1_000_000, gt=0, description="how many sticker scenes; files are taken whole")
    objects: ObjectRanges = Field(
        ((1, 9),), description="least and most stickers of a scene, or several such ranges in turn"
    )
    referring: float = Field(
        0.0, ge=0, le=1, description="share of sticker captions with sentences that refer to the one before"
    )
    held_out: str | None = Field(None, description="to evaluate on; null: nothing")
    held_out_count: int = Field(256, gt=0, description="at most so many of them")
