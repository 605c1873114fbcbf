"""Backbones: one object for each family of text-to-image models, which the rest of longalign asks.

| file | holds |
|---|---|
| `base.py` | `Backbone`, the base class: what can be asked |
| `sd.py`, `sdxl.py`, `sd3.py` | Stable Diffusion 1 and 2, XL, and 3 |
| `latents.py` | pixels → latents and back |

Another package adds a family by a subclass of `Backbone` and one entry point::

    [project.entry-points."longalign.plugins"]
    "backbone.toy" = "my_package.toy:Toy"
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from longalign.errors import LongalignError
from longalign.plugins import Table

if TYPE_CHECKING:
    from longalign.backbones.base import Backbone, Pipeline

__all__ = ["BACKBONES", "backbone_named", "backbone_of", "components", "denoising_module", "find_backbone"]

BACKBONES = Table(
    "backbone",
    {
        "sd15": "longalign.backbones.sd:StableDiffusion",
        "sdxl": "longalign.backbones.sdxl:StableDiffusionXL",
        "sd3": "longalign.backbones.sd3:StableDiffusion3",
    },
)


def backbone_named(family: str) -> Backbone:
    """The backbone of a family.

    Args:
        family: as in `longalign.Conditioning`, such as ``sdxl``.

    Raises:
        LongalignError: there is none of this name; the message lists all.
    """
    return BACKBONES[family]()


def find_backbone(pipe_or_module: Any) -> Backbone | None:
    """As `backbone_of`, but None for a pipeline or module of no known family.

    Args:
        pipe_or_module: a diffusers pipeline, or its UNet or transformer.
    """
    module = pipe_or_module
    if not hasattr(module, "named_modules"):
        module = next(_denoising_modules(pipe_or_module), None)
    module = getattr(module, "_orig_mod", module)  # torch.compile's wrapper
    return next((backbone for backbone in _all() if backbone.is_module(module)), None)


def backbone_of(pipe_or_module: Any) -> Backbone:
    """The backbone that a model belongs to.

    Args:
        pipe_or_module: a diffusers pipeline, or its UNet or transformer.

    Raises:
        LongalignError: it belongs to no known family.
    """
    found = find_backbone(pipe_or_module)
    if found is None:
        module = pipe_or_module
        if not hasattr(module, "named_modules"):
            module = denoising_module(pipe_or_module)
        known = ", ".join(f"{b.module_class} ({b.title})" for b in _all())
        raise LongalignError(
            f"{type(module).__name__} is not the model of a known backbone; known are {known}"
        )
    return found


def components() -> tuple[str, ...]:
    """Names that denoising modules have in pipelines: ``unet``, ``transformer``, and those of other packages."""
    return tuple(dict.fromkeys(backbone.component for backbone in _all()))


def denoising_module(pipe: Pipeline) -> Any:
    """The UNet or transformer of a diffusers pipeline.

    Args:
        pipe: the pipeline.

    Raises:
        LongalignError: it has neither.
    """
    found = next(_denoising_modules(pipe), None)
    if found is None:
        raise LongalignError(
            f"{type(pipe).__name__} has no UNet and no transformer: longalign needs a text-to-image pipeline"
        )
    return found


def _denoising_modules(pipe: Pipeline) -> Iterator[Any]:
    for name in components():
        if (module := getattr(pipe, name, None)) is not None:
            yield module


def _all() -> Iterator[Backbone]:
    return (backbone_named(family) for family in BACKBONES)
