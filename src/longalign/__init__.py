"""longalign: make text-to-image diffusion models follow long, detailed prompts.

The names below are loaded on first use, so that ``import longalign`` stays free of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longalign.encoding import Conditioning, encode
    from longalign.segments import Segment, Segmenter

__version__ = "0.1.0"

_HOME = {
    "Conditioning": "longalign.encoding",
    "encode": "longalign.encoding",
    "Segment": "longalign.segments",
    "Segmenter": "longalign.segments",
}

__all__ = ["Conditioning", "Segment", "Segmenter", "__version__", "encode"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'longalign' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
