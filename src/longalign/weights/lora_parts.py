"""The LoRAs of one file or folder, by the part of the pipeline that each changes: ours, and those of other tools."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longalign.errors import LongalignError
from longalign.safe_files import read_tensors
from longalign.weights.foreign_lora import check_kind, read_file, read_foreign
from longalign.weights.lora_file import (
    FILE_NAME,
    TEXT_ENCODERS,
    LoraFile,
    is_plain,
    resolve_lora,
    split_weight,
)
from longalign.weights.text_lora import text_loras


def read_parts(name: str | os.PathLike[str], pipe: Any = None, base_name: str = "") -> dict[str, LoraFile]:
    """Component of the pipeline → its LoRA, times the weight behind the name (``FILE:0.7``).

    Args:
        name: as of `resolve_lora`.
        pipe: a pipeline of the model, which files of other tools need (`read_foreign`).
        base_name: what to call the model in messages.

    Raises:
        LongalignError: what `LoraFile.read` and `read_foreign` refuse; or a file of another tool without a pipeline.
    """
    path, (_, weight) = resolve_lora(name), split_weight(name)
    foreign = foreign_file(path)
    if foreign is None:
        found = _ours(path)
    elif pipe is None:
        raise LongalignError(
            f"{path}: is in the layout of another tool, which is read with its model only: name it by --base, or "
            f"import the file first: longalign import {path} --base MODEL --out FOLDER"
        )
    else:
        found = read_foreign(foreign, pipe, base_name)
    return {component: file.scaled(weight) for component, file in found.items()}


def foreign_file(path: Path) -> Path | None:
    """The file of another tool that a path stands for; None where it is a LoRA of ours or a plain one of diffusers."""
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file() or file.suffix not in (".safetensors", ".bin", ".pt", ".pth", ".ckpt"):
        return None
    if file.suffix != ".safetensors":
        return file
    tensors, metadata = read_tensors(file)
    check_kind(file, tensors)
    return None if is_plain(tensors, metadata) else file


def changed_parts(name: str | os.PathLike[str]) -> set[str]:
    """The text encoders that a LoRA changes, told by its names alone."""
    path = resolve_lora(name)
    foreign = foreign_file(path)
    if foreign is None:
        return set(_ours(path)) & set(TEXT_ENCODERS)
    tensors, _ = read_file(foreign)
    second = any(key.startswith(("lora_te2_", "text_encoder_2.")) for key in tensors)
    first = any(key.startswith(("lora_te_", "lora_te1_", "text_encoder.")) for key in tensors)
    return {name for name, there in zip(TEXT_ENCODERS, (first, second), strict=True) if there}


def _ours(path: Path) -> dict[str, LoraFile]:
    file = LoraFile.read(path)
    found = {file.component: file}
    if path.is_dir():
        found |= {name: LoraFile.read(folder) for name, folder in text_loras(path).items()}
    return found


def write_parts(parts: Mapping[str, LoraFile], folder: Path) -> None:
    """Writes them as a LoRA folder: that of the backbone, and those of text encoders in folders of their own.

    Raises:
        LongalignError: there is none of a backbone, or the disk refuses.
    """
    own = [name for name in parts if name not in TEXT_ENCODERS]
    if not own:
        raise LongalignError("this LoRA changes text encoders alone: use it as it is (--lora FILE)")
    for name, file in parts.items():
        file.write(folder / name if name in TEXT_ENCODERS else folder)
