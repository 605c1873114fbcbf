"""The runs in the folder of runs: what they are, their pages, and the curves of trainings while they run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from longalign.errors import LongalignError
from longalign.evaluation.curves import overlay, read_runs
from longalign.report import Curve, Line
from longalign.runs import is_run
from longalign.studio.folders import Folders

_MOST = 500  # runs that are listed
_LIVE_S = 60.0  # a training that wrote within this time is running
_POINTS = 500  # of a curve, at most
_TAIL = 64 * 2**20  # bytes of a log that are read


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        name: within the folder of runs.
        command: what made it.
        when: its last change, seconds since the epoch.
        pictures: files in its folder of pictures.
        report: whether it has a page.
        training: whether it logs training.
        running: whether it logged within the last minute, or has no page yet.
    """

    name: str
    command: str
    when: float
    pictures: int
    report: bool
    training: bool
    running: bool


def list_runs(folders: Folders) -> list[Run]:
    """All runs, the newest first, also those one folder deeper.

    Args:
        folders: the folder of runs.
    """
    found = [run for path in _candidates(folders.out) if (run := _read(path, folders)) is not None]
    return sorted(found, key=lambda run: -run.when)[:_MOST]


def _candidates(out: Path) -> Iterator[Path]:
    for path in sorted(out.iterdir()) if out.is_dir() else []:
        if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
            continue
        if is_run(path):
            yield path
            continue
        for deeper in sorted(path.iterdir()):
            if not deeper.is_symlink() and deeper.is_dir() and is_run(deeper):
                yield deeper


def _read(path: Path, folders: Folders) -> Run | None:
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8", errors="replace"))
        command = str(config.get("command") or ("train" if "objective" in config else "run"))[:40]
        metrics = path / "metrics.jsonl"
        when = max(f.stat().st_mtime for f in (path / "config.yaml", metrics) if f.exists())
        training = "train" in config or "objective" in config
        pictures = sum(1 for _ in (path / "images").glob("*.png")) if (path / "images").is_dir() else 0
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return None
    running = training and time.time() - when < _LIVE_S
    report = (path / "report.html").is_file()
    return Run(folders.name_of(path), command, when, pictures, report, training, running)


def pictures_of(folders: Folders, name: str) -> list[Path]:
    """The pictures of a run.

    Args:
        folders: the folder of runs.
        name: of the run.

    Raises:
        LongalignError: there is no such run.
    """
    path = folders.inside(name)
    found = sorted((path / "images").glob("*.png")) if (path / "images").is_dir() else []
    return [folders.inside(folders.name_of(picture)) for picture in found if not picture.is_symlink()]


def curves_of(folders: Folders, name: str) -> list[Curve]:
    """The curves of a training, as far as it is.

    Args:
        folders: the folder of runs.
        name: of the run.

    Raises:
        LongalignError: there is no such run.
    """
    path = folders.inside(name)
    found: list[Curve] = []
    steps, losses = _losses(path / "metrics.jsonl")
    if steps:
        found.append(Curve("Loss", "step", [Line("loss", steps, losses)]))
    try:
        runs = read_runs([f"{path.name.replace('=', '-')}={path}"])
    except LongalignError:
        return found
    return found + overlay(runs).curves()


def _losses(file: Path) -> tuple[list[float], list[float]]:
    """Step and loss of the logged steps, averaged where there are many."""
    rows: list[tuple[float, float]] = []
    try:
        with open(file, "rb") as opened:
            opened.seek(max(0, file.stat().st_size - _TAIL))
            for text in opened:
                row: Any = None
                try:
                    row = json.loads(text)
                except ValueError:
                    continue  # it is being written
                if isinstance(row, dict) and row.get("kind") != "evaluate":
                    step, loss = row.get("step"), row.get("loss")
                    if isinstance(step, int) and isinstance(loss, (int, float)):
                        rows.append((step, float(loss)))
    except OSError:
        return [], []
    width = max(1, -(-len(rows) // _POINTS))
    groups = [rows[i : i + width] for i in range(0, len(rows), width)]
    return (
        [sum(step for step, _ in group) / len(group) for group in groups],
        [sum(loss for _, loss in group) / len(group) for group in groups],
    )
