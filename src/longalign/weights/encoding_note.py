"""How texts were encoded when a LoRA was trained: written into its folder, and taken by default when it is used."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from longalign.diffusion.pipelines import SETTINGS_FILE
from longalign.errors import LongalignError
from longalign.runs import atomic_write_text
from longalign.weights.lora_file import FILE_NAME, OUR_KEY, resolve_lora

KEYS = ("strategy", "segments", "length")  # options of `longalign.encode`
SEGMENTS = {"strategy": "clip-cat"}  # of LoRAs that were trained here before they said so
RELEASED = {
    "segments": "released",
    "length": 240,
}  # of LongAlign's released LoRAs (App. A and the released code)


def note_encoding(folder: str | os.PathLike[str], **encoding: Any) -> None:
    """Write beside a LoRA, or into a model's folder, how texts were encoded in its training.

    Args:
        folder: other settings in its file stay.
        encoding: any of `KEYS`; None is left out.

    Raises:
        LongalignError: the disk refuses.
    """
    file = Path(folder) / SETTINGS_FILE
    there = _read(file) if file.is_file() else {}
    told = {key: value for key, value in encoding.items() if value is not None}
    atomic_write_text(file, json.dumps({**there, **told}) + "\n")


def recorded_encoding(loras: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """The options of `longalign.encode` that the last LoRA which says something was trained with; else empty.

    Args:
        loras: stages on a model, as for `longalign.load_pipeline`.

    Raises:
        LongalignError: a LoRA's settings are damaged.
    """
    for name in reversed(loras):
        path = resolve_lora(name)
        if (file := path / SETTINGS_FILE).is_file():
            noted = {key: value for key, value in _read(file).items() if key in KEYS}
            if noted.get("strategy") != "auto":
                return noted
        elif _ours(path):
            return dict(SEGMENTS)
    return {}


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LongalignError(f"{file}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise LongalignError(f"{file}: holds no settings")
    return found


def _ours(path: Path) -> bool:
    """Whether a file was written here, by its metadata."""
    file = path / FILE_NAME if path.is_dir() else path
    try:
        with safe_open(file, framework="pt") as opened:
            return OUR_KEY in (opened.metadata() or {})
    except (OSError, SafetensorError, ValueError):
        return False  # whoever loads it says what is wrong
