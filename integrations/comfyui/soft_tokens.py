"""SoftREPA's soft tokens on a ComfyUI MODEL, by ComfyUI's own patches.

ComfyUI runs its own UNet and MMDiT, not those of diffusers, so the hooks of `longalign.soft_tokens` do not fit. Its
patches stand at the same places:

    UNet    attn2 patch, in the blocks of the chosen stages:  text [y_0, y_1, …] → [y_0, s_1(t), …, s_n(t), y_1, …]
    SD3     around double block k < L:                        text [y_0, y_1, …] → [s_k1(t), …, s_kn(t), y_0, y_1, …]
            after it:                                         the first n rows of the text stream are removed

A scale s below 1 runs the model twice: (1 − s)·f(without tokens) + s·f(with them). ComfyUI's denoised picture is linear
in the prediction, so the pictures are mixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.soft_tokens import SoftTokens

_OFF = "longalign_no_soft_tokens"  # in transformer_options: this call is the one without tokens
_STAGES = {"input": "down", "middle": "mid", "output": "up"}  # ComfyUI's names of a UNet's blocks → ours
_TITLES = {"sd15": "SD 1.x or 2.x", "sdxl": "SDXL", "sd3": "SD3"}


def family_of(model: Any) -> str | None:
    """Backbone of a ComfyUI MODEL as `longalign.backbones` names it, or None for any other.

    Args:
        model: the object that a MODEL output of a ComfyUI node holds.
    """
    inner = model.model
    network = inner.diffusion_model
    bases = {base.__name__ for base in type(inner).__mro__}
    if hasattr(network, "joint_blocks") and "SD3" in bases:
        return "sd3"
    if "SDXL" in bases:
        return "sdxl"
    has_text = type(inner).__name__ in ("BaseModel", "SD21UNCLIP", "SD15_instructpix2pix")
    return "sd15" if has_text and hasattr(network, "input_blocks") else None


def with_soft_tokens(model: Any, tokens: SoftTokens, scale: float = 1.0) -> Any:
    """A clone of a ComfyUI MODEL that sees the tokens. The model itself stays as it was.

    Args:
        model: the object that a MODEL output of a ComfyUI node holds.
        tokens: for the model's backbone.
        scale: from 0 (as if there were none) to 1.

    Raises:
        LongalignError: the tokens are for another backbone or another width, or the scale lies outside.
    """
    tokens.scale = scale  # which checks it
    config = tokens.config
    family = family_of(model)
    if family != config.backbone:
        raise LongalignError(
            f"these soft tokens are for {_TITLES[config.backbone]}, and the model is "
            f"{_TITLES.get(family or '', type(model.model).__name__)}"
        )
    clone = model.clone()
    sampling = clone.get_model_object("model_sampling")

    def states(options: dict[str, Any], text: Tensor, layer: int = 0, embed: Any = None) -> Tensor:
        """(B, n, D) the tokens at the time of this call. All rows of a call of ComfyUI have one time."""
        times = sampling.timestep(options["sigmas"][:1]).to(text.device)
        tokens.to(text.device)
        with torch.no_grad():
            return tokens(times, layer, embed).to(text).expand(len(text), -1, -1)

    if config.places.joint:
        _patch_blocks(clone, tokens, states)
    else:
        _patch_attention(clone, tokens, states)
    if scale < 1:
        _run_twice(clone, scale)
    return clone


def _patch_attention(model: Any, tokens: SoftTokens, states: Callable[..., Tensor]) -> None:
    config = tokens.config

    def patch(
        n: Tensor, keys: Tensor, values: Tensor, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        if options.get(_OFF) or _STAGES.get(options["block"][0]) not in config.stages:
            return n, keys, values
        if keys.shape[-1] != config.width:
            raise LongalignError(
                f"these soft tokens are {config.width} wide, and the model reads text of {keys.shape[-1]}: they are "
                "for another model"
            )
        own = states(options, keys)
        return n, _inserted(keys, own), _inserted(values, own)

    model.set_model_attn2_patch(patch)


def _inserted(text: Tensor, own: Tensor) -> Tensor:
    return torch.cat([text[:, :1], own, text[:, 1:]], dim=1)  # (B, L + n, D)


def _patch_blocks(model: Any, tokens: SoftTokens, states: Callable[..., Tensor]) -> None:
    network = model.model.diffusion_model
    config = tokens.config
    if config.layers > len(network.joint_blocks):
        raise LongalignError(
            f"soft tokens for {config.layers} blocks, and this model has {len(network.joint_blocks)}"
        )

    def around(layer: int) -> Callable[..., dict[str, Any]]:
        def replace(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            options, text = args["transformer_options"], args["txt"]
            if options.get(_OFF) or text is None:
                return extra["original_block"](args)
            if text.shape[-1] != config.width:
                raise LongalignError(
                    f"these soft tokens are {config.width} wide, and the model's text stream is {text.shape[-1]}: "
                    "they are for another model"
                )
            own = states(options, text, layer, network.context_embedder)
            out = extra["original_block"]({**args, "txt": torch.cat([own, text], dim=1)})
            text = out["txt"]  # None behind the last block
            return {**out, "txt": None if text is None else text[:, config.count :]}

        return replace

    for layer in range(config.layers):
        model.set_model_patch_replace(around(layer), "dit", "double_block", layer)


# f = (1 − s)·f(without tokens) + s·f(with them)
def _run_twice(model: Any, scale: float) -> None:
    before = model.model_options.get("model_function_wrapper")

    def run(apply: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        if before is not None:
            return before(apply, args)
        return apply(args["input"], args["timestep"], **args["c"])

    def wrapper(apply: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        conditions = args["c"]
        options = {**conditions.get("transformer_options", {}), _OFF: True}
        without = run(apply, {**args, "c": {**conditions, "transformer_options": options}})
        return (1 - scale) * without + scale * run(apply, args) if scale else without

    model.set_model_unet_function_wrapper(wrapper)
