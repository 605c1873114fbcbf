"""Backbones: what the rest of the house asks about a family of diffusion models."""

from __future__ import annotations

from typing import Any

from longalign.errors import LongalignError


def denoising_module(pipe: Any) -> Any:
    """The UNet or transformer of a diffusers pipeline.

    Raises:
        LongalignError: it has neither.
    """
    for name in ("unet", "transformer"):
        if (module := getattr(pipe, name, None)) is not None:
            return module
    raise LongalignError(f"{type(pipe).__name__} has no UNet and no transformer for a LoRA")
