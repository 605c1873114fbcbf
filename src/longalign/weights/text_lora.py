"""LoRAs of CLIP text encoders, each in a folder of its own beside the backbone's LoRA: ``folder/text_encoder``.

diffusers reads such a folder by ``pipe.load_lora_weights(folder / "text_encoder", adapter_name="text")``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longalign.errors import LongalignError
from longalign.weights.lora import attached, put, save
from longalign.weights.lora_file import FILE_NAME, TEXT_ENCODERS, LoraFile, resolve_lora


def clips_of(pipe: Any) -> dict[str, Any]:
    """Name → CLIP text encoder of a pipeline."""
    return {name: clip for name in TEXT_ENCODERS if (clip := getattr(pipe, name, None)) is not None}


def save_text(clips: Mapping[str, Any], folder: str | os.PathLike[str], base_name: str = "") -> None:
    """Write the LoRAs of the text encoders below `folder`; the LoRAs of one encoder become one.

    Raises:
        LongalignError: the disk refuses.
    """
    for name, clip in clips.items():
        if attached(clip):
            save(clip, Path(folder) / name, base_name=base_name, strategy=None)


def text_loras(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Name of the text encoder → folder of its LoRA, for the LoRAs beside a backbone's."""
    where = resolve_lora(folder)
    return {name: where / name for name in TEXT_ENCODERS if (where / name / FILE_NAME).is_file()}


def put_text(
    pipe: Any,
    parts: Mapping[str, LoraFile],
    where: str,
    name: str = "default",
    *,
    check_base: bool = True,
    base_name: str = "",
) -> None:
    """Put LoRAs of text encoders on a pipeline's, frozen.

    Args:
        parts: name of the text encoder → its LoRA.
        where: their name in messages.
        name: name of the LoRA on the encoders.

    Raises:
        LongalignError: one is of another base, or the pipeline has no such encoder.
    """
    for encoder, file in parts.items():
        clip = getattr(pipe, encoder, None)
        if clip is None:
            raise LongalignError(
                f"{where}: has a LoRA of the {encoder}, which this {type(pipe).__name__} has not"
            )
        # a file of another tool names no base, which `put_on` says once
        put(
            clip, file, where, name=name, check_base=check_base and file.base is not None, base_name=base_name
        )


def load_text(
    pipe: Any,
    folder: str | os.PathLike[str],
    *,
    name: str = "default",
    check_base: bool = True,
    base_name: str = "",
) -> None:
    """Put the text encoders' LoRAs beside a backbone's LoRA, if any, on a pipeline's text encoders, frozen.

    Raises:
        LongalignError: one is damaged or of another base, or the pipeline has no such encoder.
    """
    parts = {encoder: LoraFile.read(path) for encoder, path in text_loras(folder).items()}
    put_text(pipe, parts, os.fspath(folder), name, check_base=check_base, base_name=base_name)
