"""Pixels → latents and latents → pixels by a VAE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longalign.runtime import inference


# z₀ = (mean of q(z | x) − shift) · scale
def encode_pixels(vae: Any, pixels: Tensor, batch_size: int = 16) -> Tensor:
    """The latents that a denoiser learns from: the mean of the VAE's posterior, shifted and scaled.

    The mean is used in place of a sample, because the posterior's deviation is only some thousandths. So the latents
    of a picture are the same each time, whether they come from a cache or not.

    Args:
        vae: a diffusers `AutoencoderKL`.
        pixels: (B, 3, H, W), uint8 or in [0, 1].
        batch_size: most pictures in one call.

    Returns:
        (B, C, h, w) float32.
    """
    config = vae.config
    if getattr(config, "force_upcast", False) and vae.dtype == torch.float16:
        vae.to(torch.float32)  # SDXL's VAE overflows in float16
    found = []
    with inference(vae), torch.autocast(vae.device.type, enabled=False):
        for part in pixels.split(batch_size):
            part = part.to(vae.device)
            part = part.float() / 255 if part.dtype == torch.uint8 else part
            found.append(vae.encode((2 * part - 1).to(vae.dtype)).latent_dist.mode().float())
    z = torch.cat(found).contiguous()  # else convolutions would round another way than on cached latents
    if (statistics := _statistics(vae, z)) is not None:
        mean, std = statistics
        return (z - mean) * config.scaling_factor / std
    return (z - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor


def decode(vae: Any, latents: Tensor, *, upcast: bool = False) -> Tensor:
    """The pixels of latents, the inverse of `encode_pixels`; differentiable.

    Args:
        vae: a diffusers `AutoencoderKL`.
        latents: (B, C, h, w).
        upcast: run the VAE in float32, and leave it in that precision.

    Returns:
        (B, 3, H, W) in [0, 1]; values outside are clamped.
    """
    config = vae.config
    if (statistics := _statistics(vae, latents)) is not None:
        mean, std = statistics
        z = latents * std / config.scaling_factor + mean
    else:
        z = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
    if upcast:
        if vae.dtype != torch.float32:
            vae.to(torch.float32)
        with torch.autocast(z.device.type, enabled=False):
            pixels = vae.decode(z.float(), return_dict=False)[0]
    else:
        pixels = vae.decode(z.to(vae.dtype), return_dict=False)[0]
    return (pixels / 2 + 0.5).clamp(0, 1)


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor] | None:
    """(C, 1, 1) mean and standard deviation of latents, where the VAE's configuration states them."""
    mean, std = (getattr(vae.config, f"latents_{name}", None) for name in ("mean", "std"))
    if mean is None or std is None:
        return None
    return like.new_tensor(mean).view(-1, 1, 1), like.new_tensor(std).view(-1, 1, 1)
