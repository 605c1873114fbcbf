"""LoRA files with named matrices for other tools: diffusers' own layout, and kohya's.

    diffusers   unet.down_blocks.0.….to_q.lora_A.weight, .lora_B.weight; text_encoder.text_model.….q_proj.lora_A.weight
    kohya       lora_unet_down_blocks_0_…_to_q.lora_down.weight, .lora_up.weight, .alpha; lora_te_text_model_…_q_proj…

kohya's files of SDXL have ``lora_te1_`` and ``lora_te2_``. Their UNet layers are written under diffusers' names, which
A1111, Forge and ComfyUI map to their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.safe_files import write_tensors
from longalign.weights.lora_file import TEXT_ENCODERS, LoraFile

Form = Literal["diffusers", "kohya"]
_CLIP_PREFIX = "text_model."  # which transformers 5 leaves out, and every tool expects


def write(parts: Mapping[str, LoraFile], path: str | os.PathLike[str], form: str) -> Path:
    """Writes one safetensors file with all parts, whole or not at all.

    Args:
        parts: component of the pipeline → its LoRA.
        form: ``diffusers`` or ``kohya``.

    Raises:
        LongalignError: the name does not end in .safetensors; kohya's layout has no names for a part; the disk refuses.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise LongalignError(f"{path}: this format is a .safetensors file: give --out such a name")
    kohya = form == "kohya"
    tensors: dict[str, Tensor] = {}
    for component, file in parts.items():
        prefix = _kohya_prefix(component, parts) if kohya else f"{component}."
        tensors.update((_kohya if kohya else _diffusers)(prefix, component, file))
    metadata = {"ss_network_module": "networks.lora"} if kohya else None
    write_tensors(path, tensors, metadata)
    return path


def _diffusers(prefix: str, component: str, file: LoraFile) -> Iterator[tuple[str, Tensor]]:
    for layer, (up, down) in file.layers.items():
        name = prefix + _full(component, layer)
        yield f"{name}.lora_A.weight", down
        yield f"{name}.lora_B.weight", up * file.scale  # so that no alpha is needed


def _kohya(prefix: str, component: str, file: LoraFile) -> Iterator[tuple[str, Tensor]]:
    alpha = torch.tensor(float(file.scale * file.rank))
    for layer, (up, down) in file.layers.items():
        name = prefix + _full(component, layer).replace(".", "_")
        yield f"{name}.lora_down.weight", down
        yield f"{name}.lora_up.weight", up
        yield f"{name}.alpha", alpha.clone()


def _full(component: str, layer: str) -> str:
    if component in TEXT_ENCODERS and not layer.startswith(_CLIP_PREFIX):
        return _CLIP_PREFIX + layer
    return layer


def _kohya_prefix(component: str, parts: Mapping[str, LoraFile]) -> str:
    if component in TEXT_ENCODERS:
        two = TEXT_ENCODERS[1] in parts
        return f"lora_te{TEXT_ENCODERS.index(component) + 1 if two else ''}_"
    if component != "unet":
        raise LongalignError(
            f"kohya's names are those of UNets, and this is a LoRA of a {component}: use --format diffusers, which "
            "ComfyUI reads, too"
        )
    return "lora_unet_"
