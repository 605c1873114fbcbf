"""The LoRA files of LongAlign's release (``s28750_lora_vis.pt`` and the reward-tuned one): lists without names.

    [up_0, down_0, up_1, down_1, …]    fp16, rank 32, scale 1

Layer i is the i-th of `longalign.weights.lora.target_layers`: the blocks ResnetBlock2D, Attention and GEGLU in the
order of ``named_modules()``, and in each block its Linears and Conv2ds in that order. diffusers' UNet registers
`up_blocks` before `mid_block`, so the middle block comes last. SD1.5 has 224 such layers: 28,291,072 numbers, 57 MB.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longalign.backbones.sd import empty_unet
from longalign.errors import LongalignError
from longalign.hub import find_on_hub
from longalign.runtime import quiet
from longalign.safe_files import read_pickle, write_pickle
from longalign.weights.lora import target_layers
from longalign.weights.lora_file import LoraFile, Pair, check_pairs
from longalign.worlds import resolve_model


def unet_shapes(base: str | None = None) -> nn.Module:
    """The UNet of a model on the meta device, from its configuration; without a name, SD1.5's.

    Raises:
        LongalignError: there is no such model, or it has no UNet.
    """
    if base is None:
        return empty_unet()
    where = resolve_model(base)
    if not Path(where).is_dir():
        find_on_hub(where, "model_index.json", "base")
    try:
        with quiet():
            return empty_unet(where)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LongalignError(f"base {base!r}: its UNet's configuration cannot be read: {reason}") from error


def from_list(matrices: Any, unet: nn.Module, name: str = "the list") -> dict[str, Pair]:
    """``[up_0, down_0, …]`` → {name of the layer: its factors}.

    Args:
        unet: the UNet of the LoRA; it may be on the meta device.
        name: of the file, for messages.

    Raises:
        LongalignError: the value is no list of matrices; its length is odd or does not match the UNet; or a pair does
            not fit its layer (which is named).
    """
    if not isinstance(matrices, Sequence) or not all(isinstance(m, Tensor) for m in matrices):
        raise LongalignError(f"{name}: holds no list of LoRA matrices")
    if len(matrices) % 2:
        raise LongalignError(f"{name}: an odd number of matrices, {len(matrices)}: up and down come in pairs")
    layers = target_layers(unet)
    if len(matrices) != 2 * len(layers):
        raise LongalignError(
            f"{name}: {len(matrices) // 2} layers, and the UNet has {len(layers)}: is it another model's? Name that as "
            "its base"
        )
    pairs = {}
    for i, (key, layer) in enumerate(layers.items()):
        up, down = (m.detach() for m in matrices[2 * i : 2 * i + 2])
        weight = tuple(layer.weight.shape)  # type: ignore[arg-type]
        kernel = (1,) * (len(weight) - 2)
        rank = len(down) if down.ndim else 0
        if not rank or tuple(up.shape) != (weight[0], rank, *kernel) or tuple(down.shape[1:]) != weight[1:]:
            raise LongalignError(
                f"{name}: layer {i}, {key}, with weight {weight}: up {tuple(up.shape)} and down {tuple(down.shape)} "
                "do not fit it"
            )
        pairs[key] = Pair(up, down)
    check_pairs(pairs, name)
    return pairs


def to_list(file: LoraFile, unet: nn.Module, name: str = "the LoRA") -> list[Tensor]:
    """The inverse of `from_list`, in float16. The format has no scale, so `up` is multiplied by it.

    Raises:
        LongalignError: the LoRA's layers are not exactly the UNet's, or a number is too large for float16 (the layer is
        named).
    """
    layers = target_layers(unet)
    if file.component != "unet" or (wrong := sorted(layers.keys() ^ file.layers.keys())):
        what = (
            f"it {'lacks' if wrong[0] in layers else 'has'} {wrong[0]}"
            if file.component == "unet"
            else "no UNet's"
        )
        raise LongalignError(f"{name}: its layers are not those of the UNet ({what}). Name its base")
    matrices = []
    for key in layers:
        up, down = file.layers[key]
        scaled = up if file.scale == 1 else up.float() * file.scale
        for matrix in (scaled, down):
            half = matrix.to(torch.float16)
            if not half.isfinite().all():
                raise LongalignError(f"{name}: {key} has numbers that float16 does not hold")
            matrices.append(half.contiguous())
    return matrices


def read(path: str | os.PathLike[str], unet: nn.Module) -> Mapping[str, Pair]:
    """`from_list` of a file, which is read without running code in it."""
    return from_list(read_pickle(path), unet, str(path))


def write(file: LoraFile, path: str | os.PathLike[str], unet: nn.Module, name: str = "the LoRA") -> Path:
    """Writes `to_list` into a file, whole or not at all."""
    write_pickle(path, to_list(file, unet, name))
    return Path(path)
