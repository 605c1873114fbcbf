"""LoRA stages onto a pipeline, in order: each on what the earlier ones left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from longalign import lora
from longalign.adapter import TextAdapter
from longalign.checkpoints.lora_file import LoraFile
from longalign.errors import LongalignError
from longalign.pipelines import resolve_lora
from longalign.stages.factors import without


def backbone(pipe: Any) -> Any:
    """The UNet or transformer of a diffusers pipeline.

    Raises:
        LongalignError: it has neither.
    """
    for name in ("unet", "transformer"):
        if (module := getattr(pipe, name, None)) is not None:
            return module
    raise LongalignError(f"{type(pipe).__name__} has no UNet and no transformer for a LoRA")


def put_on(pipe: Any, names: Sequence[str], *, check_base: bool = True, base_name: str = "") -> None:
    """Load LoRAs onto a pipeline's backbone, one over the other, as ``stage_0``, ``stage_1``, … (as training does).

    A stage that was trained after the earlier ones had been merged into the weights (LongAlign's released ones) has the
    merged model for its base: they are merged then.

    Args:
        names: LoRA folders, files or `stickers/…`, in the order of training.
        check_base: refuse a LoRA of other weights, one that lacks an earlier stage, and one that has it in it already.
        base_name: what to call the model in messages.

    Raises:
        LongalignError: as in `longalign.lora.load`; or a stage out of place.
    """
    module = backbone(pipe)
    files: list[LoraFile] = []
    for number, name in enumerate(names):
        file = LoraFile.read(resolve_lora(name))
        if check_base:
            _check_place(name, file, files, names)
            _check_base(name, replace(file, stacked_on=()), module, base_name)
        lora.put(module, file, name, name=f"stage_{number}", check_base=False)
        lora.load_text(pipe, name, name=f"stage_{number}", check_base=check_base, base_name=base_name)
        files.append(file)


def check_order(names: Sequence[str], files: Sequence[LoraFile]) -> None:
    """Raises LongalignError: a stage lacks an earlier one, or has it in it already (both are named)."""
    for number, (name, file) in enumerate(zip(names, files, strict=True)):
        _check_place(name, file, files[:number], names)


def text_adapter(names: Sequence[str]) -> TextAdapter | None:
    """The text adapter of the last stage that has one; None where none has."""
    found = [adapter for name in names if (adapter := lora.load_text_adapter(name)) is not None]
    return found[-1] if found else None


def _check_place(name: str, file: LoraFile, earlier: Sequence[LoraFile], names: Sequence[str]) -> None:
    if (wanted := len(file.stacked_on)) > len(earlier):
        raise LongalignError(
            f"{name}: was trained on top of {wanted} other LoRA{'s' * (wanted > 1)} ({', '.join(file.stacked_on)}) and "
            "means nothing alone: name what it was trained on before it"
        )
    for number, before in enumerate(earlier):
        if any(without(file, group) is not None for group in ([before], earlier[: number + 1])):
            raise LongalignError(
                f"{name}: has {names[number]} in it already, which would count twice: leave {names[number]} out"
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
