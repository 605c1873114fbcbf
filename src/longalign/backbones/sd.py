"""Stable Diffusion 1.x and 2.x: a UNet that reads the states of one CLIP."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from longalign.backbones.base import Backbone, TokenPlaces
from longalign.errors import LongalignError


class StableDiffusion(Backbone):
    """Any `UNet2DConditionModel` without added conditions, with the text of one CLIP.

    A LoRA changes the layers that LongAlign's released LoRAs change. Soft tokens: SoftREPA's for SD1.5, four before
    the text of all down blocks.
    """

    family = "sd15"
    title = "Stable Diffusion 1 or 2"
    abbreviation = "SD1.5"
    component = "unet"
    module_class = "UNet2DConditionModel"

    lora_blocks = ("ResnetBlock2D", "Attention", "GEGLU")
    guidance = 7.5  # LongAlign's evaluation of SD1.5
    token_places = TokenPlaces(
        joint=False,
        attention_arguments="cross_attention_kwargs",
        latents="sample",
        published={"width": 768, "stages": ("down",)},
        released=((2, 768),),
        matched_weight=10.0,
        start="empty",
    )

    def is_module(self, module: Any) -> bool:
        """A UNet, but not one with SDXL's added conditions."""
        return super().is_module(module) and module.config.addition_embed_type != "text_time"

    def sizes_px(self, module: Any, vae_factor: int) -> tuple[int, int | None]:
        """The UNet halves its latents between its stages."""
        return vae_factor * 2 ** (len(module.config.block_out_channels) - 1), None

    def text_width(self, module: Any) -> int:
        """The width that the UNet's cross-attention reads."""
        width = module.config.cross_attention_dim
        if isinstance(width, int):
            return width
        widths = set(width or ())
        if len(widths) != 1:
            raise LongalignError(
                f"the text of this UNet's blocks has several widths, {width}: no soft tokens fit"
            )
        return widths.pop()

    def token_blocks(self, module: Any, stage: str | None = None) -> list[nn.Module]:
        """The blocks of a stage that have cross-attention."""
        blocks = [module.mid_block] if stage == "mid" else getattr(module, f"{stage}_blocks")
        return [block for block in blocks if getattr(block, "has_cross_attention", False)]


def empty_unet(folder: str | None = None) -> nn.Module:
    """A UNet on the meta device, which has shapes and no weights.

    Args:
        folder: a pipeline's folder or hub name, whose UNet's configuration is read. None: the shapes of SD1.5.
    """
    with torch.device("meta"):
        if folder is None:
            return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        return UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, subfolder="unet"))
