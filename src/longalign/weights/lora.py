"""LoRA by peft: put on a model, stacked, merged, saved and loaded.

A layer with weight W becomes W x + (alpha / r) · B A x: A, "down", keeps the layer's kernel, stride and padding and
has r outputs; B, "up", is linear (1×1 for a convolution) and starts at zero. The layers are the published models'
(LongAlign's code; App. A gives rank 32): every Linear and Conv2d in ResnetBlock2D, Attention and GEGLU of a UNet. For
SD3's transformer, on which the papers are silent, they are the Linears of attention and feed-forward.

The released models had their dropout after `up`; peft has it before `down`. Without training both do nothing.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import recurse_remove_peft_layers
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from longalign.backbones import backbone_of
from longalign.encoding.adapter import TextAdapter
from longalign.errors import LongalignError
from longalign.weights.encoding_note import note_encoding
from longalign.weights.factors import change, concatenated
from longalign.weights.fingerprint import Fingerprint, difference, fingerprint
from longalign.weights.lora_file import TEXT_ENCODERS, LoraFile, Pair, check_layers, resolve_lora
from longalign.weights.text_adapter import read_text_adapter, write_text_adapter

ADAPTER_FOLDER = "adapter"
CLIP_BLOCKS = ("CLIPAttention", "CLIPMLP")


def component_of(model: nn.Module) -> str:
    """What diffusers' pipelines call such a model: ``unet``, ``transformer`` or, of any CLIP, ``text_encoder``.

    Raises:
        LongalignError: it belongs to no known backbone.
    """
    if getattr(getattr(model, "config", None), "model_type", None) == "clip_text_model":
        return TEXT_ENCODERS[0]
    return backbone_of(model).component


def target_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name → layer of every Linear and Conv2d anywhere inside a block of its backbone's `lora_blocks`.

    The order is that of ``named_modules()``: block by block, and in each block its layers. A layer in two nested blocks
    appears once, with the outer block. Layers that peft has wrapped appear unwrapped, under their own names.
    """
    blocks = CLIP_BLOCKS if component_of(model) == TEXT_ENCODERS[0] else backbone_of(model).lora_blocks
    found: dict[str, nn.Module] = {}
    for block_name, block in model.named_modules():
        if type(block).__name__ in blocks:
            for inner, layer in block.named_modules():
                name = f"{block_name}.{inner}"
                if isinstance(layer, (nn.Linear, nn.Conv2d)) and ".lora_" not in name:
                    found.setdefault(name.removesuffix(".base_layer"), layer)
    return found


def attach(
    model: Any,
    rank: int = 32,
    alpha: float | None = None,
    dropout: float = 0.0,
    *,
    name: str = "default",
    layers: Iterable[str] | None = None,
) -> list[nn.Parameter]:
    """Put a new LoRA on a UNet, a transformer or a CLIP text encoder, and freeze all its other parameters.


    LoRAs that are on the model already stay active and frozen, so stages can be stacked. The LoRA's weights and its
    part of the computation are float32, whatever the model's precision; autocast may change the computation.

    Args:
        alpha: the change is scaled by alpha / rank; None: by 1.
        dropout: dropout probability of the input of `down`, in training. A recomputed forward pass then needs the same
            random state.
        name: name of this LoRA among several.
        layers: names of the layers; None: `target_layers`.

    Returns:
        the parameters of the LoRA.

    Raises:
        LongalignError: the name is taken, or there is no layer to put it on.
    """
    targets = list(target_layers(model) if layers is None else layers)
    before = attached(model)
    if name in before:
        raise LongalignError(
            f"there is a LoRA {name!r} on this model already: merge it, or choose another name"
        )
    if not targets:
        raise LongalignError(f"{type(model).__name__} has no layers for a LoRA")
    if rank < 1 or not 0 <= dropout < 1:
        raise LongalignError(f"a LoRA needs rank ≥ 1 and 0 ≤ dropout < 1, not {rank} and {dropout}")
    # peft types alpha as an int and only divides by it.
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,  # type: ignore[arg-type, unused-ignore]
        lora_dropout=dropout,
        target_modules=targets,
    )
    with warnings.catch_warnings():
        # The warning says that there is another LoRA already, which is intended.
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        model.add_adapter(config, name)
    model.set_adapter([*before, name])
    model.requires_grad_(False)
    own = list(_parameters(model, name))
    for parameter in own:
        parameter.data = parameter.data.float()  # peft gives it the dtype of the layer
        parameter.requires_grad_(True)
    return own


def attached(model: nn.Module) -> list[str]:
    """Names of the LoRAs on a model, in the order in which they came."""
    return list(getattr(model, "peft_config", {}))


