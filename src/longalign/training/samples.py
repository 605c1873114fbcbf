"""Sample pictures of a training run: what the model draws at each evaluation.

samples.jsonl                 {"step": 100, "pictures": [{"file": "samples/step-000100/00.png", "caption": "…"}, …]}
samples/step-000100/00.png    one a caption
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longalign.report.data import Case, Panel
from longalign.runs import atomic_path, atomic_write_text, json_line
from longalign.training.lines import drop_lines, read_lines

if TYPE_CHECKING:
    from PIL.Image import Image

_NAME = re.compile(r"step-(\d{6,})")
_MOST_CASES = 8  # on the page, which carries the pictures


def save_samples(folder: Path, step: int, samples: Sequence[tuple[str, Image]]) -> None:
    """Write pictures with their captions into the run folder; the line that names them comes when all are there.

    Raises:
        LongalignError: they cannot be written.
    """
    place = folder / "samples" / f"step-{step:06d}"
    pictures = []
    for number, (caption, image) in enumerate(samples):
        path = place / f"{number:02d}.png"
        with atomic_path(path) as writing:
            image.save(writing, format="PNG")
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
        if (match := _NAME.fullmatch(path.name)) and int(match[1]) > after:
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
