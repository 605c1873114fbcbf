"""How well held-out captions are told apart by the errors that a denoiser makes under them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from longalign.losses import contrastive_logits
from longalign.objectives.random_draws import normal

_SEED = 30_000  # ε of held-out batch g comes from this seed + g, in every evaluation and run


# I ≥ log K_i − L_i,  L_i = −log softmax_j(logit_ij)_i over K_i captions
def row_figures(
    errors: Tensor, masked: Tensor | None = None, *, scale: float = 4.0, temperature: float = 0.07
) -> Mapping[str, Tensor]:
    """What a batch says of each of its pictures.

    Args:
        errors: (B, B) E_ij.
        masked: (B, B) captions that are a picture's own once more: not counted.

    Returns:
        (B,) each: `contrast`, the cross-entropy L_i; `accuracy`, 1 where the own caption has the least error of all
        (the greatest logit); `matched`, E_ii; `information`, log K_i − L_i in nats.
    """
    masked = torch.zeros_like(errors, dtype=torch.bool) if masked is None else masked
    logits = contrastive_logits(errors, scale, temperature).masked_fill(masked, float("-inf"))
    loss = -logits.log_softmax(1).diagonal()
    least = errors.masked_fill(masked, float("inf")).argmin(1)
    return {
        "contrast": loss,
        "accuracy": (least == torch.arange(len(errors), device=errors.device)).to(errors.dtype),
        "matched": errors.diagonal(),
        "information": (~masked).sum(1).log() - loss,
    }


def batches_of(rows: int, size: int) -> list[range]:
    """Rows in batches of ``size``; what is left over stays out, unless it is all and more than one row."""
    whole = [range(first, first + size) for first in range(0, rows - size + 1, size)]
    return whole or ([range(rows)] if rows > 1 else [])


def fixed_place(batch: int, batches: int) -> float:
    """Where in [0, 1) the time of held-out batch number ``batch`` lies: they are spread evenly."""
    return (batch + 0.5) / batches


def fixed_noise(batch: int, like: Tensor) -> Tensor:
    """ε (C, h, w) of held-out batch number ``batch``, for latents (B, C, h, w)."""
    [eps] = normal([torch.Generator().manual_seed(_SEED + batch)], *like.shape[1:])
    return eps.to(like)
