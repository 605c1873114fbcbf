"""Tiny pipelines and data for the objectives that learn from captioned pictures."""

from __future__ import annotations

from functools import cache
from typing import Any

import tiny
import torch
from accelerate import Accelerator
from captioned_files import Some, png

from longalign.data.captioned import CaptionedPictures
from longalign.data.entries import CaptionedPicture, Failure
from longalign.diffusion.pipelines import (
    ModelSettings,
)

LENGTH, SIDE_PX = 24, 32
TEXTS = ("A cat.", "A dog runs. " * 5, "A tree.", "The red house.")  # the second is of another padded length
accelerator = cache(lambda: Accelerator(cpu=True))


class Pictures(Some):
    """Pictures of one colour each, with captions of two padded lengths."""

    def __getitem__(self, index: int) -> CaptionedPicture | Failure:
        if index in self.bad:
            return Failure(f"row {index}", "why")
        return CaptionedPicture(
            png((40 * index % 256, 90, 200), (SIDE_PX, SIDE_PX)), TEXTS[index % 4], f"row {index}"
        )


def data(count: int = 4, bad: frozenset[int] = frozenset()) -> CaptionedPictures:
    return CaptionedPictures(Pictures(count, bad), SIDE_PX)


def make(
    kind: Any,
    pipe: Any = None,
    rows: Any = None,
    held_out: Any = None,
    t5: Any = None,
    flip: bool = False,
    **settings: Any,
) -> Any:
    """An objective over a tiny pipeline, with LoRAs that are not zero."""
    objective = kind(
        pipe or tiny.tiny_sd15(),
        kind.Settings(**{"length": LENGTH, "rank": 2, **settings}),
        rows or data(),
        model=ModelSettings(guidance=3.0),
        t5=t5,
        held_out=held_out,
        flip=flip,
    )
    torch.manual_seed(1)
    for name, p in objective.denoiser.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    return objective


def batch_of(objective: Any, count: int = 4) -> Any:
    return objective.collate([objective.data[i] for i in range(count)])


def gradients(objective: Any) -> dict[str, torch.Tensor]:
    """Name → gradient, taken off."""
    found = {}
    for module_name, module in objective.modules().items():
        for name, p in module.named_parameters():
            if p.grad is not None:
                found[f"{module_name}.{name}"] = p.grad.clone()
                p.grad = None
    return found
