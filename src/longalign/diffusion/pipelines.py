"""Pipelines by name: an embedded model, a folder, or a hub name; and the defaults that suit them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longalign.backbones import find_backbone
from longalign.errors import LongalignError
from longalign.runtime import pick_device, pick_dtype, quiet
from longalign.worlds import DEFAULT, resolve_model

SETTINGS_FILE = "longalign.json"  # what a model folder may say about itself


@dataclass(frozen=True)
class ModelSettings:
    """Defaults that suit a model. A folder's `longalign.json` may state them; else they follow its family.

    Attributes:
        guidance: classifier-free guidance scale; None keeps the pipeline's own default.
        length: padded length in tokens of one encoder's text (240 in the published models).
        oracle: name of the judge that knows the truth of sentences about the model's pictures, or None.
        flowedit: any of `start`, `source_guidance` and `target_guidance` of FlowEdit; the papers' for the rest.
    """

    guidance: float | None = None
    length: int = 240
    oracle: str | None = None
    flowedit: Mapping[str, float] | None = None


def settings_of(name: str, pipe: Any = None) -> ModelSettings:
    """The defaults of a model, from its folder or its family."""
    path = Path(resolve_model(name)) / SETTINGS_FILE
    if path.is_file():
        return ModelSettings(**json.loads(path.read_text()))
    backbone = None if pipe is None else find_backbone(pipe)
    return ModelSettings() if backbone is None else ModelSettings(backbone.guidance, backbone.length)


def open_pipeline(name: str = DEFAULT, *, device: str = "auto", dtype: str = "auto") -> Any:
    """A diffusers pipeline without LoRAs, on its device, quiet, with weights from safetensors only.

    Args:
        name: an embedded model such as ``stickers``, a folder, or a hub name.

    Raises:
        LongalignError: the folder is no pipeline, or lacks a part (which is named), or the hub has no such model.
    """
    from diffusers import DiffusionPipeline

    where = resolve_model(name)
    check_folder(where)
    device = pick_device(device)
    kind = pick_dtype(dtype, device)
    try:
        with quiet():
            pipe = DiffusionPipeline.from_pretrained(where, torch_dtype=kind, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LongalignError(f"model {name!r} cannot be loaded: {reason}") from error
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def check_folder(where: str) -> None:
    """Says of a local folder which part of the pipeline is missing, if one is.

    Raises:
        LongalignError: `where` looks like a path and is none, or is a folder without `model_index.json`, or without one
            of the parts that this file lists.
    """
    folder = Path(where)
    if not folder.is_dir():
        if folder.exists() or where.startswith((".", "/", "~")) or where.count("/") > 1:
            raise LongalignError(f"{where}: no such model folder")
        return  # a hub name
    index = folder / "model_index.json"
    if not index.is_file():
        raise LongalignError(f"{where}: no model_index.json, so this is no diffusers pipeline folder")
    try:
        parts = json.loads(index.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LongalignError(f"{index}: is no JSON: {error}") from None
    for part, entry in parts.items():
        if part.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        if not (folder / part).is_dir() or not any((folder / part).iterdir()):
            raise LongalignError(f"{where}: the part {part!r} ({entry[1]}) is missing; the pipeline needs it")


def load_tokenizer(name: str = DEFAULT) -> Any:
    """The (first) tokenizer of a model, without its weights.

    Raises:
        LongalignError: there is none.
    """
    from transformers import AutoTokenizer

    where = resolve_model(name)
    check_folder(where)
    try:
        return AutoTokenizer.from_pretrained(where, subfolder="tokenizer")
    except (OSError, ValueError) as error:
        raise LongalignError(f"no tokenizer of {name!r}: {str(error).strip().splitlines()[0]}") from error
