"""A LoRA file in the layout that diffusers' ``pipe.load_lora_weights(folder)`` reads.

folder/
    pytorch_lora_weights.safetensors   <component>.<layer>.lora_A.weight (down), .lora_B.weight (up)
    text_encoder/                      a LoRA of the (first) text encoder, likewise; text_encoder_2/ of the second
    adapter/                           the T5 → UNet text adapter, if one was trained with the LoRA

The file's metadata holds diffusers' own entry (rank and alpha, without which alpha ≠ rank would be read wrongly) and
the entry `longalign`: the fingerprint of the base, and the names of LoRAs that must be on the model, too.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from longalign.backbones import components
from longalign.errors import LongalignError
from longalign.safe_files import read_tensors, write_tensors
from longalign.weights.fingerprint import Fingerprint
from longalign.worlds import owner

FILE_NAME = "pytorch_lora_weights.safetensors"  # diffusers' name
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")  # CLIPs whose LoRAs lie in sub-folders of these names
_DIFFUSERS_KEY, OUR_KEY = "lora_adapter_metadata", "longalign"
_UNSUPPORTED = ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora", "lora_bias")
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


class Pair(NamedTuple):
    """The two factors of a layer's change: ΔW = (alpha / r) · up · down.

    Linear: up (out, r), down (r, in). Conv2d: up (out, r, 1, 1), down (r, in, kh, kw).
    """

    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class LoraFile:
    """The content of a LoRA file.

    Attributes:
        layers: module name → factors.
        component: of the pipeline: ``unet``, ``transformer`` or another backbone's; ``text_encoder`` of any CLIP.
        alpha: the change is scaled by alpha / rank; None stands for alpha = rank.
        base: fingerprint of the weights on which it was trained; None if unknown.
        stacked_on: names of other LoRAs that were on the model in training.
    """

    layers: Mapping[str, Pair]
    component: str = "unet"
    alpha: float | None = None
    base: Fingerprint | None = None
    stacked_on: tuple[str, ...] = field(default=())

    @property
    def rank(self) -> int:
        return next(iter(self.layers.values())).down.shape[0]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def scaled(self, weight: float) -> LoraFile:
        """The same LoRA with ``weight`` times its change."""
        if weight == 1:
            return self
        return replace(self, layers={k: Pair(p.up * weight, p.down) for k, p in self.layers.items()})

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the file into `folder`, which is created. Raises LongalignError: the disk refuses."""
        tensors = {}
        for layer, pair in self.layers.items():
            tensors[f"{self.component}.{layer}{_DOWN}"] = pair.down
            tensors[f"{self.component}.{layer}{_UP}"] = pair.up
        # Only the necessary part of peft's configuration, because older versions refuse unknown entries.
        config = {
            "r": self.rank,
            "lora_alpha": self.rank if self.alpha is None else self.alpha,
            "target_modules": sorted(self.layers),
        }
        ours = {"base": self.base and self.base.to_json(), "stacked_on": list(self.stacked_on)}
        metadata = {
            _DIFFUSERS_KEY: json.dumps({f"{self.component}.{k}": v for k, v in config.items()}),
            OUR_KEY: json.dumps(ours),
        }
        path = Path(folder) / FILE_NAME
        write_tensors(path, tensors, metadata)
        return path

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> LoraFile:
        """Read ``folder/pytorch_lora_weights.safetensors``, or a LoRA file of another name.

        Raises:
            LongalignError: there is no such file, it is damaged, or it has another layout (the first wrong layer is
                named).
        """
        path = Path(folder)
        if path.is_dir():
            path = path / FILE_NAME
            if not path.is_file():
                raise LongalignError(f"{folder}: holds no {FILE_NAME}, so it is no LoRA folder")
        tensors, metadata = read_tensors(path)
        component, layers = _layers(tensors, path)
        try:
            return cls(
                layers,
                component,
                _alpha(metadata, component),
                **_ours(metadata),
            )
        except (LongalignError, ValueError, AttributeError, TypeError) as error:
            raise LongalignError(f"{path}: the metadata cannot be read: {error}") from error


