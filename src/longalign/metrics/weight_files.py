"""Published weight files of metrics: state dicts, and chains of linear layers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from longalign.errors import LongalignError
from longalign.safe_files import read_pickle, read_tensors

# LAION's aesthetic head and ImageReward's have five linear layers at these places. Between them are dropouts, which do
# nothing in evaluation. Files with activations between the layers have other places.
_CHAIN = (0, 2, 4, 6, 7)


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a state dict, without running code that the file may hold.

    Args:
        path: a safetensors file, or a pickle (``.pt``, ``.pth``, ``.bin``), perhaps with the state dict under
            ``state_dict``.

    Raises:
        LongalignError: no such file, damaged, a pickle with code, no state dict.
    """
    if os.fspath(path).endswith(".safetensors"):
        return read_tensors(path)[0]
    found = read_pickle(path)
    if isinstance(found, Mapping):
        found = found.get("state_dict", found)
    if (
        not isinstance(found, Mapping)
        or not found
        or not all(isinstance(value, Tensor) for value in found.values())
    ):
        raise LongalignError(f"{path}: holds no state dict")
    return {str(key): value for key, value in found.items()}


# y = W_5 (… (W_1 x + b_1) …) + b_5
def linear_chain(state: Mapping[str, Tensor], what: str) -> nn.Sequential:
    """A head of linear layers without activations, in float32.

    Args:
        state: ``layers.N.weight`` and ``layers.N.bias`` at N = 0, 2, 4, 6, 7; or ``weight`` and ``bias`` of one layer.
        what: the file, for messages.

    Returns:
        (…, D) → (…, 1)

    Raises:
        LongalignError: other keys, or shapes that do not fit one another.
    """
    if state.keys() == {"weight", "bias"}:
        names = [""]
    elif state.keys() == {f"layers.{n}.{part}" for n in _CHAIN for part in ("weight", "bias")}:
        names = [f"layers.{n}." for n in _CHAIN]
    else:
        odd = next(
            (key for key in state if not re.fullmatch(r"(layers\.[02467]\.)?(weight|bias)", key)), None
        )
        raise LongalignError(
            f"{what}: is no linear head: it has neither `weight` and `bias` alone nor five layers "
            f"`layers.{{{','.join(map(str, _CHAIN))}}}`" + (f", but {odd!r}" if odd else "")
        )
    layers: list[nn.Linear] = []
    for name in names:
        weight, bias = state[f"{name}weight"].float(), state[f"{name}bias"].float()
        wanted = layers[-1].out_features if layers else None
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or wanted not in (None, weight.shape[1]):
            raise LongalignError(
                f"{what}: {name}weight of shape {tuple(weight.shape)} does not fit its neighbours"
            )
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        layers.append(layer)
    if layers[-1].out_features != 1:
        raise LongalignError(f"{what}: gives {layers[-1].out_features} numbers, a score is one")
    return nn.Sequential(*layers).eval().requires_grad_(False)
