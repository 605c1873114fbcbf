"""The sizes of pictures that a model can draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from longalign.backbones import denoising_module
from longalign.backbones.base import Pipeline
from longalign.errors import LongalignError

_DIFFUSERS_STEP_PX = 8  # its pipelines of UNets refuse other sizes, whatever the VAE


@dataclass(frozen=True)
class Sizes:
    """Sides of pictures, in pixels.

    Attributes:
        own: (width, height) that the model was trained at.
        step: sides are multiples of this.
        most: the longest side, or None.
    """

    own: tuple[int, int]
    step: int
    most: int | None = None

    def takes(self, side_px: int) -> bool:
        """Whether a side of this length can be drawn."""
        return side_px > 0 and side_px % self.step == 0 and (self.most is None or side_px <= self.most)

    def nearest(self, side_px: int) -> int:
        """The nearest length that can be drawn; of two the longer."""
        steps = max(1, (2 * side_px + self.step) // (2 * self.step))
        return min(steps * self.step, self.most or steps * self.step)

    def __str__(self) -> str:
        most = "" if self.most is None else f", at most {self.most}"
        return f"multiples of {self.step} px{most} (its own size is {self.own[0]} × {self.own[1]})"


def sizes_of(pipe: Pipeline) -> Sizes:
    """The sizes that a pipeline of Stable Diffusion 1.x, 2.x, XL or 3 can draw.

    A side is a whole number of latents; of a transformer that reads patches of latents, a whole number of patches. A
    transformer has no positions beyond its table.
    """
    config: Any = denoising_module(pipe).config
    latent_px = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    patch = getattr(config, "patch_size", None)
    side = config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    own = width * latent_px, height * latent_px
    if patch is None:
        return Sizes(own, math.lcm(latent_px, _DIFFUSERS_STEP_PX))
    table = getattr(config, "pos_embed_max_size", None)
    return Sizes(own, latent_px * patch, None if table is None else table * latent_px * patch)


def size_for(
    pipe: Pipeline, width: int | None, height: int | None, *, round_size: bool = False
) -> tuple[int, int] | None:
    """(width, height) in pixels for `longalign.diffusion.sampling.sample`; None for the model's own size.

    Args:
        width, height: what is wanted; where only one is given, the other is the model's own.
        round_size: take the nearest size that the model can draw.

    Raises:
        LongalignError: the model cannot draw this size. The message says which ones it can.
    """
    if width is None and height is None:
        return None
    sizes = sizes_of(pipe)
    wanted = width if width is not None else sizes.own[0], height if height is not None else sizes.own[1]
    near = sizes.nearest(wanted[0]), sizes.nearest(wanted[1])
    if not round_size and not all(map(sizes.takes, wanted)):
        raise LongalignError(
            f"{wanted[0]} × {wanted[1]} pixels: this model draws {sizes}. The nearest is {near[0]} × {near[1]}; "
            "--round-size (round_size=True) takes it"
        )
    return near if round_size else wanted
