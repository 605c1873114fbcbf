"""Soft tokens in a model by hooks: without a subclass or a copy of a forward pass.

All state of a call (its time, whether it has tokens) is an argument. It travels in the dictionary of attention
arguments that diffusers passes to every block, and is removed before an attention layer reads it. So gradient
checkpointing may run a block again at any time: the block finds the time of its own call.

    UNet    before each block of the chosen stages:  text [y_0, y_1, …] → [y_0, s_1(t), …, s_n(t), y_1, …]
    SD3     before block k < L:                      text [y_0, y_1, …] → [s_k1(t), …, s_kn(t), y_0, y_1, …]
            after it:                                the first n rows of the text stream are removed
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from longalign.backbones import backbone_of
from longalign.errors import LongalignError
from longalign.soft_tokens.config import Rows, Stage

_KEY = "longalign_soft_tokens"  # in the attention arguments
_PLACE = "_longalign_soft_tokens"  # attribute of the model

Arguments = dict[str, Any]
Hooked = tuple[tuple[()], Arguments] | None  # what a forward pre-hook returns


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of the model.

    Attributes:
        t: (1,) or (B,) times.
        scale: s.
        rows: (B,) true for the rows that get tokens, or None for all.
        plain: the original arguments, if the prediction without tokens is needed, too; else None.
    """

    t: Tensor
    scale: float
    rows: Tensor | None
    plain: Arguments | None


