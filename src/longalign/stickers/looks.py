"""Looks of a picture, apart from what it shows: four ways of making a clean picture worse, and how bad one looks.

The looks of a picture made worse with a strength are −strength: 0 for a clean one, −1 for the worst. What is drawn
can be recognised throughout, so that truth and looks are two factors and not one. `looks_of` estimates them from
pixels alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from longalign.errors import LongalignError
from longalign.stickers.oracle import Reading, read
from longalign.stickers.world import (
    BACKGROUND_NAMES,
    DISC_NAMES,
    KIND_NAMES,
    MAX_OBJECTS,
    SCENE_PX,
    Scene,
    Sticker,
    render_array,
    scene,
)

LOOKS: tuple[str, ...] = ("blur", "noise", "washed", "blocks")

# At strength 1, for a picture of 96 px; lengths grow with the picture.
_REFERENCE_PX = 96
_BLUR_PX = 2.0  # standard deviation
_NOISE = 60.0  # standard deviation, in grey levels of 255
_WASHED_KEEP = 0.4  # contrast and colour that are left, around the picture's own mean grey
_BLOCK_PX = 4

_CONTRASTS = (1.0, 0.7, 0.45)  # of washed-out pictures, roughly as far down as `_WASHED_KEEP`


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
        blur = ImageFilter.GaussianBlur(float(_BLUR_PX * scale * strength))
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


# looks = −RMSE(x, clean(x)) / RMSE₁
def looks_of(image: Image.Image | np.ndarray) -> float:
    """How good a picture looks, whatever it shows and whatever was asked for.

    The oracle reads the scene that is most like it; what this scene's clean rendering leaves unexplained is bad looks:
    the root mean square of the difference, in units of what `worsen` does at strength 1 (the mean over its four
    kinds and a few scenes). So clean pictures have 0, spoilt ones about −strength, and a picture without
    recognisable stickers can have less than −1.

    Args:
        image: PIL image, or uint8 (H, W, 3). Other sizes than 96 × 96 are resized first, as the oracle does.

    Returns:
        at most 0.
    """
    return -_residual(image) / _worst()


def nearest_scene(reading: Reading) -> tuple[Scene, float]:
    """The scene whose cells are, on one common background, nearest to the picture's: a reading without doubts.

    Returns:
        the scene, and the mean squared difference from it.
    """
    distance = reading.distance.copy()  # (9, backgrounds, kinds + 1, discs + 1)
    distance[:, :, -1, :-1] = np.inf  # nothing on a disc does not occur
    by_background = distance.min(axis=(2, 3)).mean(0)
    background = int(by_background.argmin())
    stickers = []
    for cell in range(MAX_OBJECTS):
        of_cell = distance[cell, background]
        kind, disc = np.unravel_index(int(of_cell.argmin()), of_cell.shape)
        if kind < len(KIND_NAMES):
            name = DISC_NAMES[disc] if disc < len(DISC_NAMES) else None
            stickers.append(Sticker(KIND_NAMES[kind], cell, name))
    return Scene(BACKGROUND_NAMES[background], tuple(stickers)), float(by_background[background])


def _residual(image: Image.Image | np.ndarray) -> float:
    """Root mean square difference from the nearest clean rendering, pixels in [0, 1]."""
    shown = (Image.fromarray(image) if isinstance(image, np.ndarray) else image).convert("RGB")
    if shown.size != (SCENE_PX, SCENE_PX):
        shown = shown.resize((SCENE_PX, SCENE_PX), Image.Resampling.BICUBIC)
    seen = np.asarray(shown, np.float32)
    clean = render_array(min(map(nearest_scene, _readings(seen)), key=lambda found: found[1])[0])
    return float(np.sqrt(np.mean((seen - clean) ** 2, dtype=np.float64))) / 255


def _readings(seen: np.ndarray) -> Iterator[Reading]:
    """The picture as it is, and with its contrast stretched: washed-out white would else be taken for clean grey."""
    for contrast in _CONTRASTS:
        stretched = seen.mean() + (seen - seen.mean()) / contrast
        yield read(np.rint(stretched).clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def _worst(scenes: int = 16) -> float:
    """RMSE₁: what `_residual` is at strength 1, on average over the kinds of looks."""
    found = []
    for i in range(scenes):
        clean = render_array(scene(i, objects=(1, MAX_OBJECTS)))
        found += [_residual(worsen(clean, kind, 1.0, np.random.default_rng(i))) for kind in LOOKS]
    return float(np.mean(found))
