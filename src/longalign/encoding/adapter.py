"""T5 → UNet text adapter: it maps T5's token states to the width that the UNet's cross-attention expects."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import FeedForward
from torch import nn


class TextAdapter(ModelMixin, ConfigMixin):
    """Two blocks ``x → FF(LN(x))`` without residuals: the adapter of LaVi-Bridge, from which LongAlign starts (§5.1).

    Each feed-forward is GEGLU(d → 4d), dropout, Linear(4d → out). Parameter names and configuration keys are
    those of the published checkpoints, so ``TextAdapter.from_pretrained("…/s28750_adapter")`` reads them.

    Args:
        in_dim: width of T5's states (1024 for T5-large).
        int_dim: width between the blocks (896 for SD1.5, 1536 for SDXL).
        out_dim: width of the UNet's text states (768 for SD1.5, 2048 for SDXL).
        dropout: probability within the feed-forwards, in training only.
    """

    @register_to_config
    def __init__(
        self, in_dim: int = 1024, int_dim: int = 896, out_dim: int = 768, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_dim)
        self.ff1 = FeedForward(in_dim, int_dim, mult=4, dropout=dropout, activation_fn="geglu")
        self.norm2 = nn.LayerNorm(int_dim)
        self.ff2 = FeedForward(int_dim, out_dim, mult=4, dropout=dropout, activation_fn="geglu")

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, L, in_dim) → (B, L, out_dim)"""
        hidden = self.ff1(self.norm1(states))  # (B, L, int_dim)
        return self.ff2(self.norm2(hidden))  # (B, L, out_dim)
