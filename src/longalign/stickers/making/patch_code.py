"""The latent code of the sticker VAE: the first principal components of 16 × 16 px patches.

An `AutoencoderKL` this small, trained end to end, needs hours on two cores before it tells kinds of stickers
apart: encoder and decoder chase each other (LOG.md, 2026-11-21). Here the code is fixed beforehand: all
possible cells are known, so their principal components are exact. The encoder learns to compute the
code, the decoder to invert it, and the UNet can be trained at the same time as both.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from longalign.stickers.world import CELL_PX, DISCS, KINDS, cell_table

PATCH_PX = 16
CHANNELS = 8


@lru_cache(maxsize=1)
def principal_components() -> tuple[Tensor, Tensor]:
    """Mean (768,) and basis (768, 8) of the patches of all cells, as often as scenes have them.

    Scaled as a whole, so that the code has deviation one over all channels: whitening each channel would give flat
    areas no weight.
    """
    cells = cell_table().astype(np.float64) / 127.5 - 1  # (B, K + 1, D + 1, 32, 32, 3)
    # Half of the stickers have a disc; half of all cells are taken to be empty.
    weight = np.empty(cells.shape[:3])
    weight[:, :, :-1], weight[:, :, -1] = 1 / len(DISCS), 1.0
    weight[:, -1] = 0.0
    weight[:, -1, -1] = 2 * len(KINDS)
    side = CELL_PX // PATCH_PX
    patches = cells.reshape(-1, side, PATCH_PX, side, PATCH_PX, 3).swapaxes(2, 3).reshape(-1, PATCH_PX**2 * 3)
    weights = np.repeat(weight.ravel(), side**2) / weight.sum() / side**2
    mean = weights @ patches
    centred = patches - mean
    variance, vectors = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    basis = vectors[:, ::-1][:, :CHANNELS]
    basis = basis * np.sign(
        basis[np.abs(basis).argmax(axis=0), np.arange(CHANNELS)]
    )  # eigenvectors' signs are free
    scale = np.sqrt(variance[::-1][:CHANNELS].mean())
    return torch.from_numpy(mean).float(), torch.from_numpy(basis / scale).float()


def encode(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in [−1, 1] → (B, 8, H / 16, W / 16)."""
    mean, basis = (t.to(pixels.device) for t in principal_components())
    b, c, height, width = pixels.shape
    rows, columns = height // PATCH_PX, width // PATCH_PX
    patches = pixels.reshape(b, c, rows, PATCH_PX, columns, PATCH_PX).permute(0, 2, 4, 3, 5, 1)
    code = (patches.reshape(b, rows, columns, -1) - mean) @ basis  # (B, H / 16, W / 16, 8)
    return code.permute(0, 3, 1, 2).contiguous()
