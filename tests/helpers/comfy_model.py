"""A stand-in for ComfyUI's MODEL object, around a UNet or transformer of diffusers.

What it does was taken from ComfyUI's source by reading (commit a125cd8 of October 2025; `comfy/model_patcher.py`,
`samplers.py`, `ldm/modules/attention.py`, `ldm/modules/diffusionmodules/mmdit.py`):

- ``clone`` copies the options; patches of a clone are not on the original.
- An attn2 patch gets queries, keys' text, values' text and the options, with ``block`` = ("input", "middle" or
  "output", number) and ``sigmas``, and gives the first three back.
- A replaced double block gets {"img", "txt", "vec", "transformer_options"} and {"original_block"}, and gives {"img",
  "txt"}.
- A function wrapper gets ``apply_model`` and {"input", "timestep", "c", "cond_or_uncond"}.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

_CLASSES = {name: type(name, (), {}) for name in ("BaseModel", "SDXL", "SD3", "Flux")}
_OF_FAMILY = {"sd15": "BaseModel", "sdxl": "SDXL", "sd3": "SD3", "flux": "Flux"}
_STAGES = {"down": "input", "mid": "middle", "up": "output"}


class ComfyModel:
    """ComfyUI's ModelPatcher.

    Args:
        module: a UNet or SD3 transformer of diffusers.
        family: of it; ``flux`` for a model that nothing here knows.
    """

    def __init__(self, module: Any, family: str) -> None:
        self.module = module
        self.model = _CLASSES[_OF_FAMILY[family]]()
        if family == "sd3":
            network = SimpleNamespace(
                joint_blocks=module.transformer_blocks, context_embedder=module.context_embedder
            )
        else:
            network = SimpleNamespace(input_blocks=[]) if family != "flux" else SimpleNamespace()
        self.model.diffusion_model = network
        self.model_options: dict[str, Any] = {"transformer_options": {}}

    def clone(self) -> ComfyModel:
        other = copy.copy(self)
        other.model_options = copy.deepcopy(self.model_options)
        return other

    def get_model_object(self, name: str) -> Any:
        assert name == "model_sampling"
        return SimpleNamespace(timestep=lambda sigma: sigma * 1000)

    def set_model_attn2_patch(self, patch: Callable[..., Any]) -> None:
        self.model_options["transformer_options"].setdefault("attn2_patch", []).append(patch)

    def set_model_patch_replace(
        self, patch: Callable[..., Any], name: str, block_name: str, number: int
    ) -> None:
        self.model_options["transformer_options"].setdefault(name, {})[block_name, number] = patch

    def set_model_unet_function_wrapper(self, wrapper: Callable[..., Any]) -> None:
        self.model_options["model_function_wrapper"] = wrapper

    @torch.no_grad()
    def predict(self, given: dict[str, Any]) -> Tensor:
        """One call of the sampler; ``given`` are the arguments of the module of diffusers."""
        (time,) = set(given["timestep"].reshape(-1).tolist())  # all rows have one
        sigma = torch.full((2,), time / 1000)
        options = {**self.model_options["transformer_options"], "sigmas": sigma}
        args = {
            "input": given,
            "timestep": sigma,
            "c": {"transformer_options": options},
            "cond_or_uncond": [0, 1],
        }
        wrapper = self.model_options.get("model_function_wrapper")
        if wrapper is not None:
            return wrapper(self.apply_model, args)
        return self.apply_model(args["input"], args["timestep"], **args["c"])

    def apply_model(self, given: Any, sigma: Tensor, *, transformer_options: dict[str, Any]) -> Tensor:
        handles = [*self._attention(transformer_options), *self._blocks(transformer_options)]
        try:
            return self.module(**given)[0]
        finally:
            for handle in handles:
                handle.remove()

    def _attention(self, options: dict[str, Any]) -> list[Any]:
        def hook(block: tuple[str, int]) -> Callable[..., Any]:
            def patched(module: Any, args: Any, kwargs: Any) -> Any:
                keys = values = kwargs["encoder_hidden_states"]
                for patch in options["attn2_patch"]:
                    _, keys, values = patch(args[0], keys, values, {**options, "block": block})
                assert torch.equal(keys, values)  # diffusers has one text for both
                return args, {**kwargs, "encoder_hidden_states": keys}

            return patched

        if "attn2_patch" not in options:
            return []
        found = []
        for name, module in self.module.named_modules():
            if name.endswith("attn2"):
                stage = _STAGES[name.partition("_")[0]]
                found.append(module.register_forward_pre_hook(hook((stage, 0)), with_kwargs=True))
        return found

    def _blocks(self, options: dict[str, Any]) -> list[Any]:
        found = []
        for (_, number), patch in options.get("dit", {}).items():
            block = self.module.transformer_blocks[number]
            forward = type(block).forward

            def replaced(
                *_: Any, block: Any = block, forward: Any = forward, patch: Any = patch, **kw: Any
            ) -> Any:
                def original(args: dict[str, Any]) -> dict[str, Any]:
                    told = {**kw, "hidden_states": args["img"], "encoder_hidden_states": args["txt"]}
                    text, image = forward(block, **told)
                    return {"txt": text, "img": image}

                args = {
                    "img": kw["hidden_states"],
                    "txt": kw["encoder_hidden_states"],
                    "vec": kw["temb"],
                    "transformer_options": options,
                }
                out = patch(args, {"original_block": original})
                return out["txt"], out["img"]

            block.forward = replaced
            found.append(_Restore(block))
        return found


class _Restore:
    """Takes a block's own forward pass back."""

    def __init__(self, block: Any) -> None:
        self.block = block

    def remove(self) -> None:
        del self.block.forward
