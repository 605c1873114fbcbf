"""longalign: make text-to-image diffusion models follow long, detailed prompts.

The names below are loaded on first use, so that ``import longalign`` stays free of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longalign.editing.edit import edit
    from longalign.encoding import (
        ConcatRule,
        Conditioning,
        EncodingCache,
        T5Branch,
        TextParts,
        TruncationWarning,
        encode,
        encode_groups,
    )
    from longalign.encoding.segments import Segment, Segmenter
    from longalign.preference import PreferenceModel, Scores
    from longalign.preference.decomposition import Decomposition
    from longalign.soft_tokens import SoftTokens

from longalign.versions import VERSION as __version__

_HOME = {
    "Decomposition": "longalign.preference.decomposition",
    "ConcatRule": "longalign.encoding",
    "Conditioning": "longalign.encoding",
    "EncodingCache": "longalign.encoding",
    "T5Branch": "longalign.encoding",
    "TextParts": "longalign.encoding",
    "TruncationWarning": "longalign.encoding",
    "edit": "longalign.editing.edit",
    "encode": "longalign.encoding",
    "encode_groups": "longalign.encoding",
    "PreferenceModel": "longalign.preference",
    "Scores": "longalign.preference",
    "Segment": "longalign.encoding.segments",
    "Segmenter": "longalign.encoding.segments",
    "SoftTokens": "longalign.soft_tokens",
}

__all__ = [
    "ConcatRule",
    "Conditioning",
    "Decomposition",
    "EncodingCache",
    "PreferenceModel",
    "Scores",
    "Segment",
    "Segmenter",
    "SoftTokens",
    "T5Branch",
    "TextParts",
    "TruncationWarning",
    "__version__",
    "edit",
    "encode",
    "encode_groups",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'longalign' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
