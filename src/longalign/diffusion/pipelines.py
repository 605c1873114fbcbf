"""Pipelines by name (an embedded model, a folder, or a hub name), and the default settings of models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from longalign.backbones import find_backbone
from longalign.errors import LongalignError
from longalign.hub import BROKEN_FILES, find_on_hub, reason_of
from longalign.plugins import nearest, unknown
from longalign.runs import read_json_object
from longalign.runtime import pick_device, pick_dtype, quiet
from longalign.worlds import DEFAULT, WORLDS, resolve_model, world

INDEX_FILE = "model_index.json"
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


def settings_of(name: str | os.PathLike[str], pipe: Any = None) -> ModelSettings:
    """The defaults of a model, from its folder or its family."""
    path = Path(resolve_model(name)) / SETTINGS_FILE
    if path.is_file():
        return _read_settings(path)
    backbone = None if pipe is None else find_backbone(pipe)
    return ModelSettings() if backbone is None else ModelSettings(backbone.guidance, backbone.length)


def _read_settings(path: Path) -> ModelSettings:
    """Raises LongalignError: the file is no JSON, or a setting in it is unknown or of another type."""
    kinds = get_type_hints(ModelSettings)
    told = read_json_object(path)
    for key, value in told.items():
        if key not in kinds:
            raise LongalignError(f"{path}: {unknown('setting', key, kinds)}")
        wanted = tuple(get_origin(kind) or kind for kind in get_args(kinds[key]) or (kinds[key],))
        number = float in wanted and isinstance(value, int)
        if isinstance(value, bool) or not (number or isinstance(value, wanted)):
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in wanted)
            raise LongalignError(f"{path}: {key} should be {names}, not {value!r}")
    return ModelSettings(**told)


def open_pipeline(
    name: str | os.PathLike[str] = DEFAULT, *, device: str = "auto", dtype: str = "auto", kind: Any = None
) -> Any:
    """A diffusers pipeline without LoRAs, on its device, quiet, with weights from safetensors only.

    Args:
        name: an embedded model such as ``stickers``, a folder, or a hub name.
        device, dtype: as in `longalign.runtime`.
        kind: the class whose `from_pretrained` opens it; None: the pipeline that the model names.

    Raises:
        LongalignError: the folder is no pipeline or lacks a part (the message names it), or the hub has no such model.
    """
    from diffusers import DiffusionPipeline

    name = os.fspath(name)
    where = resolve_model(name)
    local = check_folder(where)
    device = pick_device(device)
    precision = pick_dtype(dtype, device)
    try:
        with quiet():
            pipe = (kind or DiffusionPipeline).from_pretrained(
                where, torch_dtype=precision, use_safetensors=True, local_files_only=local
            )
    except BROKEN_FILES as error:
        raise LongalignError(f"model {name!r} cannot be loaded: {reason_of(error)}") from error
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def check_folder(where: str) -> bool:
    """Check that a local folder holds a whole pipeline, or that the hub has a pipeline of this name.

    Returns:
        whether to load local files alone: True for a folder, and where the hub cannot be reached.

    Raises:
        LongalignError: there is neither folder nor hub name; or the folder has no `model_index.json`, this file is
            damaged or names no pipeline of diffusers, or the folder lacks a part that it lists.
    """
    folder = Path(where)
    if folder.is_file():
        raise LongalignError(
            f"{where}: is a file, and a model is a folder in diffusers' layout. A checkpoint in one file becomes one "
            "by diffusers' StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    if not folder.is_dir():
        return find_on_hub(where, INDEX_FILE, "model", embedded_models())
    index = folder / INDEX_FILE
    if not index.is_file():
        raise LongalignError(
            f"{where}: the folder has no model_index.json, so it is not a diffusers pipeline"
        )
    parts = read_json_object(index)
    _check_class(parts, index)
    for part, entry in parts.items():
        if part.startswith("_") or not isinstance(entry, list) or entry[:1] == [None]:
            continue
        if len(entry) != 2:
            raise LongalignError(f"{index}: the part {part!r} should be [library, class], not {entry!r}")
        if not (folder / part).is_dir() or not any((folder / part).iterdir()):
            raise LongalignError(f"{where}: the part {part!r} ({entry[1]}) is missing; the pipeline needs it")
    return True


def _check_class(parts: Mapping[str, Any], index: Path) -> None:
    """Raises LongalignError: a `model_index.json` that names no pipeline of the installed diffusers."""
    import diffusers

    advice = "save the pipeline again by diffusers' save_pretrained, or download the whole folder again"
    name = parts.get("_class_name")
    if not isinstance(name, str):
        raise LongalignError(f"{index}: names no pipeline (no text under _class_name); {advice}")
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        pipelines = [known for known in dir(diffusers) if known.endswith("Pipeline")]
        near = nearest(name, pipelines)
        raise LongalignError(
            f"{index}: diffusers {diffusers.__version__} has no pipeline {name!r}"
            + ("" if near is None else f"; did you mean {near!r}?")
        )


def embedded_models() -> list[str]:
    """The names of all embedded models."""
    return [name for of_world in WORLDS for name in world(of_world).models]


def load_tokenizer(name: str | os.PathLike[str] = DEFAULT) -> Any:
    """The first tokenizer of a model; its weights are not loaded.

    Raises:
        LongalignError: the model has no tokenizer.
    """
    from transformers import AutoTokenizer

    name = os.fspath(name)
    where = resolve_model(name)
    local = check_folder(where)
    try:
        return AutoTokenizer.from_pretrained(where, subfolder="tokenizer", local_files_only=local)
    except BROKEN_FILES as error:
        raise LongalignError(f"no tokenizer of {name!r}: {reason_of(error)}") from error
