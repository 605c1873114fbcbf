"""Joins several LoRA stages into one LoRA, exactly or of a lower rank, or adds them to a model's weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from longalign.backbones import backbone_of, denoising_module
from longalign.diffusion.pipelines import open_pipeline
from longalign.errors import LongalignError
from longalign.report import Table
from longalign.versions import VERSION
from longalign.weights import lora, text_lora
from longalign.weights.convert import new_folder
from longalign.weights.encoding_note import note_encoding, recorded_encoding
from longalign.weights.factors import added, truncated
from longalign.weights.fingerprint import Fingerprint
from longalign.weights.lora_file import TEXT_ENCODERS, LoraFile, Pair
from longalign.weights.lora_parts import changed_parts, read_parts
from longalign.weights.model_card import write_card
from longalign.weights.stack import (
    check_order,
    load_pipeline,
    text_adapter,
)
from longalign.weights.text_adapter import write_text_adapter
from longalign.weights.whole_model import save_whole

KINDS = (
    ("self-attention", r"\.attn1\."),
    ("cross-attention", r"\.attn2\."),
    ("attention", r"\.attn\."),
    ("feed-forward", r"\.ff(_context)?\."),
    ("time embedding", r"time_emb"),
    ("convolution", r"\.conv"),
)
ALL = "all"


@dataclass(frozen=True)
class Merged:
    """The result of a merge.

    Attributes:
        out: the folder that was written.
        rank: rank of the LoRA; 0 if the LoRAs were added to a model's weights.
        errors: kind of layer → |ΔW − kept|_F / |ΔW|_F over all layers of that kind, `ALL` last; empty if the result
            is exact.
    """

    out: Path
    rank: int
    errors: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {"folder": str(self.out), "rank": self.rank, "relative_error": self.errors}

    def table(self) -> Table:
        rows = [[kind, f"{error:.2%}"] for kind, error in self.errors.items()]
        return Table(
            f"Error of rank {self.rank}",
            ["layers", "relative error"],
            rows,
            note="|ΔW − kept| / |ΔW|, Frobenius norms over all layers of the kind.",
        )


def merge_loras(
    names: Sequence[str],
    out: str | os.PathLike[str],
    *,
    rank: int | None = None,
    base: str | None = None,
    check_base: bool = True,
) -> Merged:
    """Write several stacked LoRAs of one model as one: the sum of their changes, with the first one's base.

    The text adapter of the last stage that has one is copied, too. LoRAs of text encoders are added exactly.


    Args:
        names: LoRA folders, files or `stickers/…`, in the order of training.
        out: folder to write; it must be empty or not exist.
        rank: rank of the result, by truncated SVD in every layer; None keeps the sum of the ranks, which is exact.
        base: the model, to check the stack on it. It is needed if a later stage was trained after the earlier ones had
            been merged.
        check_base: refuse LoRAs of different models, and stages in the wrong order.

    Raises:
        LongalignError: `check_base` finds a fault; a name is not a LoRA; the folder is not empty; or the disk refuses.
    """
    if rank is not None and rank < 1:
        raise LongalignError(f"the rank of a LoRA must be at least 1, not {rank}")
    pipe = None if base is None else open_pipeline(base, device="cpu", dtype="float32")
    parts = [read_parts(name, pipe, base or "") for name in names]
    files = [_of_backbone(of_name, name) for of_name, name in zip(parts, names, strict=True)]
    if len({f.component for f in files}) != 1:
        raise LongalignError("LoRAs of a UNet and of a transformer cannot be joined")
    of = next((f.base for f in files if f.base), None)
    if check_base:
        check_order(names, files)
        if base is not None:
            load_pipeline(base, device="cpu", dtype="float32", loras=names, fuse=False)
            of = files[0].base
        else:
            _check_same_base(names, files)
    total = sum(f.rank for f in files)
    layers = added(files)
    errors: dict[str, float] = {}
    if rank is not None and rank < total:
        layers, errors = reduced(layers, rank)
    # All factors get one dtype, the most precise of the inputs.
    kind = reduce(torch.promote_types, (t.dtype for pair in layers.values() for t in pair))
    pairs = {name: Pair(*(t.to(kind) for t in pair)) for name, pair in layers.items()}
    merged = LoraFile(pairs, files[0].component, base=of, stacked_on=files[0].stacked_on)
    with new_folder(Path(out)) as folder:
        merged.write(folder)
        if (adapter := text_adapter(names)) is not None:
            write_text_adapter(adapter, folder / lora.ADAPTER_FOLDER)
        for encoder in TEXT_ENCODERS:
            of_text = [of_name[encoder] for of_name in parts if encoder in of_name]
            if of_text:
                LoraFile(added(of_text), of_text[0].component, base=of_text[0].base).write(folder / encoder)
        note_encoding(folder, **recorded_encoding(names))
        write_card(folder, base_name=base or "", made=f"{len(names)} LoRAs, merged by longalign {VERSION}.")
    return Merged(Path(out), merged.rank, errors)


def merge_into(
    names: Sequence[str],
    model: str,
    out: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    check_base: bool = True,
) -> Merged:
    """Write a whole pipeline folder with the LoRAs added to its weights.

    Other files of a local folder (its settings, a T5 branch) are copied. The text adapter of the last stage that has
    one replaces the model's.

    Args:
        model: ``stickers``, a folder, or a hub name.
        out: folder to write; it must be empty or not exist.
        dtype: dtype of the backbone's weights; other parts of a local folder are not changed.

    Raises:
        LongalignError: as `longalign.weights.stack.load_pipeline`; or the folder is not empty, or the disk refuses.
    """
    pipe = load_pipeline(model, device="cpu", dtype="float32", loras=names, check_base=check_base, fuse=True)
    pipe.to(dtype=getattr(torch, dtype))
    trained = {backbone_of(pipe).component: denoising_module(pipe)}
    if (adapter := text_adapter(names)) is not None:
        trained[lora.ADAPTER_FOLDER] = adapter
    changed = {component for name in names for component in changed_parts(name)}
    trained |= {encoder: clip for encoder, clip in text_lora.clips_of(pipe).items() if encoder in changed}
    with new_folder(Path(out)) as folder:
        save_whole(pipe, model, trained, folder)
        if noted := recorded_encoding(names):
            note_encoding(folder, **noted)
    return Merged(Path(out), 0, {})


def _of_backbone(parts: Mapping[str, LoraFile], name: str) -> LoraFile:
    found = [file for component, file in parts.items() if component not in TEXT_ENCODERS]
    if not found:
        raise LongalignError(f"{name}: changes text encoders alone, so it cannot be joined with other LoRAs")
    return found[0]


def reduced(layers: dict[str, Pair], rank: int) -> tuple[dict[str, Pair], dict[str, float]]:
    """Every layer `truncated` to a rank, and the relative error for each kind of layer (`Merged.errors`)."""
    found: dict[str, Pair] = {}
    squares: dict[str, list[float]] = {}
    for name, pair in layers.items():
        found[name], sigma = truncated(pair, rank)
        for kind in (kind_of(name), ALL):
            lost, whole = squares.setdefault(kind, [0.0, 0.0])
            squares[kind] = [lost + float((sigma[rank:] ** 2).sum()), whole + float((sigma**2).sum())]
    squares[ALL] = squares.pop(ALL)  # the last
    return found, {kind: (lost / whole) ** 0.5 if whole else 0.0 for kind, (lost, whole) in squares.items()}


def kind_of(layer: str) -> str:
    """The kind of a UNet's or transformer's layer, by its name: one of `KINDS`, or ``other``."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, f".{layer}.")), "other")


def _check_same_base(names: Sequence[str], files: Sequence[LoraFile]) -> None:
    known: list[tuple[str, Fingerprint]] = [
        (n, f.base) for n, f in zip(names, files, strict=True) if f.base is not None
    ]
    for name, base in known[1:]:
        first_name, first = known[0]
        if base.sha256 != first.sha256:
            raise LongalignError(
                f"{name} belongs to the base {base}, and {first_name} to {first}. If these differ by rounding alone, "
                f"or {name} was trained after merging {first_name} into the weights, name the model (--base), and the "
                "stack is checked on it"
            )
