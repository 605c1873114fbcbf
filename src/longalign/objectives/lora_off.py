"""A model without one of the LoRAs on it: what it was before this stage of its training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.lora import LoraLayer
from torch import nn


@contextmanager
def without_lora(module: nn.Module, name: str) -> Iterator[None]:
    """One of the LoRAs of a model multiplied by 0. Unlike switching it off, that touches no `requires_grad`."""
    layers = [m for m in module.modules() if isinstance(m, LoraLayer) and name in m.scaling]
    before = [layer.scaling[name] for layer in layers]
    for layer in layers:
        layer.scaling[name] = 0.0
    try:
        yield
    finally:
        for layer, scale in zip(layers, before, strict=True):
            layer.scaling[name] = scale
