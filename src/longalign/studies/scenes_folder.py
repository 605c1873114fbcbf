"""The settings of a study of scenes, and its run folder, which can be continued.

The folder has a file for each column with the verdicts on every picture. So an interrupted study continues, and a
finished one can get another column::

    columns/self-contained-sft.jsonl
        {"drawn_with": {…}}                                             settings and hashes of the weights
        {"scene": 0, "marks": "ttfu…", "chance": "ftf…", …, "looks": −0.2}   a letter a sentence
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from longalign.errors import LongalignError
from longalign.runs import RunFolder
from longalign.soft_tokens.tokens import resolve_tokens
from longalign.studies.compare import Column
from longalign.weights.lora_file import resolve_lora
from longalign.worlds import resolve_model

COMMAND = "stickers study"
ROWS = 2  # raise it when the format of a column's file changes; files with another number are made again
CAPTIONS = {"self-contained": False, "referring": True}  # name → whether sentences refer to the one before


@dataclass(frozen=True)
class StudyConfig:
    """What is drawn. `objects`: least and greatest number of stickers of a scene; `captions`: names in `CAPTIONS`.

    `guidance` and `scheduler` (of `longalign.diffusion.sampling.set_scheduler`): None is what suits the model.
    """

    scenes: int = 500
    objects: tuple[int, int] = (7, 9)
    captions: tuple[str, ...] = tuple(CAPTIONS)
    steps: int = 25
    guidance: float | None = None
    scheduler: str | None = None
    seed: int = 0
    model: str = "stickers"

    def __post_init__(self) -> None:
        if self.scenes < 2:
            raise LongalignError(
                "a study needs at least 2 scenes: chance is measured on the picture of another scene"
            )
        if unknown := set(self.captions) - set(CAPTIONS):
            raise LongalignError(
                f"captions {', '.join(unknown)} are unknown; there are {', '.join(CAPTIONS)}"
            )


def column_key(column: Column, config: StudyConfig, length: int) -> dict[str, Any]:
    """Everything that the pictures of a column depend on, and the format of its file."""
    tokens = column.soft_tokens
    return {
        "rows": ROWS,
        **_settings(config),
        "length": length,
        "strategy": column.strategy,
        "model": _sha256(Path(resolve_model(config.model))),
        "loras": [_sha256(resolve_lora(name)) for name in column.loras],
        "soft_tokens": None if tokens is None else [_sha256(resolve_tokens(tokens)), column.scale],
    }


def _settings(config: StudyConfig) -> dict[str, Any]:
    """The settings that must be equal to continue a folder."""
    common = {k: v for k, v in asdict(config).items() if k not in ("scenes", "captions")}
    return {**json.loads(json.dumps(common)), "split": "test"}


def _sha256(path: Path) -> str:
    """Of a file, or of all weights and settings in a folder."""
    found = hashlib.sha256()
    if not path.exists():
        raise LongalignError(f"{path}: no such file or folder")
    files = (
        [path] if path.is_file() else [f for f in path.rglob("*") if f.suffix in (".safetensors", ".json")]
    )
    for file in sorted(files):
        found.update(f"{file.name} {file.stat().st_size};".encode())
        found.update(file.read_bytes())
    return found.hexdigest()


def read_rows(file: Path, key: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of a column's file. Empty if there is no file, or if its pictures were drawn with other settings."""
    try:
        head, *rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    same = isinstance(head, dict) and head.get("drawn_with") == key
    return rows if same else []


def open_study(
    out: str | Path | None, config: StudyConfig, columns: Mapping[str, Column], overwrite: bool
) -> RunFolder:
    """The run folder, new or continued."""
    resolved = {
        "command": COMMAND,
        **_settings(config),
        "scenes": config.scenes,
        "captions": list(config.captions),
        "columns": {label: asdict(column) for label, column in columns.items()},
    }
    if out is None:
        return RunFolder.new("study", resolved)
    path = Path(out)
    earlier = None if overwrite else _earlier(path)
    if earlier is None:
        run = RunFolder(path, resolved, overwrite=overwrite)
        shutil.rmtree(path / "columns", ignore_errors=True)
        return run
    changed = [key for key, value in _settings(config).items() if earlier.get(key) != value]
    if changed:
        raise LongalignError(
            f"{path} holds a study with other settings; they differ in {', '.join(changed)}. Choose another --out, the "
            "same settings, or --overwrite."
        )
    run = Reopened(path)
    run.write_config(resolved)
    return run


class Reopened(RunFolder):
    """A run folder that is continued: nothing in it is removed."""

    def __init__(self, path: Path) -> None:
        self.path = path


def _earlier(path: Path) -> dict[str, Any] | None:
    """The settings of the study in a folder; None if there is none."""
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) and config.get("command") == COMMAND else None
