"""`longalign import` and `longalign export` as functions: published files ↔ folders that diffusers reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from longalign.backbones import backbone_of, denoising_module
from longalign.diffusion.pipelines import open_pipeline
from longalign.errors import LongalignError
from longalign.plugins import unknown
from longalign.published import how_to_get
from longalign.runs import atomic_folder
from longalign.safe_files import read_pickle
from longalign.versions import VERSION
from longalign.weights import (
    clip_folder,
    longsd,
    lora,
    named_lora,
    text_adapter,
)
from longalign.weights import (
    published_tokens as soft_tokens,
)
from longalign.weights.encoding_note import RELEASED, note_encoding
from longalign.weights.fingerprint import Fingerprint, fingerprint
from longalign.weights.foreign_lora import read_foreign
from longalign.weights.lora_file import FILE_NAME, LoraFile, resolve_lora
from longalign.weights.lora_parts import read_parts, write_parts
from longalign.weights.model_card import write_card
from longalign.weights.stack import load_pipeline
from longalign.weights.text_lora import clips_of

PICKLES = (".pt", ".pth")
FORMATS = ("diffusers", "kohya", "longsd")
KNOWN = (
    "a .pt list of LoRA matrices (longSD), a folder with it and its adapter, an adapter folder, a LoRA of kohya, "
    "A1111, diffusers or peft (.safetensors), a CLIPModel folder (Denscore), a folder with dc_tokens.pth (SoftREPA)"
)


@dataclass(frozen=True)
class Converted:
    """The result of an import or export.

    Attributes:
        kind: ``lora``, ``adapter``, ``clip`` or ``soft-tokens``.
        files: the files that were written.
        facts: properties of the weights, such as rank and number of layers.
    """

    kind: str
    files: Sequence[Path]
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "files": [str(f) for f in self.files], **self.facts}


def import_checkpoint(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    base: str | None = None,
    after: Sequence[str | os.PathLike[str]] = (),
    adapter: str | os.PathLike[str] | None = None,
) -> Converted:
    """Read a published checkpoint safely, check it against its model, and write it as safetensors.

    Args:
        source: a file or folder of a format that `KNOWN` lists.
        out: folder to write; it must be empty or not exist. It is written whole or not at all.
        base: the LoRA's model. Its fingerprint is written into the file, so that loading refuses any other model. None:
            the shapes are checked against SD1.5's, and no fingerprint is written.
        after: LoRA folders that were merged into `base` before this one was trained, in this order.
        adapter: folder of the text adapter that belongs to a LoRA. None: the one beside it in `source`, if any.

    Raises:
        LongalignError: the format is unknown; the file holds code, is damaged, or has wrong shapes (the layer is
            named); or the disk refuses.
    """
    source, out = Path(source), Path(out)
    kind, path, beside = _recognise(source)
    adapter = Path(adapter) if adapter is not None else beside
    if kind not in ("lora", "foreign-lora") and (base or after):
        raise LongalignError(f"{source}: only a LoRA has a base")
    if kind == "foreign-lora" and (after or base is None):
        raise LongalignError(
            f"{source}: this LoRA is read with its model: name it by --base"
            + (" (without --after: it was trained on that model)" if after else "")
        )
    if after and not base:
        raise LongalignError("LoRAs that were merged before (--after) need the name of their base (--base)")
    with new_folder(out) as folder:
        if kind == "lora":
            facts = _import_lora(path, folder, base, after)
            strategy = "clip-cat" if adapter is None else "clip+t5"
            note_encoding(folder, strategy=f"{strategy}:pad_star=released", **RELEASED)
        elif kind == "foreign-lora" and base is not None:
            facts = _import_foreign(path, folder, base)
        elif kind == "soft-tokens":
            tokens = soft_tokens.read_published(path)
            tokens.save(folder)
            facts = {
                "backbone": tokens.config.backbone,
                "tokens": list(tokens.tokens.shape),
                "time buckets": tokens.config.buckets,
                "parameters": sum(p.numel() for p in tokens.parameters()),
            }
        elif kind == "clip":
            facts = clip_folder.copy(path, folder)
        else:
            facts, adapter = {}, path
        if adapter is not None:
            trained = text_adapter.read_text_adapter(adapter)
            text_adapter.write_text_adapter(
                trained, folder / lora.ADAPTER_FOLDER if kind == "lora" else folder
            )
            facts = {**facts, "adapter": [trained.config[key] for key in text_adapter.SIZES]}
        write_card(
            folder, base_name=base or "", made=f"Imported from `{source.name}` by longalign {VERSION}."
        )
    return Converted(kind, sorted(p for p in out.rglob("*") if p.is_file()), facts)


def export_lora(
    name: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    base: str | None = None,
    form: str | None = None,
) -> Converted:
    """Write a LoRA in a format of other tools.

    Args:
        name: a LoRA folder, a run folder of `longalign train`, or an embedded name; with a weight or without.
        out: the file to write. A text adapter is written beside it, into ``<name>_adapter``.
        base: for ``longsd``: the LoRA's model, of which only the configuration is read; None: SD1.5.
        form: ``diffusers`` (one safetensors file, which `load_lora_weights` and ComfyUI read), ``kohya`` (for A1111 and
            Forge), or ``longsd`` (LongAlign's released list of matrices). None: ``longsd`` for a name that ends in .pt
            or .pth, else ``diffusers``.

    Raises:
        LongalignError: the format is unknown; the folder holds no LoRA; the layers are another model's; or the disk
            refuses.
    """
    if form is None:
        form = "longsd" if Path(out).suffix in PICKLES else "diffusers"
    if form not in FORMATS:
        raise LongalignError(unknown("format", form, FORMATS))
    parts = read_parts(name)
    file = next(iter(parts.values()))
    if form == "longsd":
        if len(parts) > 1:
            raise LongalignError(f"{name}: changes text encoders, too, which the format longsd does not hold")
        written = [longsd.write(file, out, longsd.unet_shapes(base), str(name))]
    else:
        written = [named_lora.write(parts, out, form)]
    if (trained := lora.load_text_adapter(name)) is not None:
        beside = written[0].with_name(f"{written[0].stem}_adapter")
        text_adapter.write_text_adapter(trained, beside)
        written += [beside / "config.json", beside / text_adapter.WEIGHTS]
    facts = {"layers": sum(len(part.layers) for part in parts.values()), "rank": file.rank}
    return Converted(form, written, facts if len(parts) == 1 else {**facts, "parts": list(parts)})


def _recognise(source: Path) -> tuple[str, Path, Path | None]:
    """The kind of checkpoint, its file or folder, and the adapter beside a LoRA."""
    if source.is_file():
        if source.name in (soft_tokens.TOKENS, soft_tokens.TIME):
            return "soft-tokens", source.parent, None
        if source.suffix in PICKLES and not _is_named(source):
            return "lora", source, None
        if source.suffix in (*PICKLES, ".safetensors", ".bin", ".ckpt"):
            return "foreign-lora", source, None
        raise LongalignError(f"{source}: unknown format. What can be imported: {KNOWN}")
    if not source.is_dir():
        raise LongalignError(f"{source}: no such file or folder{how_to_get(source)}")
    if (source / soft_tokens.TOKENS).is_file():
        return "soft-tokens", source, None
    if (source / "config.json").is_file():
        config = text_adapter.read_config(source)
        if config.get("model_type") == "clip":
            return "clip", source, None
        if all(key in config for key in text_adapter.SIZES):
            return "adapter", source, None
    lists = sorted(p for p in source.iterdir() if p.suffix in PICKLES)
    if len(lists) > 1:
        names = ", ".join(p.name for p in lists)
        raise LongalignError(f"{source}: holds {names}: name one of the files, and its adapter by --adapter")
    if lists:
        beside = sorted(p.parent for p in source.glob("*adapter*/config.json"))
        return "lora", lists[0], beside[0] if len(beside) == 1 else None
    if (file := resolve_lora(source)).is_file() or (source / FILE_NAME).is_file():
        return "foreign-lora", file if file.is_file() else source / FILE_NAME, None
    raise LongalignError(f"{source}: unknown format. What can be imported: {KNOWN}")


def _is_named(path: Path) -> bool:
    """Whether a pickle holds named tensors, as old LoRAs of diffusers do, and not a list of them."""
    return isinstance(read_pickle(path), Mapping)


def _import_foreign(path: Path, folder: Path, base: str) -> dict[str, Any]:
    pipe = open_pipeline(base, device="cpu", dtype="float32")
    told = Path(base).resolve().name if Path(base).exists() else base
    parts = read_foreign(path, pipe, base)
    modules = {backbone_of(pipe).component: denoising_module(pipe), **clips_of(pipe)}
    of = {name: fingerprint(modules[name], told) for name in parts}
    write_parts({name: replace(file, base=of[name]) for name, file in parts.items()}, folder)
    note_encoding(folder, strategy="auto")  # nothing is known of its training
    layers = {name: len(file.layers) for name, file in parts.items()}
    return {"layers": layers, "rank": max(file.rank for file in parts.values()), "base": told}


def _import_lora(path: Path, folder: Path, base: str | None, after: Sequence[Any]) -> dict[str, Any]:
    pairs = longsd.read(
        path, longsd.unet_shapes(base)
    )  # first, because it is quick and loading weights is not
    of = None if base is None else _base(base, after)
    file = LoraFile(pairs, base=of)
    file.write(folder)
    numbers = sum(t.numel() for pair in pairs.values() for t in pair)
    return {"layers": len(pairs), "rank": file.rank, "parameters": numbers, "base": of and str(of)}


def _base(name: str, after: Sequence[Any]) -> Fingerprint:
    """The fingerprint of a model's UNet after LoRAs were merged into it."""
    unet: nn.Module = load_pipeline(name, device="cpu", dtype="float32").unet
    told = Path(name).resolve().name if Path(name).exists() else name
    for folder in after:
        lora.load(unet, folder, base_name=told)
        lora.merge(unet)
        told += f" + {Path(folder).name}"
    return fingerprint(unet, told)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that gets its final name when the ``with`` block ends.

    Raises:
        LongalignError: `path` holds files already, or cannot be made.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise LongalignError(f"{path} exists and is not an empty folder. Choose another --out.")
    try:
        with atomic_folder(path) as temporary:
            yield temporary
    except OSError as error:
        raise LongalignError(f"Cannot write {path}: {error.strerror}") from error
