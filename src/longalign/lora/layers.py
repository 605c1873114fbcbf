"""LoRAs on a model: which layers they are for, putting them on, stacking and merging them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import recurse_remove_peft_layers
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from longalign.checkpoints.lora_file import Pair
from longalign.errors import LongalignError
from longalign.stages.factors import change, concatenated

TARGETS = {
    "unet": ("ResnetBlock2D", "Attention", "GEGLU"),
    "transformer": ("Attention", "FeedForward"),
    "text_encoder": ("CLIPAttention", "CLIPMLP"),
}


def component_of(model: nn.Module) -> str:
    """What diffusers' pipelines call such a model: ``unet``, ``transformer`` or, of any CLIP, ``text_encoder``."""
    if getattr(getattr(model, "config", None), "model_type", None) == "clip_text_model":
        return "text_encoder"
    return "unet" if isinstance(model, UNet2DConditionModel) else "transformer"


def target_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name → layer of every Linear and Conv2d anywhere inside a block of the `TARGETS` classes.

    In the order of ``named_modules()``: block by block, and inside each its layers. A layer in two blocks, one
    inside the other, comes once, with the outer one. Layers that peft has wrapped come as they were before, under
    their own names.
    """
    blocks = TARGETS[component_of(model)]
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
    """Put a LoRA on a UNet, an SD3 transformer or a CLIP text encoder, and make it all that is trainable there.

    LoRAs that are on it stay active and are frozen: stages stack. Its weights are float32 whatever the model's are,
    and so is its part of the computation, unless autocast says otherwise.

    Args:
        alpha: the change is scaled by alpha / rank; else 1.
        dropout: on the input of `down`, in training. Recomputing a forward pass then needs the same random state.
        name: to tell several apart.
        layers: names of the layers; else `target_layers`.

    Returns:
        its parameters.

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
        # That there is another one already, which is the point of stacking.
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
    """W ← W + (alpha / r) · B A, and take the LoRAs off: the model computes the same as before, without them.

    The sum is made in float32 and rounded once to the dtype of W.

    Args:
        names: which; else all.

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
        recurse_remove_peft_layers(
            model
        )  # what diffusers' `unload_lora` does; transformers' models have none
        del model.peft_config
        model._hf_peft_config_loaded = False
    else:
        model.delete_adapters(list(names))


def combined(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, Pair]:
    """Several LoRAs as one of the sum of their ranks, and of scale 1 (`concatenated`): it gives exactly their sum.

    A single one keeps its factors; its scale is left out.
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
