"""LoRAs in folders: saved and loaded, with the text adapter beside them, and refused on another base than their own."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from longalign.adapter import TextAdapter
from longalign.checkpoints.base import Fingerprint, difference, fingerprint
from longalign.checkpoints.lora_file import LoraFile, Pair, check_layers
from longalign.checkpoints.text_adapter import read_text_adapter, write_text_adapter
from longalign.errors import LongalignError
from longalign.lora.layers import attach, attached, combined, component_of, existing, pair_of, wrapped
from longalign.pipelines import SETTINGS_FILE, resolve_lora
from longalign.runs import atomic_write_text

ADAPTER_FOLDER = "adapter"


def save(
    model: Any,
    folder: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    adapter: TextAdapter | None = None,
    base: Fingerprint | None = None,
    base_name: str = "",
    strategy: str = "clip-cat",
) -> Path:
    """Write the LoRAs of a model as one that ``pipe.load_lora_weights(folder)`` reads.

    The file carries the fingerprint of the model's own weights, by which `load` refuses another base.

    Args:
        names: which LoRAs; else all. Several become one (`combined`). The file says which ones it leaves out.
        dtype: to save in; else as they are (float32).
        adapter: the text adapter that was trained with it, saved in ``folder/adapter``.
        base: ``fingerprint(model)``, where it is known: of a big model it takes seconds.
        base_name: what to call the base in messages.
        strategy: how texts were encoded in training, for `longalign.pipelines.strategy_for`.

    Returns:
        the path of the LoRA file.

    Raises:
        LongalignError: there is no such LoRA, or the disk refuses.
    """
    names = existing(model, names)
    pairs = {
        key: Pair(*(t.detach().to("cpu", dtype or t.dtype) for t in pair))
        for key, pair in combined(model, names).items()
    }
    file = LoraFile(
        pairs,
        component_of(model),
        alpha=float(model.peft_config[names[0]].lora_alpha) if len(names) == 1 else None,
        base=base or fingerprint(model, base_name),
        stacked_on=tuple(n for n in attached(model) if n not in names),
    )
    path = file.write(folder)
    if adapter is not None:
        write_text_adapter(adapter, Path(folder) / ADAPTER_FOLDER)
    note_strategy(folder, strategy)
    return path


def note_strategy(folder: str | os.PathLike[str], strategy: str) -> None:
    """Say beside a LoRA how texts were encoded in its training, unless it was ``clip-cat``."""
    if strategy != "clip-cat":
        atomic_write_text(Path(folder) / SETTINGS_FILE, json.dumps({"strategy": strategy}) + "\n")


def load(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    name: str = "default",
    check_base: bool = True,
    base_name: str = "",
    trainable: bool = False,
) -> LoraFile:
    """Put a saved LoRA on a model, beside those that are on it.

    Args:
        folder: with a LoRA file, the file, a training run's folder, or an embedded one such as ``stickers/sft``. Any
            LoRA in diffusers' peft layout will do.
        name: to tell several apart.
        check_base: refuse a model other than the LoRA's own. Rounding to another dtype is no other model.
        base_name: what to call `model` in messages.
        trainable: whether training goes on with it.

    Returns:
        what the file says.

    Raises:
        LongalignError: no such file, damaged, of another base (both are named), or with a layer that the model
            has not or of another shape (it is named).
    """
    file = LoraFile.read(resolve_lora(folder))
    put(
        model,
        file,
        str(folder),
        name=name,
        check_base=check_base,
        base_name=base_name,
        trainable=trainable,
    )
    return file


def put(
    model: Any,
    file: LoraFile,
    where: str,
    *,
    name: str = "default",
    check_base: bool = True,
    base_name: str = "",
    trainable: bool = False,
) -> None:
    """`load` for a file that is read already; `where` is what to call it in messages."""
    if file.component != component_of(model):
        raise LongalignError(
            f"{where}: is a LoRA of a {file.component}, and this is a {type(model).__name__}"
        )
    if check_base:
        refuse_other_base(file, model, where, base_name)
    check_layers(file, model, where)
    own = attach(model, file.rank, file.alpha, name=name, layers=file.layers)
    with torch.no_grad():
        for key, layer in wrapped(model):
            if key in file.layers:
                here = pair_of(layer, name)
                here.up.copy_(file.layers[key].up)
                here.down.copy_(file.layers[key].down)
    if not trainable:
        for parameter in own:
            parameter.requires_grad_(False)


def load_text_adapter(folder: str | os.PathLike[str]) -> TextAdapter | None:
    """The adapter that `save` put beside a LoRA, in evaluation mode; None where there is none.

    Raises:
        LongalignError: it is damaged.
    """
    path = resolve_lora(folder) / ADAPTER_FOLDER
    return read_text_adapter(path) if path.is_dir() else None


def refuse_other_base(file: LoraFile, model: nn.Module, folder: str, base_name: str = "") -> None:
    """Raises LongalignError: the model is not the one that the LoRA was trained on, or lacks a LoRA of that time.

    Where the file does not say, a warning does. Rounding to another dtype makes no other model.
    """
    if missing := [n for n in file.stacked_on if n not in attached(model)]:
        raise LongalignError(
            f"{folder}: was trained with the LoRA {missing[0]!r} on the model: load that first, under this name "
            "(or turn the check of the base off)"
        )
    if file.base is None:
        warnings.warn(
            f"{folder}: does not say which base it belongs to, so nobody knows whether this is it",
            stacklevel=3,
        )
    elif differs := difference(file.base, model, base_name):
        raise LongalignError(
            f"{folder}: {differs}. Load the LoRA into its own base, or merge first what was merged into that "
            "(or turn the check of the base off)"
        )
