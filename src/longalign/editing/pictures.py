"""Pictures at the size of a model, and the difference of two pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from longalign.errors import LongalignError


def fit(image: Image.Image, side_px: int, *, resize: bool = False, name: str = "the image") -> Image.Image:
    """The picture at the model's size.

    Args:
        image: RGB.
        side_px: of the square that the model was made for.
        resize: cut a picture of another size down to its middle square and resize that.

    Raises:
        LongalignError: the picture has another size, and `resize` is off. The message has both sizes.
    """
    if image.size == (side_px, side_px):
        return image
    if not resize:
        raise LongalignError(
            f"{name} has {image.width} × {image.height} pixels, and this model edits {side_px} × {side_px}: bring it "
            "to that size, or use --resize (resize=True), which cuts out the middle square and resizes it"
        )
    return ImageOps.fit(image, (side_px, side_px), Image.Resampling.LANCZOS)


def difference(before: Image.Image, after: Image.Image) -> Image.Image:
    """The difference of two RGB pictures of one size, in grey: black if equal, white at the greatest change.

    A pixel's change is that of the colour channel that changes most.
    """
    change = np.abs(np.asarray(after, np.int16) - np.asarray(before, np.int16)).max(-1)  # (H, W)
    return Image.fromarray((change * (255 / max(int(change.max()), 1))).round().astype(np.uint8))
