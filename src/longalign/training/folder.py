"""The run folder of a training run: a new one, or one to resume, with its metrics and sample pictures.

metrics.jsonl                 one line for each set of metrics and each evaluation
samples.jsonl                 {"step": 100, "pictures": [{"file": "samples/step-000100/00.png", "caption": "…"}, …]}
samples/step-000100/00.png    one picture a caption, at each evaluation
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from longalign.errors import LongalignError
from longalign.picture_info import PictureInfo, png_text
from longalign.report.data import Case, Panel
from longalign.runs import RunFolder, atomic_path, atomic_write_text, json_line
from longalign.training.checkpoint import newest_checkpoint, read_state
from longalign.training.keys import differing
from longalign.training.recipe import HARMLESS, Recipe

if TYPE_CHECKING:
    from PIL.Image import Image

_SAMPLES = re.compile(r"step-(\d{6,})")
_MOST_CASES = 8  # on the page, which carries the pictures
_MARK = {"command": "train"}


class TrainFolder(RunFolder):
    """The run folder of a training run, new or existing.

    Besides the content of every run folder it has `checkpoints/`, sample pictures, and, once complete, `model/`.
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
        """The lines of `metrics.jsonl`, without an incomplete last line."""
        return read_lines(self.metrics)

    def forget_after(self, step: int) -> None:
        """Drop lines and pictures of steps after `step`; a resumed run repeats these steps."""
        drop_lines(self.metrics, step)
        forget_samples(self.path, step)


def check_folder(path: Path, recipe: Recipe) -> Path | None:
    """Check that this recipe may run in `path`. Writes nothing.

    Returns:
        the checkpoint to resume from, or None.

    Raises:
        LongalignError: the folder holds something else, a run of another recipe that has checkpoints, or a run that
            has taken more steps than the recipe has.
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
        taken, wanted = int(read_state(checkpoint)["step"]), recipe.train.steps
        if wanted < taken:
            raise LongalignError(
                f"{path} has taken {taken:,} steps already, and train.steps is {wanted:,}: set train.steps={taken} to "
                "end it there, more to go on, or choose another --out for a shorter run."
            )
    return checkpoint


def open_folder(path: Path | None, recipe: Recipe) -> TrainFolder:
    """Make or reopen the folder `path`; without a path make a new ``runs/train-<date>-NNN``."""
    if path is None:
        path = RunFolder.new("train").path
    return TrainFolder(path, recipe, resume=path.is_dir() and any(path.iterdir()))


def _plain(recipe: Recipe) -> dict[str, Any]:
    return json.loads(json.dumps(recipe.to_mapping()))


def _completed(earlier: dict[str, Any]) -> dict[str, Any]:
    """An earlier recipe, completed with the defaults of keys that were added to the program since."""
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


def save_samples(folder: Path, step: int, samples: Sequence[tuple[str, Image]]) -> None:
    """Write pictures with their captions into the run folder, and then the line that names them.

    Raises:
        LongalignError: they cannot be written.
    """
    place = folder / "samples" / f"step-{step:06d}"
    pictures = []
    for number, (caption, image) in enumerate(samples):
        path = place / f"{number:02d}.png"
        with atomic_path(path) as writing:
            image.save(writing, format="PNG", pnginfo=png_text(PictureInfo(caption, settings={"step": step})))
        pictures.append({"file": path.relative_to(folder).as_posix(), "caption": caption})
    row: dict[str, Any] = {"step": step, "pictures": pictures}
    earlier = [other for other in sample_rows(folder) if other["step"] != step]
    atomic_write_text(_index(folder), "".join(map(json_line, [*earlier, row])))


def sample_rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of `samples.jsonl`, in order of steps."""
    return sorted(read_lines(_index(folder)), key=lambda row: row["step"])


def forget_samples(folder: Path, after: int) -> None:
    """Drop the pictures of steps later than `after`."""
    drop_lines(_index(folder), after)
    for path in (folder / "samples").glob("step-*"):
        if (match := _SAMPLES.fullmatch(path.name)) and int(match[1]) > after:
            shutil.rmtree(path, ignore_errors=True)


def sample_cases(folder: Path, best_step: int | None = None) -> list[Case]:
    """For the report, a row of pictures for each caption of the last evaluation: first, middle, best, last."""
    rows = sample_rows(folder)
    if not rows:
        return []
    steps = [row["step"] for row in rows]
    chosen = {steps[0], steps[len(steps) // 2], steps[-1]}
    shown = sorted(chosen | {step for step in steps if step == best_step})
    drawn = {row["step"]: {p["caption"]: p["file"] for p in row["pictures"]} for row in rows}
    cases = []
    for number, caption in enumerate(list(drawn[steps[-1]])[:_MOST_CASES], start=1):
        panels = [
            _panel(folder, drawn[step][caption], f"step {step:,}", "best" if step == best_step else "")
            for step in shown
            if caption in drawn[step] and (folder / drawn[step][caption]).is_file()
        ]
        cases.append(Case(f"Sample {number}", caption, panels))
    return cases


def _panel(folder: Path, file: str, column: str, note: str) -> Panel:
    from PIL import Image

    with Image.open(folder / file) as image:
        image.load()
        return Panel(column, image, note=note, file=file)


def _index(folder: Path) -> Path:
    return folder / "samples.jsonl"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in `path`; empty if there is no such file. Incomplete lines are left out."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def drop_lines(path: Path, after: int) -> None:
    """Drop the lines of steps later than `after`."""
    if path.is_file():
        kept = [row for row in read_lines(path) if row.get("step", 0) <= after]
        atomic_write_text(path, "".join(map(json_line, kept)))
