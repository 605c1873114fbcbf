"""Looks of a picture, apart from what it shows: four ways of making a clean picture worse.

The looks of a picture made worse with a strength are −strength: 0 for a clean one, −1 for the worst. What is drawn
can be recognised throughout, so that truth and looks are two factors and not one.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from longalign.errors import LongalignError

LOOKS: tuple[str, ...] = ("blur", "noise", "washed", "blocks")

# At strength 1, for a picture of 96 px; lengths grow with the picture.
_REFERENCE_PX = 96
_BLUR_PX = 2.0  # standard deviation
_NOISE = 60.0  # standard deviation, in grey levels of 255
_WASHED_KEEP = 0.4  # contrast and colour that are left, around the picture's own mean grey
_BLOCK_PX = 4


def worsen(picture: np.ndarray, kind: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A picture with worse looks. The stronger, the farther from the clean one; strength 0 returns it as it is.

    Args:
        picture: uint8 (H, W, 3).
        kind: one of `LOOKS`. ``blur``: Gaussian blur. ``noise``: Gaussian noise on every pixel and channel.
            ``washed``: all colours pulled towards the picture's mean grey. ``blocks``: a mosaic shows through.
        strength: 0 to 1.
        rng: draws the noise; one call of it whatever the strength. The other kinds draw nothing.

    Returns:
        uint8 (H, W, 3).

    Raises:
        LongalignError: another kind, strength or array.
    """
    if kind not in LOOKS:
        raise LongalignError(f"unknown kind of looks {kind!r}: choose one of {', '.join(LOOKS)}")
    if not 0 <= strength <= 1:
        raise LongalignError(f"the strength of looks is between 0 and 1, not {strength}")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise LongalignError(f"a picture is uint8 (H, W, 3), not {picture.dtype} {picture.shape}")
    scale = min(picture.shape[:2]) / _REFERENCE_PX
    clean = picture.astype(np.float32)
    if kind == "noise":
        spoilt = clean + strength * _NOISE * rng.standard_normal(picture.shape, np.float32)
    elif strength == 0:
        return picture
    elif kind == "blur":
        blur = ImageFilter.GaussianBlur(_BLUR_PX * scale * strength)
        spoilt = np.asarray(Image.fromarray(picture).filter(blur), np.float32)
    elif kind == "washed":
        spoilt = clean + strength * (1 - _WASHED_KEEP) * (clean.mean() - clean)
    else:
        spoilt = clean + strength * (_mosaic(clean, max(2, round(_BLOCK_PX * scale))) - clean)
    return np.rint(spoilt).clip(0, 255).astype(np.uint8)


def _mosaic(pixels: np.ndarray, block_px: int) -> np.ndarray:
    """(H, W, 3) → the same with every block replaced by its mean; blocks at the far edges may be smaller."""
    for axis in (0, 1):
        side = pixels.shape[axis]
        first = np.arange(0, side, block_px)
        sizes = np.diff(np.append(first, side))
        shape = [1, 1, 1]
        shape[axis] = len(sizes)
        means = np.add.reduceat(pixels, first, axis) / sizes.reshape(shape).astype(np.float32)
        pixels = means.repeat(sizes, axis)
    return pixels
