"""Packs a run of `longalign train` as embedded weights: fp16, with recipe and learning curve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from longalign.errors import LongalignError
from longalign.runs import atomic_write_text


def pack_run(run: Path, out: Path, *, after: Sequence[str] = (), rank: int | None = None) -> int:
    """Pack a complete run (a preference model, a LoRA or soft tokens); returns the size in bytes.

    Recipe and learning curve go along as `recipe.yaml` and `curve.jsonl`.

    Args:
        after: for what was trained on top of LoRAs: their names after packing, in order. They are taken out of a LoRA,
            since training saves a stack as one, and stand in the recipe.
        rank: of a LoRA, what is kept of it in every layer, by truncated SVD; None: all.

    Raises:
        LongalignError: the folder is no finished run, or ``after`` does not fit.
    """
    from longalign.soft_tokens.tokens import FILE_NAME
    from longalign.weights.lora_file import FILE_NAME as LORA_FILE

    if (run / "model" / FILE_NAME).is_file():
        _pack_tokens(run, out, after)
    elif (run / "model" / LORA_FILE).is_file():
        _pack_lora(run, out, after, rank)
    elif (run / "model" / "config.json").is_file():
        _pack_preference(run, out)
    else:
        raise LongalignError(
            f"{run}: holds no trained model; finish it first (longalign train RECIPE --out {run})"
        )
    _keep_recipe(run, out, after)
    shutil.copy(run / "metrics.jsonl", out / "curve.jsonl")
    return sum(f.stat().st_size for f in out.rglob("*") if f.is_file())


def _pack_preference(run: Path, out: Path) -> None:
    """A CLIP folder with V, late head and calibration; the tokenizer stays with the pipeline."""
    import torch

    from longalign.preference import PreferenceModel

    model = PreferenceModel.from_pretrained(run / "model", device="cpu", dtype="float32")
    out.mkdir(parents=True, exist_ok=True)
    model.clip.to(torch.float16).save_pretrained(out)
    processor = json.dumps(model.preprocess.to_config(), indent=2) + "\n"
    atomic_write_text(out / "preprocessor_config.json", processor)
    if model.late is not None:
        model.late.to(torch.float16)
    model.save_beside(out)


def _pack_lora(run: Path, out: Path, after: Sequence[str], rank: int | None) -> None:
    """The stage of this run alone, with its base's fingerprint, its text side and its encoding."""
    import torch

    from longalign.weights import lora, text_lora
    from longalign.weights.encoding_note import note_encoding, recorded_encoding
    from longalign.weights.lora_file import resolve_lora
    from longalign.weights.text_adapter import write_text_adapter

    _check_after(run, after)
    _pack_factors(
        run / "model", {f"stage_{n}": resolve_lora(name) for n, name in enumerate(after)}, out, rank
    )
    for encoder, folder in text_lora.text_loras(run / "model").items():
        texts = (text_lora.text_loras(name).get(encoder) for name in after)
        earlier = {f"stage_{n}": path for n, path in enumerate(texts) if path is not None}
        _pack_factors(folder, earlier, out / encoder, rank)
    note_encoding(out, **recorded_encoding([run]))
    if (adapter := lora.load_text_adapter(run / "model")) is not None:
        write_text_adapter(adapter.to(torch.float16), out / lora.ADAPTER_FOLDER)


def _pack_factors(folder: Path, earlier: Mapping[str, Path], out: Path, rank: int | None) -> None:
    """One LoRA file in fp16, without the earlier stages (their names on the model → where they are packed)."""
    from longalign.weights.factors import added, without
    from longalign.weights.lora_file import LoraFile, Pair
    from longalign.weights.merge import reduced

    file = LoraFile.read(folder)
    layers, stacked_on, alpha = file.layers, file.stacked_on, file.alpha
    if earlier:
        own = without(file, [LoraFile.read(path) for path in earlier.values()])
        if own is None:
            told = ", ".join(map(str, earlier.values()))
            raise LongalignError(f"{folder}: does not begin with {told}; was it trained on others?")
        layers, stacked_on, alpha = own, tuple(earlier), None
    if rank is not None and rank < LoraFile(layers).rank:
        layers, _ = reduced(added([LoraFile(layers, file.component, alpha=alpha)]), rank)
        alpha = None
    half = {name: Pair(pair.up.half(), pair.down.half()) for name, pair in layers.items()}
    LoraFile(half, file.component, alpha=alpha, base=file.base, stacked_on=stacked_on).write(out)


def _pack_tokens(run: Path, out: Path, after: Sequence[str]) -> None:
    """In fp16, which `SoftTokens.from_pretrained` brings back to float32; the model's name in place of its folder."""
    from longalign.soft_tokens import SoftTokens

    _check_after(run, after)
    tokens = SoftTokens.from_pretrained(run / "model").half()
    tokens.config = replace(tokens.config, base=str(_recipe(run).get("model", "")))
    tokens.save(out)


def _check_after(run: Path, after: Sequence[str]) -> None:
    """Raises LongalignError: there are not as many as the run started from."""
    started = _started_from(_recipe(run))
    if len(started) != len(after):
        raise LongalignError(
            f"{run}: was trained on top of {len(started)} LoRAs ({', '.join(started) or 'none'}); name as many by "
            "--after, as they are called once packed (stickers/sft)"
        )


def _recipe(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())


def _started_from(recipe: dict[str, Any]) -> list[str]:
    section = recipe.get(str(recipe.get("objective"))) or {}
    return list(section.get("start_from") or ())


def _keep_recipe(run: Path, out: Path, after: Sequence[str]) -> None:
    """The recipe without paths of this machine."""
    recipe = _recipe(run)
    if after:
        recipe[recipe["objective"]]["start_from"] = list(after)
    kept = {key: value for key, value in recipe.items() if key not in ("command", "out")}
    atomic_write_text(out / "recipe.yaml", yaml.safe_dump(kept, sort_keys=False))
