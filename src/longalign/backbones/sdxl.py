"""Stable Diffusion XL: a UNet that reads two CLIPs, a pooled text vector, and the size of the picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longalign.backbones.base import Backbone, TokenPlaces
from longalign.backbones.latents import decode
from longalign.backbones.sd import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """SDXL and its refiner, which has the second CLIP only.

    Soft tokens: SoftREPA's for SDXL, four before the text of all down blocks and of the middle one, without a time.
    """

    family = "sdxl"
    title = "SDXL"
    abbreviation = "SDXL"
    clips = ("text_encoder", "text_encoder_2")
    may_lack = ("text_encoder",)
    penultimate = True
    pooled_clips = (-1,)
    guidance = 7.0  # SoftREPA's sampling of SDXL
    takes_frames = True
    token_places = TokenPlaces(
        joint=False,
        attention_arguments="cross_attention_kwargs",
        latents="sample",
        published={"width": 2048, "stages": ("down", "mid"), "buckets": None},
        released=((2, 2048),),
        matched_weight=10.0,
        start="random",
    )

    def is_module(self, module: Any) -> bool:
        """A UNet with added conditions of text and time ids."""
        return Backbone.is_module(self, module) and module.config.addition_embed_type == "text_time"

    def zero_negative(self, pipe: Any) -> bool:
        """As the pipeline's configuration ``force_zeros_for_empty_prompt`` says."""
        return bool(pipe.config.get("force_zeros_for_empty_prompt", True))

    def predict(
        self,
        module: Any,
        x: Tensor,
        times: Tensor,
        embeds: Tensor,
        pooled: Tensor | None,
        size_px: tuple[int, int],
        frames: Tensor | None = None,
    ) -> Tensor:
        """With the pooled text and (B, 6) time ids: original size, crop, target size. Without frames: uncropped."""
        assert pooled is not None
        target = x.new_tensor(size_px).expand(len(x), -1)  # (B, 2)
        framed = torch.cat([target, torch.zeros_like(target)], dim=1) if frames is None else frames.to(x)
        ids = torch.cat([framed, target], dim=1)  # (B, 6)
        added = {"text_embeds": pooled, "time_ids": ids}
        return module(x, times, encoder_hidden_states=embeds, added_cond_kwargs=added, return_dict=False)[0]

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """In float32 where the VAE's configuration asks for it: SDXL's VAE overflows in float16."""
        return decode(vae, latents, upcast=bool(vae.config.force_upcast))