class Attachment:
    """Tokens on a model, until `detach` or the end of a ``with`` block. `SoftTokens.attach` makes it.

    Args:
        tokens: the `SoftTokens`.
        module: the UNet or SD3 transformer.
    """

    def __init__(self, tokens: Any, module: Any) -> None:
        module = getattr(module, "_orig_mod", module)  # torch.compile's wrapper
        config = tokens.config
        config.check(module)
        if getattr(module, _PLACE, None) is not None:
            raise LongalignError("this model has soft tokens already: detach them first")
        self.tokens = tokens
        self.module = module
        backbone, places = backbone_of(module), config.places
        self._carrier, self._latents = places.attention_arguments, places.latents
        if module.device.type != "meta":
            tokens.to(module.device)
        self._handles: list[Any] = [
            module.register_forward_pre_hook(self._before(arguments_of(module)), with_kwargs=True),
            module.register_forward_hook(self._after, with_kwargs=True),
        ]
        if places.joint:
            self._hook_transformer(backbone.token_blocks(module), config.layers)
        else:
            for stage in get_args(Stage):
                for block in backbone.token_blocks(module, stage):
                    self._hook_unet_block(block, stage in config.stages)
        setattr(module, _PLACE, self)
        forget_compiled()

    def detach(self) -> None:
        """Remove the tokens from the model."""
        if self._handles:
            for handle in self._handles:
                handle.remove()
            self._handles = []
            delattr(self.module, _PLACE)
            forget_compiled()
            self.tokens.detach()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def _before(self, named: Callable[..., Arguments]) -> Callable[..., Hooked]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> Hooked:
            tokens, values = self.tokens, named(args, kwargs)
            latents = values[self._latents]
            rows = tokens.affected(len(latents)) if tokens.scale else False
            if rows is False:
                return None
            mask = rows.to(latents.device) if isinstance(rows, Tensor) else None
            # A forward pass may empty the lists and dictionaries among its arguments, so each of the two runs gets
            # its own.
            call = _Call(
                t=torch.as_tensor(values["timestep"], device=latents.device).reshape(-1),
                scale=tokens.scale,
                rows=mask,
                plain=_copied(values) if mask is not None or tokens.scale < 1 else None,
            )
            told = values.get(self._carrier) or {}
            return (), {**_copied(values), self._carrier: {**told, _KEY: call}}

        return hook

    # f = (1 − s)·f(without tokens) + s·f(with them)
    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: Arguments, output: Any) -> Any:
        call = _call(kwargs, self._carrier)
        if call is None or call.plain is None:
            return None
        # `forward` skips the model's own hooks; the hooks of its blocks do nothing without a call among the arguments.
        without = module.forward(**call.plain)[0]  # (B, C, h, w)
        f = output[0]
        if call.scale < 1:
            f = (1 - call.scale) * without + call.scale * f
        if call.rows is not None:
            f = torch.where(call.rows.reshape(-1, 1, 1, 1), f, without)
        return (f, *output[1:]) if isinstance(output, tuple) else type(output)(sample=f)

    def _hook_unet_block(self, block: nn.Module, chosen: bool) -> None:
        named = arguments_of(block)

        def insert(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> Hooked:
            values = named(args, kwargs)
            call = _call(values, self._carrier)
            if call is None:
                return None
            values = _without_call(values, self._carrier)
            if chosen:
                text = values["encoder_hidden_states"]
                own, *others = (
                    text if isinstance(text, tuple) else (text,)
                )  # an IP-Adapter's images beside it
                own = torch.cat([own[:, :1], self._states(call, own), own[:, 1:]], dim=1)  # (B, L + n, D)
                values["encoder_hidden_states"] = (own, *others) if isinstance(text, tuple) else own
                bias = values.get("encoder_attention_mask")  # (B, 1, L), 0 where text counts
                if bias is not None:
                    seen = bias.new_zeros(*bias.shape[:-1], self.tokens.config.count)
                    bias = torch.cat([bias[..., :1], seen, bias[..., 1:]], dim=-1)
                    values["encoder_attention_mask"] = bias
            return (), values

        self._handles.append(block.register_forward_pre_hook(insert, with_kwargs=True))

    def _hook_transformer(self, blocks: Sequence[Any], layers: int) -> None:
        for k, block in enumerate(blocks):
            if k < layers:
                prepend, remove = self._around_block(k, arguments_of(block))
                self._handles += [
                    block.register_forward_pre_hook(prepend, with_kwargs=True),
                    block.register_forward_hook(remove, with_kwargs=True),
                ]
            # The block's own hooks need the call before and after the block, so the attention layers below remove it.
            for attention in (block.attn, getattr(block, "attn2", None)):
                if attention is not None:
                    self._handles.append(attention.register_forward_pre_hook(_take_out, with_kwargs=True))

    def _around_block(
        self, k: int, named: Callable[..., Arguments]
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        def prepend(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> Hooked:
            values = named(args, kwargs)
            call = _call(values, self._carrier)
            if call is None:
                return None
            text = values["encoder_hidden_states"]  # (B, L, D)
            own = self._states(call, text, k, self.module.context_embedder)
            return (), {**values, "encoder_hidden_states": torch.cat([own, text], dim=1)}

        def remove(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments, output: Any) -> Any:
            text, image = output
            if _call(kwargs, self._carrier) is None or text is None:  # the last block gives back no text
                return None
            return text[:, self.tokens.config.count :], image

        return prepend, remove

    def _states(self, call: _Call, text: Tensor, layer: int = 0, embed: nn.Module | None = None) -> Tensor:
        """The tokens (B, n, D), on the device and in the precision of text states (B, L, D)."""
        return self.tokens(call.t, layer, embed).to(text).expand(len(text), -1, -1)


def attached(module: Any) -> Any:
    """The `SoftTokens` on a module (a UNet or transformer), or None."""
    attachment = getattr(module, _PLACE, None)
    return None if attachment is None else attachment.tokens


def branch(module: Any, rows: Rows) -> AbstractContextManager[None]:
    """`SoftTokens.branch` of the tokens on a module; nothing where there are none.

    Args:
        module: the UNet or transformer.
        rows: which rows of a batch are conditional, as in `SoftTokens.branch`.
    """
    tokens = attached(module)
    return nullcontext() if tokens is None else tokens.branch(rows)


def arguments_of(module: nn.Module) -> Callable[..., Arguments]:
    """Arguments of a module's forward pass by name, whether they are given by name or by place."""
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    return lambda args, kwargs: {**dict(zip(names, args, strict=False)), **kwargs}


def _call(values: Mapping[str, Any], carrier: str) -> _Call | None:
    return (values.get(carrier) or {}).get(_KEY)


def _without_call(values: Arguments, carrier: str) -> Arguments:
    return {**values, carrier: {k: v for k, v in values[carrier].items() if k != _KEY} or None}


def _take_out(
    module: nn.Module, args: tuple[Any, ...], kwargs: Arguments
) -> tuple[tuple[Any, ...], Arguments]:
    return args, {k: v for k, v in kwargs.items() if k != _KEY}


def _copied(values: Arguments) -> Arguments:
    return {k: v.copy() if isinstance(v, (list, dict)) else v for k, v in values.items()}


def forget_compiled() -> None:
    """Drops compiled code: torch.compile does not check hooks, so old code would run with the wrong ones."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
