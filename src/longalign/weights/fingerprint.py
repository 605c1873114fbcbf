"""Fingerprints of a model's weights: a hash, and a sketch that survives rounding.

A LoRA fits every model of the same shapes, but gives nonsense on all except its own base. So a LoRA file holds the
fingerprint of its base.

**Hash**: SHA-256 over the names, shapes, dtypes and all bytes of the state dict, sorted by name. It covers all bytes,
because two stages of one training differ in some layers only.

**Sketch**: the same model has another hash when it is loaded in float16 or merged on another machine. So a fingerprint
also has four numbers for each tensor,

    s_k = u_kᵀ W v_k,   u_k, v_k ∈ {−1, +1}ⁿ pseudo-random and the same for all,

to which every element contributes. A change ΔW of W moves each number by about |ΔW|_F (the standard deviation over the
choice of signs), so max_k |s_k − s_k'| / |W|_F estimates the relative change of the tensor. Rounding to float16 gives
about 2e-4, rounding to bfloat16 2e-3, another base about 1, a merged LoRA some per cent. The limit is two machine
epsilons of the coarser of the two dtypes, and at least of float16, because float32 weights often come from a float16
file. That is about ten standard deviations of rounding. A tensor that changed by ten times the limit passes all four
tests by chance once in 24,000 times.

Both together take about 4 s for SD1.5 in float32 (3.4 GB) on one CPU core.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longalign.errors import LongalignError

_PROJECTIONS = 4
# Added to the root mean square of a tensor. Near zero float16 has an absolute error of 3e-8, so rounding may change a
# nearly zero tensor by any factor.
_FLOOR_RMS = 1e-4


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of a model's own weights, without the LoRAs on it.

    Attributes:
        sha256: SHA-256 of names, shapes, dtypes and bytes.
        layout: SHA-256 of names and shapes alone.
        eps: machine epsilon of the coarsest dtype among the weights.
        sketch: four numbers a tensor, in the order of names.
        name: name of the model for messages; empty if unknown.
    """

    sha256: str
    layout: str
    eps: float
    sketch: tuple[float, ...]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.sha256[:12]})" if self.name else self.sha256[:12]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "sketch": list(self.sketch)}

    @classmethod
    def from_json(cls, value: Any) -> Fingerprint:
        """The inverse of `to_json`. Raises LongalignError: the value is no fingerprint."""
        try:
            return cls(
                str(value["sha256"]),
                str(value["layout"]),
                float(value["eps"]),
                tuple(map(float, value["sketch"])),
                str(value["name"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LongalignError(
                f"holds no readable fingerprint of its base ({type(error).__name__})"
            ) from error


def fingerprint(model: nn.Module, name: str = "") -> Fingerprint:
    """The fingerprint of a model's own weights, without peft's LoRAs.

    Args:
        name: name of the model for messages. Of a path only the last part is kept, for privacy.
    """
    if name and Path(name).exists():
        name = Path(name).resolve().name
    weights = base_weights(model)
    sha256, layout = hashlib.sha256(), hashlib.sha256()
    sketch, eps = [], 0.0
    for key, tensor in weights.items():
        head = f"{key} {tuple(tensor.shape)};".encode()
        layout.update(head)
        sha256.update(head + str(tensor.dtype).encode())
        tensor = tensor.cpu().contiguous()
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        sketch += [float(f"{s:.8g}") for s in _project(tensor)]
        if tensor.is_floating_point():
            eps = max(eps, torch.finfo(tensor.dtype).eps)
    return Fingerprint(sha256.hexdigest(), layout.hexdigest(), eps, tuple(sketch), name)


def difference(of: Fingerprint, model: nn.Module, name: str = "") -> str | None:
    """None if a model has the weights of a fingerprint, up to rounding; else the difference in words."""
    here = fingerprint(model, name)
    if here.sha256 == of.sha256:
        return None
    told = f"it belongs to the base {of}, and this model is {here}"
    if here.layout != of.layout or len(here.sketch) != len(of.sketch):
        return f"{told}, of another architecture"
    allowed = 2 * max(of.eps, here.eps, torch.finfo(torch.float16).eps)
    moved = [abs(a - b) for a, b in zip(here.sketch, of.sketch, strict=True)]
    changes = {
        key: max(moved[i * _PROJECTIONS : (i + 1) * _PROJECTIONS])
        / (float(w.float().norm()) + _FLOOR_RMS * w.numel() ** 0.5)
        for i, (key, w) in enumerate(base_weights(model).items())
    }
    different = [
        key for key, change in changes.items() if not change <= allowed
    ]  # NaN counts as different, too
    if not different:
        return None
    worst = max(different, key=lambda key: changes[key])
    return f"{told}: {len(different)} of {len(changes)} tensors differ by more than rounding, most {worst}"


def base_weights(model: nn.Module) -> Mapping[str, Tensor]:
    """The state dict of a model without peft's wrappers, sorted by name.

    Raises:
        LongalignError: the model is on the meta device and has no weights.
    """
    found = {}
    for key, tensor in model.state_dict().items():
        if any(part.startswith("lora_") for part in key.split(".")):
            continue
        if tensor.is_meta:
            raise LongalignError("a model on the meta device has no weights, so it has no fingerprint")
        found[key.replace(".base_layer.", ".")] = tensor
    return dict(sorted(found.items()))


def _project(tensor: Tensor) -> list[float]:
    """u_kᵀ W v_k, W being a tensor with all but its first dimension made one.

    The products are elementwise, because the user may allow matrix products of less precision than float32.
    """
    w = tensor.detach().float().reshape(tensor.shape[0] if tensor.ndim > 1 else 1, -1)
    return [
        float(((w * _signs(w.shape[1], 2 * k)).sum(1).double() * _signs(w.shape[0], 2 * k + 1)).sum())
        for k in range(_PROJECTIONS)
    ]


@lru_cache(maxsize=256)
def _signs(n: int, seed: int) -> Tensor:
    """n signs. NumPy guarantees that the stream of `RandomState` never changes; torch gives no such guarantee."""
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 2, n).astype(np.float32) * 2 - 1)
