"""The run folder of a training run: a new one, or one to go on in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from longalign.errors import LongalignError
from longalign.runs import RunFolder
from longalign.training.checkpoint import newest_checkpoint
from longalign.training.keys import differing
from longalign.training.lines import drop_lines, read_lines
from longalign.training.recipe import HARMLESS, Recipe
from longalign.training.samples import forget_samples

_MARK = {"command": "train"}


class TrainFolder(RunFolder):
    """A run folder that may exist already, if a training run made it.

    Beside what every run folder holds: `checkpoints/`, sample pictures, and `model/` once the run is complete.
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
        return read_lines(self.metrics)

    def forget_after(self, step: int) -> None:
        """Drop lines and pictures of steps after `step`, which a resumed run takes again."""
        drop_lines(self.metrics, step)
        forget_samples(self.path, step)


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
        changed = [key for key in differing(_completed(earlier), _plain(recipe)) if key not in HARMLESS]
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


def _plain(recipe: Recipe) -> dict[str, Any]:
    return json.loads(json.dumps(recipe.to_mapping()))


def _completed(earlier: dict[str, Any]) -> dict[str, Any]:
    """An earlier recipe with the defaults of keys that came into the program after it."""
    try:
        return _plain(Recipe.from_mapping(earlier))
    except LongalignError:
        return earlier


def _earlier(path: Path) -> dict[str, Any] | None:
    """The recipe of the training run in `path`; None where there is no such run."""
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(config, dict) or config.pop("command", None) != _MARK["command"]:
        return None
    return config