def is_plain(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
    """Whether `LoraFile.read` reads a file: matrices of one component, of one rank and one scale, and nothing else."""
    if not all(key.endswith((_DOWN, _UP)) for key in tensors):
        return False
    if len({key.partition(".")[0] for key in tensors}) != 1:
        return False
    if len({t.shape[0] for key, t in tensors.items() if key.endswith(_DOWN)}) > 1:
        return False
    try:
        config = json.loads(metadata.get(_DIFFUSERS_KEY) or "{}")
    except ValueError:
        return True  # `read` says what is wrong with it
    return not any(key.endswith(_UNSUPPORTED) and value for key, value in config.items())


def _layers(tensors: Mapping[str, Tensor], path: Path) -> tuple[str, dict[str, Pair]]:
    """Component and factors, with their shapes checked against each other."""
    known = {key.partition(".")[0] for key in tensors if key.endswith((_DOWN, _UP))} & {
        *components(),
        "text_encoder",
    }
    if len(known) != 1:
        raise LongalignError(
            f"{path}: is not a LoRA in the layout of diffusers and peft for one of {', '.join(components())} "
            "(keys such as unet.….lora_A.weight)"
        )
    [component] = known
    layers: dict[str, Pair] = {}
    others = []
    for key, tensor in tensors.items():
        layer = key.removeprefix(f"{component}.").removesuffix(_DOWN)
        if not key.startswith(f"{component}."):
            others.append(key)
        elif key.endswith(_DOWN):
            up = tensors.get(f"{component}.{layer}{_UP}")
            if up is None:
                raise LongalignError(f"{path}: {layer} has a down matrix and no up matrix")
            layers[layer] = Pair(up, tensor)
        elif not key.endswith(_UP) or f"{key.removesuffix(_UP)}{_DOWN}" not in tensors:
            raise LongalignError(
                f"{path}: {key!r} is neither the up nor the down matrix of a layer that has both"
            )
    if others:
        warnings.warn(
            f"{path}: {len(others)} tensors are not the {component}'s and are left out", stacklevel=3
        )
    check_pairs(layers, str(path))
    return component, layers


def check_pairs(layers: Mapping[str, Pair], name: str) -> None:
    """Raises LongalignError: the matrices of a layer do not fit together, or it has another rank than the others."""
    rank = None
    for layer, (up, down) in layers.items():
        fits = up.ndim == down.ndim and up.ndim in (2, 4) and up.shape[1] == down.shape[0]
        if not fits or tuple(up.shape[2:]) not in ((), (1, 1)):
            raise LongalignError(
                f"{name}: {layer}: up {tuple(up.shape)} and down {tuple(down.shape)} do not fit together"
            )
        rank = rank or down.shape[0]
        if down.shape[0] != rank:
            raise LongalignError(f"{name}: {layer} has rank {down.shape[0]}, others {rank}")


def check_layers(file: LoraFile, model: nn.Module, name: str) -> None:
    """Raises LongalignError: a layer is not in the model, or its matrices are of another shape (it is named)."""
    modules = dict(model.named_modules())
    for key, (up, down) in file.layers.items():
        layer = modules.get(f"{key}.base_layer", modules.get(key))
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            raise LongalignError(f"{name}: the model has no layer {key!r}: a LoRA of another architecture?")
        weight = tuple(layer.weight.shape)
        if (len(up), *down.shape[1:]) != weight:
            raise LongalignError(
                f"{name}: {key}: up {tuple(up.shape)} and down {tuple(down.shape)} do not fit its weight {weight}"
            )


def _alpha(metadata: Mapping[str, str], component: str) -> float | None:
    config: dict[str, Any] = json.loads(metadata.get(_DIFFUSERS_KEY) or "{}")
    own = {key.removeprefix(f"{component}."): value for key, value in config.items()}
    for key in _UNSUPPORTED:
        if own.get(key):
            raise LongalignError(f"{key} is not supported")
    return float(own["lora_alpha"]) if "lora_alpha" in own else None


def _ours(metadata: Mapping[str, str]) -> dict[str, Any]:
    ours: dict[str, Any] = json.loads(metadata.get(OUR_KEY) or "{}")
    base = ours.get("base")
    return {
        "base": Fingerprint.from_json(base) if base else None,
        "stacked_on": tuple(map(str, ours.get("stacked_on", ()))),
    }


def split_weight(name: str | os.PathLike[str]) -> tuple[str, float]:
    """``FILE:0.7`` → the file and its weight; 1 where there is none. A file whose own name ends so comes first.

    Raises:
        LongalignError: the weight is not finite.
    """
    told = os.fspath(name)
    before, colon, last = told.rpartition(":")
    try:
        weight = float(last)
    except ValueError:
        return told, 1.0
    if not colon or not before or Path(told).exists():
        return told, 1.0
    if not math.isfinite(weight):
        raise LongalignError(f"{told}: the weight of a LoRA must be a number such as 0.7, not {last}")
    return before, weight


def resolve_lora(name: str | os.PathLike[str]) -> Path:
    """The folder or file of a LoRA.

    An embedded name (``stickers/sft``), a folder or a file; each may have its weight behind it (`split_weight`), which
    is left out here. A run folder of `longalign train` stands for the folder ``model`` in it. A folder with one
    safetensors file of another name stands for that file.

    Raises:
        LongalignError: there is no embedded LoRA of this name.
    """
    told, _ = split_weight(name)
    if "/" in told and (of_world := owner(told)) is not None:
        return of_world.lora_folder(told)
    path = Path(told)
    if not path.is_dir() or (path / FILE_NAME).is_file():
        return path
    if (path / "model" / FILE_NAME).is_file():
        return path / "model"
    files = list(path.glob("*.safetensors"))
    return files[0] if len(files) == 1 else path
