"""The run folder of a training run: a new one, or one to go on in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from longalign.errors import LongalignError
from longalign.runs import RunFolder, atomic_write_text
from longalign.training.checkpoint import newest_checkpoint
from longalign.training.keys import differing
from longalign.training.recipe import HARMLESS, Recipe

_MARK = {"command": "train"}


class TrainFolder(RunFolder):
    """A run folder that may exist already, if a training run made it.

    Beside what every run folder holds: `checkpoints/`, and `model/` once the run is complete.
    """

    def __init__(self, path: Path, recipe: Recipe, *, resume: bool) -> None:
        config = {**_MARK, **recipe.to_mapping(), "out": str(path)}
        if resume:
            self.path = path
            self.write_config(config)
        else:
            super().__init__(path, config)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def rows(self) -> Iterator[dict[str, Any]]:
        """The lines of `metrics.jsonl`; a last one that was cut off is left out."""
        if self.metrics.is_file():
            for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    yield row

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps after `step`, which a resumed run takes again."""
        if self.metrics.is_file():
            kept = [row for row in self.rows() if row.get("step", 0) <= step]
            atomic_write_text(
                self.metrics, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            )


def check_folder(path: Path, recipe: Recipe) -> Path | None:
    """May this recipe run in `path`? The checkpoint to go on from, if there is one. Writes nothing.

    Raises:
        LongalignError: the folder holds something else, or a run of another recipe that has checkpoints.
    """
    if not path.is_dir() or not any(path.iterdir()):
        return None  # what else may be wrong with it, RunFolder says
    earlier = _earlier(path)
    if earlier is None:
        raise LongalignError(
            f"{path} already holds files, and no training run made them. Choose another --out."
        )
    checkpoint = newest_checkpoint(path / "checkpoints")
    if checkpoint is not None:
        now = json.loads(json.dumps(recipe.to_mapping()))
        changed = [key for key in differing(earlier, now) if key not in HARMLESS]
        if changed:
            raise LongalignError(
                f"{path} holds a run with another recipe; they differ in {', '.join(changed)}. "
                "Choose another --out, or the recipe of that run."
            )
    return checkpoint


def open_folder(path: Path | None, recipe: Recipe) -> TrainFolder:
    """The folder `path`, made or taken up again; without a path a new ``runs/train-<date>-NNN``."""
    if path is None:
        path = RunFolder.new("train").path
    return TrainFolder(path, recipe, resume=path.is_dir() and any(path.iterdir()))


def _earlier(path: Path) -> dict[str, Any] | None:
    """The recipe of the training run in `path`; None where there is no such run."""
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(config, dict) or config.pop("command", None) != _MARK["command"]:
        return None
    return config
