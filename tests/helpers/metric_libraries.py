"""torchmetrics and torch-fidelity without torchvision, for tests that compare with them.

torch-fidelity imports torchvision at once, and torchmetrics imports torch-fidelity if it is installed. The formulas
of neither need it. Here torchvision is an empty stand-in while torch-fidelity is imported.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

import pytest

_STAND_INS = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional",
              "torchvision.models")  # fmt: skip


def library(module: str) -> Any:
    """A module of torchmetrics or of torch-fidelity; skips the test where the library is not installed."""
    if find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{module} is not installed")
    if find_spec("torch_fidelity") is not None and find_spec("torchvision") is None:
        sys.modules |= {name: MagicMock() for name in _STAND_INS}
        try:
            import_module("torch_fidelity")
        finally:
            for name in _STAND_INS:
                del sys.modules[name]
    return import_module(module)
