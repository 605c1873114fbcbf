"""Tiny models with LoRAs, and comparisons of what they predict."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

from longalign.stickers.models import make_scheduler


def randomise(parameters: list[torch.nn.Parameter], seed: int = 0, size: float = 0.1) -> None:
    """`up` starts at zero, where a LoRA does nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.copy_(size * torch.randn(p.shape, generator=generator))


@torch.no_grad()
def prediction(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size, width = unet.config.in_channels, unet.config.cross_attention_dim
    x = torch.randn(2, size, 6, 6, generator=generator, dtype=unet.dtype)
    text = torch.randn(2, 7, width, generator=generator, dtype=unet.dtype)
    return unet.eval()(x, torch.tensor([3, 700]), text).sample


def sd3_transformer() -> SD3Transformer2DModel:
    torch.manual_seed(7)
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        out_channels=4,
        pos_embed_max_size=8,
    )


def pipeline(model: Any, kind: type = StableDiffusionPipeline) -> Any:
    """A plain pipeline with nothing in it but its denoiser, which is what a LoRA concerns."""
    if kind is StableDiffusion3Pipeline:
        names = (
            "vae",
            "text_encoder",
            "tokenizer",
            "text_encoder_2",
            "tokenizer_2",
            "text_encoder_3",
            "tokenizer_3",
        )
        return kind(transformer=model, scheduler=make_scheduler(), **dict.fromkeys(names))
    names = ("vae", "text_encoder", "tokenizer", "feature_extractor")
    if kind is StableDiffusionXLPipeline:
        more: dict[str, Any] = {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
    else:
        more = {"safety_checker": None, "requires_safety_checker": False}
    return kind(unet=model, scheduler=make_scheduler(), **dict.fromkeys(names), **more)


def close(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-6) -> bool:
    return bool((a - b).abs().max() <= atol)
