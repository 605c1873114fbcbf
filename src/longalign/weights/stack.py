"""Pipelines with LoRA stages on them. Each stage was trained on top of the earlier ones, so their order matters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from longalign.backbones import backbone_of, denoising_module
from longalign.backbones.base import Pipeline
from longalign.diffusion.pipelines import ModelSettings, open_pipeline, settings_of
from longalign.encoding import T5Branch
from longalign.encoding.adapter import TextAdapter
from longalign.encoding.defaults import note_defaults
from longalign.errors import LongalignError
from longalign.runtime import quiet
from longalign.soft_tokens import loading as of_tokens
from longalign.weights import foreign_lora, lora, text_lora
from longalign.weights.encoding_note import recorded_encoding
from longalign.weights.factors import without
from longalign.weights.lora_file import LoraFile, resolve_lora, split_weight
from longalign.weights.lora_parts import read_parts
from longalign.worlds import DEFAULT, resolve_model


@dataclass(frozen=True)
class Stack:
    """A model, the weights that are added to it, and the encoding of its prompts. Settings of runs extend this class.

    Attributes:
        model: name as of `load_pipeline`.
        loras: LoRA stages in the order of their training.
        soft_tokens: trained soft text tokens: a file, the folder that holds one (such as a run folder of
            `longalign train`), or embedded ones. None: none.
        soft_token_scale, soft_token_branches: as in `longalign.soft_tokens.SoftTokens`.
        strategy: how prompts are encoded, as in `longalign.encode`; ``auto`` as in `strategy_for`.
        device, dtype: as in `load_pipeline`.
        check_base: refuse LoRAs that were trained on other weights.
    """

    model: str = DEFAULT
    loras: tuple[str, ...] = ()
    soft_tokens: str | None = None
    soft_token_scale: float = 1.0
    soft_token_branches: str = "both"
    strategy: str = "clip-cat"
    device: str = "auto"
    dtype: str = "auto"
    check_base: bool = True

    def load(self) -> Any:
        """The pipeline, with the LoRAs and the soft tokens on it.

        Raises:
            LongalignError: what `load_pipeline` refuses; soft tokens that are none, or of another backbone.
        """
        pipe = load_pipeline(
            self.model, device=self.device, dtype=self.dtype, loras=self.loras, check_base=self.check_base
        )
        if self.soft_tokens is not None:
            of_tokens.attach_tokens(
                pipe, self.soft_tokens, scale=self.soft_token_scale, branches=self.soft_token_branches
            )
        return pipe

    def t5_branch(self, pipe: Any) -> T5Branch | None:
        """The T5 branch for `pipe`, where the strategy asks for one."""
        return t5_branch(self.model, self.strategy, pipe, self.loras)

    def facts(self) -> dict[str, str]:
        """The LoRAs and the soft tokens in words, for reports; empty where there are none."""
        facts = {}
        if self.loras:
            facts["LoRA"] = " + ".join(self.loras)
        if self.soft_tokens:
            facts["soft tokens"] = of_tokens.describe_tokens(
                self.soft_tokens, self.soft_token_scale, self.soft_token_branches
            )
        return facts


def load_pipeline(
    name: str = DEFAULT,
    *,
    device: str = "auto",
    dtype: str = "auto",
    loras: Sequence[str | os.PathLike[str] | tuple[str | os.PathLike[str], float]] = (),
    check_base: bool = True,
    fuse: bool | None = None,
) -> Any:
    """Load a diffusers pipeline onto its device, without progress bars, with weights from safetensors only.

    Args:
        name: an embedded model such as ``stickers``, a folder, or a hub name.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        dtype: ``auto`` (float16 on CUDA, else float32), ``float32``, ``float16`` or ``bfloat16``.
        loras: LoRA stages in the order of their training: folders that `longalign train` wrote, files of kohya, A1111,
            diffusers or peft, ``stickers/…``; each with or without a weight: ``"FILE:0.7"`` or ``("FILE", 0.7)``.
            `t5_branch` loads text adapters in them.
        check_base: refuse a LoRA that was trained on other weights.
        fuse: True: add the LoRAs to the weights, so that sampling takes no longer. False: leave them as layers of their
            own. None: True, except in bfloat16, whose weights are too coarse for small changes.

    Raises:
        LongalignError: the folder is no pipeline or lacks a part (which is named), the hub has no such model, or a
            LoRA cannot be read or belongs to another model.
    """
    pipe = open_pipeline(name, device=device, dtype=dtype)
    names: list[str] = []
    if loras:
        loras = [loras] if isinstance(loras, (str, os.PathLike)) else loras
        names = [f"{os.fspath(f[0])}:{f[1]}" if isinstance(f, tuple) else os.fspath(f) for f in loras]
        put_on(pipe, names, check_base=check_base, base_name=name)
        module = denoising_module(pipe)
        if fuse if fuse is not None else module.dtype != torch.bfloat16:
            for part in (module, *text_lora.clips_of(pipe).values()):
                if lora.attached(part):
                    lora.merge(part)
    if noted := recorded_encoding(names) or settings_of(name).encoding():
        note_defaults(pipe, noted)
    return pipe


def strategy_for(strategy: str, loras: Sequence[str | os.PathLike[str]] = (), otherwise: str = "auto") -> str:
    """A text encoding's name; of ``auto`` what the last LoRA that says so was trained with, else ``otherwise``.

    Args:
        strategy: of `longalign.encode`.
        loras: stages on the model, as for `load_pipeline`.
        otherwise: where no LoRA says anything.
    """
    if strategy != "auto":
        return strategy
    return str(recorded_encoding(loras).get("strategy", otherwise))


def encoding_for(
    stack: Stack, settings: ModelSettings, segments: str = "auto", length: int | None = None
) -> tuple[str, str, int]:
    """Strategy, segments and padded length for prompts on a stack.

    What is ``auto`` or None is what the last LoRA that says so was trained with; else what the model's folder says;
    else the defaults: strategy ``auto``, ``sentence``, the model's length.

    Args:
        settings: of the model.
        segments, length: as the user gave them.
    """
    strategy = stack.strategy
    noted: dict[str, Any] = {}
    if strategy == "auto":
        noted = recorded_encoding(stack.loras) or settings.encoding()
        strategy = str(noted.get("strategy", "auto"))
    if segments == "auto":
        segments = str(noted.get("segments", "sentence"))
    return strategy, segments, length or noted.get("length") or settings.length


def t5_branch(model: str, strategy: str, pipe: Any, loras: Sequence[str] = ()) -> T5Branch | None:
    """The T5 branch beside a model, on its pipeline's device, where the strategy asks for one.

    Args:
        loras: stages on the model; the last text adapter that was trained with one of them replaces the model's.
    """
    if "t5" not in strategy:
        return None
    with quiet():
        branch = T5Branch.from_pretrained(resolve_model(model), dtype=pipe.dtype, device=pipe.device)
    if not loras:
        return branch
    adapter = text_adapter(loras)
    if adapter is None:
        return branch
    return T5Branch(branch.tokenizer, branch.encoder, adapter.to(pipe.device, pipe.dtype))


def put_on(pipe: Pipeline, names: Sequence[str], *, check_base: bool = True, base_name: str = "") -> None:
    """Load LoRAs onto a pipeline's backbone in order, under the names ``stage_0``, ``stage_1``, …, as in training.

    Some stages were trained after the earlier ones had been merged into the weights (LongAlign's released ones). Their
    base is the merged model, so the earlier stages are merged for them.

    Args:
        names: LoRA folders, files or `stickers/…`, in the order of training, each with or without a weight
            (``FILE:0.7``). Files of other tools are read by diffusers (`longalign.weights.foreign_lora`).
        check_base: refuse a LoRA of other weights, one that lacks an earlier stage, and one that contains an earlier
            stage already.
        base_name: name of the model in messages.

    Raises:
        LongalignError: as in `longalign.weights.lora.load`; or the order of the stages is wrong.
    """
    module, component = denoising_module(pipe), backbone_of(pipe).component
    files: list[LoraFile] = []
    for number, name in enumerate(names):
        if foreign_lora.is_dora(resolve_lora(name)):
            foreign_lora.merge_dora(pipe, resolve_lora(name), split_weight(name)[1], base_name)
            continue
        parts = read_parts(name, pipe, base_name)
        if (file := parts.pop(component, None)) is not None:
            if check_base:
                _check_place(name, file, files, names)
                _check_base(name, replace(file, stacked_on=()), module, base_name)
            lora.put(module, file, name, name=f"stage_{number}", check_base=False)
            files.append(file)
        text_lora.put_text(pipe, parts, name, f"stage_{number}", check_base=check_base, base_name=base_name)


def check_order(names: Sequence[str], files: Sequence[LoraFile]) -> None:
    """Raises LongalignError: a stage lacks an earlier one, or contains an earlier one already (both are named)."""
    for number, (name, file) in enumerate(zip(names, files, strict=True)):
        _check_place(name, file, files[:number], names)


def text_adapter(names: Sequence[str]) -> TextAdapter | None:
    """The text adapter of the last stage that has one, or None."""
    found = [adapter for name in names if (adapter := lora.load_text_adapter(name)) is not None]
    return found[-1] if found else None


def _check_place(name: str, file: LoraFile, earlier: Sequence[LoraFile], names: Sequence[str]) -> None:
    if (wanted := len(file.stacked_on)) > len(earlier):
        raise LongalignError(
            f"{name}: was trained on top of {wanted} other LoRA{'s' * (wanted > 1)} ({', '.join(file.stacked_on)}) and "
            "does not work without them: name them before it"
        )
    for number, before in enumerate(earlier):
        if any(without(file, group) is not None for group in ([before], earlier[: number + 1])):
            raise LongalignError(
                f"{name}: contains {names[number]} already, which would be added twice: leave {names[number]} out"
            )


def _check_base(name: str, file: LoraFile, module: Any, base_name: str) -> None:
    try:
        lora.refuse_other_base(file, module, name, base_name)
    except LongalignError as of_bare_base:
        if not lora.attached(module):
            raise
        lora.merge(module)
        try:
            lora.refuse_other_base(file, module, name, base_name)
        except LongalignError:
            raise of_bare_base from None
