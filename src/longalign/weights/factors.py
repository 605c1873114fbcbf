"""Low-rank changes of weights: ΔW = (alpha / r) · up · down. Sums, truncation, differences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from longalign.weights.lora_file import LoraFile, Pair


def change(pair: Pair) -> Tensor:
    """ΔW = up · down in float32, in the shape of W: (out, in) or (out, in, kh, kw)."""
    up, down = (t.float() for t in pair)
    return (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


# Σ s_i B_i A_i = [s₁B₁ s₂B₂ …] · [A₁; A₂; …]
def concatenated(pairs: Sequence[Pair | None], scales: Sequence[float], ranks: Sequence[int]) -> Pair:
    """Several changes of one layer as one change: exactly their sum, with the sum of their ranks and scale 1.

    Args:
        pairs: one for each LoRA; None if it does not change this layer. Zeros take its place, so that all layers have
            the same rank.
        scales: alpha / r of each LoRA.
        ranks: rank of each LoRA.
    """
    up, down = next(pair for pair in pairs if pair is not None)
    ups = [p.up * s if p else _zeros(up, 1, r) for p, s, r in zip(pairs, scales, ranks, strict=True)]
    downs = [p.down if p else _zeros(down, 0, r) for p, r in zip(pairs, ranks, strict=True)]
    return Pair(torch.cat(ups, 1), torch.cat(downs, 0))


def added(files: Sequence[LoraFile]) -> dict[str, Pair]:
    """The sum of LoRAs of one model, layer by layer: `concatenated`."""
    names = dict.fromkeys(layer for file in files for layer in file.layers)
    scales, ranks = [f.scale for f in files], [f.rank for f in files]
    return {name: concatenated([f.layers.get(name) for f in files], scales, ranks) for name in names}


# up · down = Q₁R₁(Q₂R₂)ᵀ = Q₁ (R₁R₂ᵀ) Q₂ᵀ = (Q₁U) Σ (Q₂V)ᵀ; the nearest of rank r keeps the r largest σ (Eckart–Young)
def truncated(pair: Pair, rank: int) -> tuple[Pair, Tensor]:
    """The nearest change of lower rank in the Frobenius norm; its error is √(Σ of the discarded σ²).

    The singular values come from the small matrix R₁R₂ᵀ in float64; the full ΔW of a layer is never computed.

    Args:
        rank: rank of the result. If the change has a lower rank, the rest is zero.

    Returns:
        the factors, each with a root of σ, in the dtype of `pair`; and all singular values in descending order.
    """
    up, down = pair.up.flatten(1).double(), pair.down.flatten(1).double()  # (out, R), (R, in·kh·kw)
    q1, r1 = torch.linalg.qr(up)
    q2, r2 = torch.linalg.qr(down.T)
    u, sigma, vt = torch.linalg.svd(r1 @ r2.T, full_matrices=False)
    kept = min(rank, len(sigma))
    root = sigma[:kept].sqrt()
    new_up, new_down = up.new_zeros(len(up), rank), down.new_zeros(rank, down.shape[1])
    new_up[:, :kept] = q1 @ u[:, :kept] * root
    new_down[:kept] = root[:, None] * (vt[:kept] @ q2.T)
    return (
        Pair(
            new_up.to(pair.up.dtype).reshape(len(up), rank, *pair.up.shape[2:]),
            new_down.to(pair.down.dtype).reshape(rank, *pair.down.shape[1:]),
        ),
        sigma,
    )


def without(file: LoraFile, earlier: Sequence[LoraFile]) -> dict[str, Pair] | None:
    """The rest of a LoRA that was saved as one with earlier stages (`concatenated`, earlier stages first).

    Returns:
        the factors without those of the earlier stages; their rank may be 0. None if the LoRA does not begin with the
        earlier stages. They are recognised by `down`, which starts from random numbers; rounding to float16 is
        allowed.
    """
    start = sum(e.rank for e in earlier)
    if not earlier or start > file.rank:
        return None
    head = added(earlier)
    if not set(head) <= set(file.layers):
        return None
    for layer, pair in head.items():
        ours, theirs = file.layers[layer].down[:start].float(), pair.down.float()
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5):
            return None
    return {
        layer: Pair(pair.up[:, start:] * file.scale, pair.down[start:]) for layer, pair in file.layers.items()
    }


def _zeros(like: Tensor, dim: int, rank: int) -> Tensor:
    shape = list(like.shape)
    shape[dim] = rank
    return like.new_zeros(shape)
