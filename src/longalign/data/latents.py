"""Pixels → latents, the inverse of `longalign.diffusion.denoiser.Denoiser.decode`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longalign.encoding.towers import inference


# z₀ = (mean of q(z | x) − shift) · scale
def encode_pixels(vae: Any, pixels: Tensor, batch_size: int = 16) -> Tensor:
    """The latents that a denoiser learns from.

    The posterior's mean and no sample of it: its deviation is some thousandths, and so the latents of a picture are
    the same each time, whether they come from a cache or not.

    Args:
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
    mean, std = (getattr(config, f"latents_{name}", None) for name in ("mean", "std"))
    if mean is not None and std is not None:
        mean, std = z.new_tensor(mean).view(-1, 1, 1), z.new_tensor(std).view(-1, 1, 1)
        return (z - mean) * config.scaling_factor / std
    return (z - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor
