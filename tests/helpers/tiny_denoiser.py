"""Denoisers of a few thousand parameters with random weights, without text encoders or VAE, and their conditionings."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)

from longalign.diffusion.denoiser import Denoiser
from longalign.encoding import Conditioning

TEXT, POOLED, SIDE = 8, 12, 4
# SD1.5's noise schedule
SCHEDULE: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def scheduler(kind: type = DDIMScheduler, **changes: Any) -> Any:
    """SD1.5's schedule in any of diffusers' solvers. DDIM clips unless told otherwise."""
    if kind is FlowMatchEulerDiscreteScheduler:
        return kind(shift=3.0, **changes)
    return kind(**{**SCHEDULE, **({"clip_sample": False} if kind is DDIMScheduler else {}), **changes})


def tiny_unet(sdxl: bool = False) -> UNet2DConditionModel:
    torch.manual_seed(1)
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 2,
        "projection_class_embeddings_input_dim": POOLED + 6 * 2,
    }
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=2,
        out_channels=2,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=TEXT,
        **(added if sdxl else {}),
    )


def tiny_transformer() -> SD3Transformer2DModel:
    torch.manual_seed(2)
    return SD3Transformer2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=2,
        out_channels=2,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=1,
        joint_attention_dim=TEXT,
        caption_projection_dim=8,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=4,
    )


def tiny_vae(**config: Any) -> AutoencoderKL:
    """Two pixels a latent."""
    torch.manual_seed(3)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=2,
        mid_block_add_attention=False,
        sample_size=8,
        **config,
    )


def tiny_denoiser(family: str = "sd15", parameterisation: str = "epsilon", vae: Any = None) -> Denoiser:
    if family == "sd3":
        return Denoiser(tiny_transformer(), "sd3", "flow", vae=vae)
    alphas = scheduler().alphas_cumprod
    return Denoiser(tiny_unet(family == "sdxl"), family, parameterisation, alphas, vae)  # type: ignore[arg-type]


def conditioning(
    family: str = "sd15", prompts: int = 1, tokens: int = 3, dtype: torch.dtype = torch.float32
) -> Conditioning:
    """Random states, those of the negative prompts others."""
    generator = torch.Generator().manual_seed(4)
    embeds, negative = torch.randn(2, prompts, tokens, TEXT, generator=generator, dtype=dtype)
    pooled, negative_pooled = (
        torch.randn(2, prompts, POOLED, generator=generator, dtype=dtype)
        if family != "sd15"
        else (None, None)
    )
    where = torch.zeros(prompts, tokens, dtype=torch.long)
    return Conditioning(
        embeds, pooled, where, negative, negative_pooled, where, ((),) * prompts, ((),) * prompts, family
    )
