"""longalign: make text-to-image diffusion models follow long, detailed prompts.

| to | use |
|---|---|
| encode prompts for a diffusers pipeline | `encode`, `encode_groups`, `Conditioning`, `T5Branch`, `EncodingCache` |
| see how a prompt is cut | `Segmenter`, `Segment`, `TruncationWarning`, `Truncation` |
| load a model with LoRAs and soft tokens | `load_pipeline`, `Stack`, `SoftTokens` |
| draw and edit pictures | `generate`, `GenerateConfig`, `edit`, `EditResult` |
| mend what came out wrong | `repair`, `Repaired`, `attend`, `Attended` |
| judge pictures | `PreferenceModel`, `Scores`, `Decomposition`, `score`, `ScoreConfig` |
| train | `read_recipe`, `Recipe`, `fit`, `recipe_names` |
| work below the pipelines | `Denoiser`, `TextParts`, `ConcatRule` |
| catch what a user can mend | `LongalignError` |

The names are loaded on first use, so that ``import longalign`` stays free of torch.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longalign.diffusion.attend import Attended, attend
    from longalign.diffusion.denoiser import Denoiser
    from longalign.editing.edit import EditResult, edit
    from longalign.encoding import (
        ConcatRule,
        Conditioning,
        EncodingCache,
        T5Branch,
        TextParts,
        Truncation,
        TruncationWarning,
        encode,
        encode_groups,
    )
    from longalign.encoding.segments import Segment, Segmenter
    from longalign.errors import LongalignError
    from longalign.generation.generate import generate
    from longalign.generation.settings import GenerateConfig
    from longalign.preference import PreferenceModel, Scores
    from longalign.preference.decomposition import Decomposition
    from longalign.recipes import recipe_names
    from longalign.repairing.repair import repair
    from longalign.repairing.result import Repaired
    from longalign.scoring.outcome import ScoreConfig
    from longalign.scoring.score import score
    from longalign.soft_tokens import SoftTokens
    from longalign.training.loop import fit
    from longalign.training.recipe import Recipe, read_recipe
    from longalign.weights.stack import Stack, load_pipeline

from longalign.third_party import silence_needless_warnings
from longalign.versions import VERSION as __version__

silence_needless_warnings()

_HOME = {
    "Attended": "longalign.diffusion.attend",
    "ConcatRule": "longalign.encoding",
    "Conditioning": "longalign.encoding",
    "Decomposition": "longalign.preference.decomposition",
    "Denoiser": "longalign.diffusion.denoiser",
    "EditResult": "longalign.editing.edit",
    "EncodingCache": "longalign.encoding",
    "GenerateConfig": "longalign.generation",
    "LongalignError": "longalign.errors",
    "PreferenceModel": "longalign.preference",
    "Recipe": "longalign.training.recipe",
    "Repaired": "longalign.repairing.result",
    "ScoreConfig": "longalign.scoring.outcome",
    "Scores": "longalign.preference",
    "Segment": "longalign.encoding.segments",
    "Segmenter": "longalign.encoding.segments",
    "SoftTokens": "longalign.soft_tokens",
    "Stack": "longalign.weights.stack",
    "T5Branch": "longalign.encoding",
    "TextParts": "longalign.encoding",
    "Truncation": "longalign.encoding",
    "TruncationWarning": "longalign.encoding",
    "attend": "longalign.diffusion.attend",
    "edit": "longalign.editing.edit",
    "encode": "longalign.encoding",
    "encode_groups": "longalign.encoding",
    "fit": "longalign.training.loop",
    "generate": "longalign.generation",
    "load_pipeline": "longalign.weights.stack",
    "read_recipe": "longalign.training.recipe",
    "recipe_names": "longalign.recipes",
    "repair": "longalign.repairing.repair",
    "score": "longalign.scoring.score",
}

# Modules and packages of 0.1.0 that have moved: they are found under their old names until 0.3.
_MOVED = {
    "adapter": "longalign.encoding.adapter",
    "checkpoints": "longalign.weights",
    "columns": "longalign.studies.compare",
    "decomposition": "longalign.preference.decomposition",
    "demo": "longalign.studies.demo",
    "denoiser": "longalign.diffusion.denoiser",
    "judging": "longalign.report.sentences",
    "lora": "longalign.weights.lora",
    "pipelines": "longalign.diffusion.pipelines",
    "prompts": "longalign.data.prompts",
    "sampling": "longalign.diffusion.sampling",
    "segments": "longalign.encoding.segments",
    "solver": "longalign.diffusion.solver",
    "stages": "longalign.weights",
}
# Packages that README and docs name by `longalign.NAME`: they are imported when asked for.
_PACKAGES = ("encoding", "metrics", "preference", "recipes", "soft_tokens", "stickers", "worlds")

__all__ = [
    "Attended",
    "ConcatRule",
    "Conditioning",
    "Decomposition",
    "Denoiser",
    "EditResult",
    "EncodingCache",
    "GenerateConfig",
    "LongalignError",
    "PreferenceModel",
    "Recipe",
    "Repaired",
    "ScoreConfig",
    "Scores",
    "Segment",
    "Segmenter",
    "SoftTokens",
    "Stack",
    "T5Branch",
    "TextParts",
    "Truncation",
    "TruncationWarning",
    "__version__",
    "attend",
    "edit",
    "encode",
    "encode_groups",
    "fit",
    "generate",
    "load_pipeline",
    "read_recipe",
    "recipe_names",
    "repair",
    "score",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _PACKAGES:
        return import_module(f"longalign.{name}")
    if name in _MOVED:
        warnings.warn(
            f"longalign.{name} is {_MOVED[name]} now; the old name goes with version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return import_module(_MOVED[name])
    raise AttributeError(f"module 'longalign' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
