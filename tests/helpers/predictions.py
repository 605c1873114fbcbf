"""What a pipeline predicts for fixed noise and a prompt, to compare pipelines with each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longalign import encode
from longalign.backbones import backbone_of, denoising_module

PROMPT = "A red cat sits on a log."


def prediction(pipe: Any) -> tuple[Tensor, Tensor]:
    """What the denoiser makes of fixed noise and a prompt, and the text states themselves."""
    conditioning = encode(pipe, PROMPT, strategy="plain")
    module = denoising_module(pipe)
    side = 8
    x = torch.randn(1, module.config.in_channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return backbone_of(pipe).predict(
            module, x, torch.tensor([500.0]), conditioning.embeds, conditioning.pooled, (64, 64)
        ), conditioning.embeds