@torch.no_grad()
def merge(model: Any, names: Sequence[str] | None = None) -> None:
    """W ← W + (alpha / r) · B A, then remove the LoRAs. The model computes the same as before.

    The sum is made in float32 and rounded once to the dtype of W.

    Args:
        names: names of the LoRAs; None: all.

    Raises:
        LongalignError: there is no such LoRA.
    """
    names = existing(model, names)
    for _, layer in wrapped(model):
        weight = layer.get_base_layer().weight
        changes = [change(pair_of(layer, n)) * layer.scaling[n] for n in names if n in layer.lora_A]
        if changes:
            weight.copy_(weight.float() + torch.stack(changes).sum(0).to(weight.device))
    if len(names) == len(attached(model)):
        recurse_remove_peft_layers(model)  # as diffusers' `unload_lora`, which models of transformers lack
        del model.peft_config
        model._hf_peft_config_loaded = False
    else:
        model.delete_adapters(list(names))


def combined(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, Pair]:
    """Several LoRAs as one: exactly their sum, with the sum of their ranks and scale 1 (`concatenated`).

    A single LoRA keeps its factors, without its scale.
    """
    names = existing(model, names)
    ranks = [model.peft_config[n].r for n in names]  # type: ignore[union-attr, index]
    found: dict[str, Pair] = {}
    for key, layer in wrapped(model):
        pairs = [pair_of(layer, n) if n in layer.lora_A else None for n in names]
        if len(names) == 1 and pairs[0]:
            found[key] = pairs[0]
        elif any(pairs):
            found[key] = concatenated(pairs, [layer.scaling.get(n, 1.0) for n in names], ranks)
    return found


def existing(model: nn.Module, names: Sequence[str] | None) -> list[str]:
    """These LoRAs of a model, or all of them. Raises LongalignError: there is no such LoRA, or none at all."""
    there = attached(model)
    names = there if names is None else list(names)
    if not names or set(names) - set(there):
        raise LongalignError(
            f"there is no LoRA {', '.join(sorted(set(names) - set(there)))} on this model; there "
            f"{'are ' + ', '.join(there) if there else 'is none'}"
        )
    return names


def wrapped(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, layer) of every layer that a LoRA is on."""
    for key, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield key, module


def pair_of(layer: Any, name: str) -> Pair:
    """The factors that a LoRA has in a layer: its parameters, not copies."""
    return Pair(layer.lora_B[name].weight, layer.lora_A[name].weight)


def _parameters(model: nn.Module, name: str) -> Iterator[nn.Parameter]:
    for _, layer in wrapped(model):
        if name in layer.lora_A:
            yield from pair_of(layer, name)  # type: ignore[misc]


def save(
    model: Any,
    folder: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    adapter: TextAdapter | None = None,
    base: Fingerprint | None = None,
    base_name: str = "",
    strategy: str | None = "clip-cat",
    length: int | None = None,
) -> Path:
    """Write the LoRAs of a model as one that ``pipe.load_lora_weights(folder)`` reads.

    The file holds the fingerprint of the model's own weights; `load` refuses another base by it.

    Args:
        names: names of the LoRAs; None: all. Several become one (`combined`). The file lists the LoRAs that it leaves
            out.
        dtype: dtype of the file; None: that of the weights (float32).
        adapter: the text adapter that was trained with it, saved in ``folder/adapter``.
        base: ``fingerprint(model)``, if it is known already; for a big model it takes seconds.
        base_name: what to call the base in messages.
        strategy, length: how texts were encoded in training (`longalign.weights.encoding_note`); None for the LoRA of a
            text encoder, whose backbone's LoRA says it.

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
    if strategy is not None:
        note_encoding(folder, strategy=strategy, segments="sentence", length=length)
    return path


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
        folder: a folder with a LoRA file, the file, the folder of a training run, or an embedded LoRA such as
            ``stickers/sft``. Any LoRA in diffusers' peft layout can be read.
        name: name of this LoRA among several.
        check_base: refuse a model other than the LoRA's base. Rounding to another dtype is allowed.
        base_name: what to call `model` in messages.
        trainable: whether the LoRA is trained further.

    Returns:
        the content of the file.

    Raises:
        LongalignError: there is no such file; it is damaged; it has another base (both are named); or it has a layer
            that the model does not have or that has another shape (it is named).
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
    """`load` for a file that was read already; `where` is its name in messages."""
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
    """The text adapter that `save` put beside a LoRA, in evaluation mode, or None.

    Raises:
        LongalignError: it is damaged.
    """
    path = resolve_lora(folder) / ADAPTER_FOLDER
    return read_text_adapter(path) if path.is_dir() else None


def refuse_other_base(file: LoraFile, model: nn.Module, folder: str, base_name: str = "") -> None:
    """Raises LongalignError: the model is not the LoRA's base, or lacks a LoRA that was on it in training.

    If the file does not name its base, a warning is given. Rounding to another dtype is allowed.
    """
    if missing := [n for n in file.stacked_on if n not in attached(model)]:
        raise LongalignError(
            f"{folder}: was trained with the LoRA {missing[0]!r} on the model: load that first, under this name "
            "(or take it as it is: --force-lora, in Python check_base=False)"
        )
    if file.base is None:
        warnings.warn(
            f"{folder}: does not name its base model, so this model cannot be verified",
            stacklevel=3,
        )
    elif differs := difference(file.base, model, base_name):
        raise LongalignError(
            f"{folder}: {differs}. Load the LoRA into its own base, or merge first what was merged into that "
            "(or take it as it is: --force-lora, in Python check_base=False)"
        )
