"""Pipelines by name (an embedded model, a folder, or a hub name), and the default settings of models."""

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

SETTINGS_FILE = "longalign.json"  # a model folder's own defaults: `ModelSettings`


@dataclass(frozen=True)
class ModelSettings:
    """Default settings of a model: those in its folder's `longalign.json`, else those of its backbone.

    Attributes:
        guidance: classifier-free guidance scale; None keeps the pipeline's own default.
        length: padded length in tokens of one encoder's text (240 in the published models).
        strategy, segments: how the model's texts were encoded in training, as of `longalign.encode`; None: not said.
        oracle: name of the world whose judge decides which sentences are true of the model's pictures, or None.
        flowedit: any of `start`, `source_guidance` and `target_guidance` of FlowEdit. The papers' values are used for
            the others.
    """

    guidance: float | None = None
    length: int = 240
    oracle: str | None = None
    flowedit: Mapping[str, float] | None = None
    strategy: str | None = None
    segments: str | None = None

    def encoding(self) -> dict[str, Any]:
        """The options of `longalign.encode` that the model's folder names; empty if it names no strategy."""
        if self.strategy is None:
            return {}
        told = {"strategy": self.strategy, "segments": self.segments, "length": self.length}
        return {key: value for key, value in told.items() if value is not None}


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
        LongalignError: the folder is no pipeline or lacks a part (the message names it), or the hub has no such model.
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
    """Check that a local folder holds a whole pipeline.

    Raises:
        LongalignError: `where` looks like a path and does not exist; or the folder has no `model_index.json`, or lacks
            a part that this file lists.
    """
    folder = Path(where)
    if not folder.is_dir():
        if folder.exists() or where.startswith((".", "/", "~")) or where.count("/") > 1:
            raise LongalignError(f"{where}: there is no such model folder")
        return  # a hub name
    index = folder / "model_index.json"
    if not index.is_file():
        raise LongalignError(
            f"{where}: the folder has no model_index.json, so it is not a diffusers pipeline"
        )
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
    """The first tokenizer of a model; its weights are not loaded.

    Raises:
        LongalignError: the model has no tokenizer.
    """
    from transformers import AutoTokenizer

    where = resolve_model(name)
    check_folder(where)
    try:
        return AutoTokenizer.from_pretrained(where, subfolder="tokenizer")
    except (OSError, ValueError) as error:
        raise LongalignError(f"no tokenizer of {name!r}: {str(error).strip().splitlines()[0]}") from error
