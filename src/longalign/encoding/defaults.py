"""Options of `longalign.encode` that suit the weights of a pipeline: those that it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from longalign.backbones import find_backbone

_NOTED: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


def note_defaults(pipe: Any, options: Mapping[str, Any]) -> None:
    """Remember options for a pipeline, as long as its denoising module lives. Those of an earlier call are replaced."""
    if (module := _module(pipe)) is not None:
        _NOTED[module] = dict(options)


def defaults_of(pipe: Any) -> dict[str, Any]:
    """The options that were noted for a pipeline; empty where there are none."""
    module = _module(pipe)
    return {} if module is None else dict(_NOTED.get(module, {}))


def _module(pipe: Any) -> nn.Module | None:
    components = getattr(pipe, "components", None)
    if not isinstance(components, dict):
        return None
    backbone = find_backbone(pipe)
    return None if backbone is None else components.get(backbone.component)
