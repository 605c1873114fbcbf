"""Image files of every kind → RGB, 8 bits a channel, upright, on white; and on to tensors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from longalign.errors import LongalignError
from longalign.picture_formats import advice, picture_suffixes

ImageLike = Image.Image | str | os.PathLike[str]
# Models see a square. Of a longer strip they would see next to nothing, and resizing it by its shorter side takes
# memory in proportion.
MAX_ASPECT = 100


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """The picture in a file, as RGB: turned upright by its EXIF tag, transparency on white, 16 bits scaled to 8.

    CMYK is converted by Pillow, without colour profiles. Of an animation it is the first frame.

    Args:
        path: the picture file.

    Raises:
        LongalignError: no such file, no picture, a damaged or an empty one (the file is named).
    """
    path = Path(path)
    picture_suffixes()  # registers plugins
    try:
        if path.stat().st_size == 0:
            raise LongalignError(f"{path}: the file is empty (0 bytes)")
        with Image.open(path) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image), str(path))
    except FileNotFoundError:
        raise LongalignError(f"{path}: no such image file") from None
    except UnidentifiedImageError:
        raise LongalignError(
            f"{path}: is no picture, or of a format that Pillow cannot read{advice(path.suffix)}"
        ) from None
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise LongalignError(f"{path}: cannot be read as a picture: {error}") from error


def to_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """RGB on white; see `load_image`."""
    if 0 in image.size:
        raise LongalignError(f"{name}: a picture of {image.width} × {image.height} pixels shows nothing")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise LongalignError(
            f"{name}: a picture of {image.width} × {image.height} pixels is too long a strip (more than "
            f"{MAX_ASPECT} to 1): a model sees a square; cut it into pieces"
        )
    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion cuts off instead of scaling
        values = np.asarray(image).clip(0, 65535) / 257.0
        return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise LongalignError(
            f"{name}: a picture of floating-point numbers has no known range; save it as PNG"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_pixels(image: ImageLike) -> Tensor:
    """An image, or the file of one → (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1).float().div_(255)


def as_rgb(image: ImageLike) -> Image.Image:
    """An image, or the file of one → RGB; see `load_image`."""
    return to_rgb(image) if isinstance(image, Image.Image) else load_image(image)
