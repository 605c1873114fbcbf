"""Stable Diffusion 3 and 3.5: a joint-attention transformer that reads two CLIPs and a T5; a flow model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from longalign.backbones.base import Backbone, TokenPlaces


class StableDiffusion3(Backbone):
    """SD3, with or without its T5.

    Soft tokens: SoftREPA's for SD3, four before the text stream of each of the first five blocks.
    """

    family = "sd3"
    title = "Stable Diffusion 3"
    abbreviation = "SD3"
    component = "transformer"
    module_class = "SD3Transformer2DModel"
    flow = True

    clips = ("text_encoder", "text_encoder_2")
    penultimate = True
    pooled_clips = (0, 1)
    t5 = "text_encoder_3"
    t5_optional = True
    t5_length = 256  # `max_sequence_length` of StableDiffusion3Pipeline

    lora_blocks = ("Attention", "FeedForward")
    guidance = 4.0  # SoftREPA's sampling of SD3
    token_places = TokenPlaces(
        joint=True,
        attention_arguments="joint_attention_kwargs",
        latents="hidden_states",
        published={"width": 1536, "layers": 5},
        released=((3, 1536), (3, 4096)),
        matched_weight=0.0,
        start="random",
    )

    def join(self, parts: Sequence[Tensor], dtype: Any) -> Tensor:
        """The CLIPs' states, widened by zeros to the width of T5's, then T5's: each in its own precision."""
        clip, t5 = parts
        return torch.cat([pad(clip, (0, t5.shape[-1] - clip.shape[-1])), t5], dim=1)

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
        """With the pooled text of both CLIPs."""
        assert pooled is not None
        return module(
            hidden_states=x,
            timestep=times,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            return_dict=False,
        )[0]

    def sizes_px(self, module: Any, vae_factor: int) -> tuple[int, int | None]:
        """Whole patches, as many as there are position embeddings."""
        unit = vae_factor * module.config.patch_size
        return unit, module.config.pos_embed_max_size * unit

    def text_width(self, module: Any) -> int:
        """The width of the text stream in the blocks."""
        return module.config.caption_projection_dim

    def token_blocks(self, module: Any, stage: str | None = None) -> list[nn.Module]:
        """All blocks, from the first on."""
        return list(module.transformer_blocks)
