"""Pixels → the input of a CLIP image tower.

`Preprocess.picture` gives what transformers' `CLIPImageProcessor` gives: Pillow resizes, and rounds to 8 bits. Calling
a `Preprocess` does the same by tensor operations that gradients pass through; then nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from longalign.errors import LongalignError
from longalign.preference.images import ImageLike, as_rgb, to_pixels

Fit = Literal["crop", "pad", "stretch"]
Triple = tuple[float, float, float]

CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
_MODES = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which processor configurations use


@dataclass(frozen=True)
class Preprocess:
    """(B, 3, H, W) pixels in [0, 1] → (B, 3, S, S) model input, differentiable; or `picture`, of a picture or its file.

    Attributes:
        size_px: S, the side of the model's input.
        fit: how a picture of another shape gets square. ``crop`` (CLIP): shorter side to ``edge_px``, then the
            centre. ``pad`` (HPSv2.1): longer side to S, then black around it. ``stretch``: both sides to S.
        edge_px: the shorter side before cropping; None is S.
        mean, std: per channel, of pixels in [0, 1].
        mode: ``bicubic`` or ``bilinear``, always antialiased.
    """

    size_px: int
    fit: Fit = "crop"
    edge_px: int | None = None
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD
    mode: str = "bicubic"

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], name: str = "the processor's configuration"
    ) -> Preprocess:
        """From what `CLIPImageProcessor` saves as ``preprocessor_config.json``.

        Raises:
            LongalignError: a step that CLIP models do not have, such as no resizing or Lanczos; or a value of another
                type.
        """
        try:
            return cls._read(config, name)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            if isinstance(error, LongalignError):
                raise
            raise LongalignError(f"{name}: is no configuration of a CLIPImageProcessor: {error}") from None

    @classmethod
    def _read(cls, config: Mapping[str, Any], name: str) -> Preprocess:
        size, window = config.get("size", 224), config.get("crop_size", 224)
        size = {"shortest_edge": size} if isinstance(size, int) else size
        window = {"height": window, "width": window} if isinstance(window, int) else window
        crops = config.get("do_center_crop", True)
        square = window if crops else size
        mode = _MODES.get(config.get("resample", 3))
        side = square.get("height", size.get("longest_edge"))
        edge = size.get("shortest_edge") if crops else None
        if crops and edge is None and size.get("height") == size.get("width") == side:
            crops = False  # stretched to the square that is then cropped
        fit: Fit = config.get("longalign_fit", "crop" if crops else "stretch")
        if (
            mode is None
            or side is None
            or square.get("width", side) != side
            or (fit == "crop" and (edge is None or edge < side))
            or not config.get("do_resize", True)
            or not config.get("do_rescale", True)
        ):
            raise LongalignError(
                f"{name}: this preprocessing is none of CLIP's (resize to a shorter side or a square, "
                "bicubic or bilinear, perhaps crop the centre, scale to [0, 1]); pass preprocess=Preprocess(…)"
            )
        mean, std = config.get("image_mean", CLIP_MEAN), config.get("image_std", CLIP_STD)
        if not config.get("do_normalize", True):
            mean, std = (0.0,) * 3, (1.0,) * 3
        return cls(side, fit, edge if fit == "crop" else None, tuple(mean), tuple(std), mode)

    def to_config(self) -> dict[str, Any]:
        """What `from_config` reads. For ``crop`` and ``stretch`` transformers reads it, too."""
        square = {"height": self.size_px, "width": self.size_px}
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": self.edge_px or self.size_px} if self.fit == "crop" else square,
            "resample": _number_of(self.mode),
            "do_center_crop": self.fit == "crop",
            "crop_size": square,
            "do_rescale": True,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "longalign_fit": self.fit,
        }

    def __call__(self, pixels: Tensor) -> Tensor:
        x = pixels if pixels.dtype == torch.float64 else pixels.float()  # resizing knows no half precision
        return self._squared(resize(x, *self._resized(*x.shape[-2:]), self.mode))  # (B, 3, h, w)

    def picture(self, image: ImageLike) -> Tensor:
        """A picture or its file → (1, 3, S, S), as the published processors make it: rounded to 8 bits when resized.

        Without this rounding the scores of a photograph differ from the published ones by up to 0.001 in the cosine.

        Raises:
            LongalignError: the file is missing or is no picture (`longalign.preference.images.load_image`).
        """
        rgb = as_rgb(image)
        height, width = self._resized(rgb.height, rgb.width)
        if rgb.size != (width, height):
            rgb = rgb.resize((width, height), Image.Resampling(_number_of(self.mode)))
        return self._squared(to_pixels(rgb)[None])

    def _squared(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) resized pixels → (B, 3, S, S), cropped or padded, and normalised."""
        height, width = x.shape[-2:]
        if self.fit == "crop":
            top, left = (height - self.size_px) // 2, (width - self.size_px) // 2
            x = x[..., top : top + self.size_px, left : left + self.size_px]
        elif self.fit == "pad":
            down, across = self.size_px - height, self.size_px - width
            x = pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        mean, std = x.new_tensor(self.mean).view(3, 1, 1), x.new_tensor(self.std).view(3, 1, 1)
        return (x - mean) / std  # (B, 3, S, S)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.fit == "stretch":
            return self.size_px, self.size_px
        if self.fit == "pad":
            scale = self.size_px / max(height, width)
            return max(1, round(height * scale)), max(1, round(width * scale))
        edge, shorter = self.edge_px or self.size_px, min(height, width)
        return (
            edge * height // shorter,
            edge * width // shorter,
        )  # rounds the longer side down, as CLIP's does


def _number_of(mode: str) -> int:
    return next(number for number, name in _MODES.items() if name == mode)


def resize(pixels: Tensor, height: int, width: int, mode: str = "bicubic") -> Tensor:
    """(B, C, H, W) pixels in [0, 1] → (B, C, height, width), antialiased.

    As Pillow does it: one direction after the other, cut off to [0, 1] after each, since bicubic overshoots. Where it
    does, there is no gradient, as there is none in what the model sees of a picture file. Rows come first, but
    where the height shrinks much more than the width (so since Pillow 13; by as much as the overshoot, the
    order matters).
    """
    old_height, old_width = pixels.shape[-2:]
    columns_first = old_height - height > max(0, 2 * (old_width - width))
    between = (height, old_width) if columns_first else (old_height, width)
    for shape in (between, (height, width)):
        if pixels.shape[-2:] != shape:
            pixels = interpolate(pixels, shape, mode=mode, antialias=True).clamp(0, 1)
    return pixels


def crop(pixels: Tensor, keep: float, generator: torch.Generator | None = None) -> Tensor:
    """Keeps the share ``keep`` of each side: at a random place, one for the whole batch; centred without ``generator``.

    Reward fine-tuning crops 504 of 512 pixels at random before scoring, against blocky artefacts (LongAlign, App. C).
    """
    if not 0 < keep <= 1:
        raise LongalignError(f"a crop keeps a share of each side between 0 and 1, not {keep}")
    for dim in (-2, -1):
        side = pixels.shape[dim]
        kept = max(1, round(side * keep))
        spare = side - kept
        start = spare // 2
        if generator is not None:
            start = int(torch.randint(spare + 1, (), generator=generator, device=generator.device))
        pixels = pixels.narrow(dim, start, kept)
    return pixels
