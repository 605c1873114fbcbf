"""The one training loop: recipe → data in a fixed order → objective → AdamW → checkpoints → run folder.

    from longalign.training import fit, read_recipe

    fit(read_recipe("stickers-denscore", ["train.steps=100"]), "runs/mine")

Loaded on first use, so that the command line starts without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longalign.training.costs import Plan, plan
    from longalign.training.loop import fit
    from longalign.training.progress import FitResult
    from longalign.training.recipe import Recipe, TrainSettings, read_recipe

_HOME = {
    "FitResult": "progress",
    "fit": "loop",
    "Plan": "costs",
    "plan": "costs",
    "Recipe": "recipe",
    "TrainSettings": "recipe",
    "read_recipe": "recipe",
}

__all__ = ["FitResult", "Plan", "Recipe", "TrainSettings", "fit", "plan", "read_recipe"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"longalign.training.{_HOME[name]}"), name)
    raise AttributeError(f"module 'longalign.training' has no attribute {name!r}")
