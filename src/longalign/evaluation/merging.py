"""Shards of one evaluation from several machines, joined in one run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from longalign.errors import LongalignError
from longalign.evaluation.parts import FolderParts
from longalign.evaluation.plan_file import read_inputs
from longalign.evaluation.settings import EvaluateConfig
from longalign.runs import RunFolder, is_run

_CARRIED = ("pictures", "parts")
_FREE = ("device",)  # may differ between machines


def merge_shards(folders: Sequence[Path], out: Path) -> tuple[list[str], EvaluateConfig]:
    """Copies the pictures and the finished blocks of shards into one run folder.

    Args:
        folders: run folders of `longalign evaluate --shard`.
        out: the new run folder.

    Returns:
        names of the runs and settings, with which `EvaluationJob` computes what may be missing and writes the tables.

    Raises:
        LongalignError: a folder is no evaluation, or the settings of two differ.
    """
    told = [_settings(folder) for folder in folders]
    for folder, other in zip(folders[1:], told[1:], strict=True):
        changed = [k for k in {**told[0], **other} if k not in _FREE and told[0].get(k) != other.get(k)]
        if changed:
            raise LongalignError(
                f"{folders[0]} and {folder} are no shards of one evaluation; they differ in {', '.join(changed)}"
            )
    inputs = [read_inputs(FolderParts(folder / "parts")) for folder in folders]
    for folder, other in zip(folders[1:], inputs[1:], strict=True):
        if changed := [what for what in other if inputs[0].get(what, other[what]) != other[what]]:
            raise LongalignError(
                f"{folders[0]} and {folder} are no shards of one evaluation: {' and '.join(changed)} differ"
            )
    run = RunFolder.resume(out, told[0], free=_FREE)
    for folder in folders:
        for name in _CARRIED:
            for file in sorted((folder / name).rglob("*")):
                target = run.path / file.relative_to(folder)
                if file.is_file() and not target.exists() and not file.name.startswith("."):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link(file, target)
    names = {f.name for f in fields(EvaluateConfig)}
    config = EvaluateConfig(
        **{k: v for k, v in told[0].items() if k in names and k not in ("metrics", "drawing")}
    )
    metrics = ",".join(told[0]["metrics"])
    runs = [_as_told(label, entry) for label, entry in told[0]["runs"].items()]
    return runs, EvaluateConfig(**{**_plain(config), "metrics": metrics})


def _plain(config: EvaluateConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(EvaluateConfig)}


def _as_told(label: str, entry: Mapping[str, Any]) -> str:
    """A run as it may stand on a command line."""
    settings = [
        f",{'lora' if key == 'loras' else key}={one}"
        for key, value in entry.items()
        if key != "name"
        for one in (value if isinstance(value, (list, tuple)) else [value])
    ]
    return f"{label}={entry['name']}{''.join(settings)}"


def _settings(folder: Path) -> dict[str, Any]:
    if not is_run(folder):
        raise LongalignError(f"{folder}: is no run folder of `longalign evaluate --shard`")
    told = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    if not isinstance(told, dict) or told.get("command") != "evaluate":
        raise LongalignError(f"{folder}: is no run folder of `longalign evaluate --shard`")
    return told


def _link(file: Path, target: Path) -> None:
    """A hard link, else a copy: pictures of a million prompts need no second place."""
    with suppress(OSError):
        os.link(file, target)
        return
    shutil.copyfile(file, target)
