"""Repaired pictures in a run folder: what `longalign generate --repair` keeps beside each picture.

`repairs/NAME.json` says what was done; `NAME-before.png` is the picture before, and `NAME-region.png` shows what was
drawn again. They are written before the picture itself, so that a picture that is there is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from longalign.errors import LongalignError
from longalign.generation.settings import GenerateConfig
from longalign.preference.images import load_image
from longalign.repairing import Repaired, RepairSettings
from longalign.report.data import PagePanel, Panel, SentenceRow
from longalign.runs import RunFolder, atomic_write_text, json_line

FOLDER = "repairs"
_DIMMED = 0.25  # brightness of what was kept, in the picture of the region


def check_settings(config: GenerateConfig) -> None:
    """Whether the settings of repair go together.

    Args:
        config: of `longalign.generate`.

    Raises:
        LongalignError: one is out of range, or there is no scorer.
    """
    RepairSettings(config.repair, config.best_of)
    if config.repairs and config.scorer is None:
        raise LongalignError(
            "a repair and the best of several pictures need a preference model: give a scorer (--scorer stickers, a "
            "CLIP folder or a hub name)"
        )


def keep_repair(run: RunFolder, name: str, repaired: Repaired) -> None:
    """Writes what was done for one picture.

    Args:
        run: the run folder.
        name: of the picture, without its ending.
        repaired: the result.
    """
    folder = run.path / FOLDER
    changed = repaired.chosen != repaired.first
    if changed:
        run.save_picture(folder / f"{name}-before.png", repaired.before.image)
        run.save_picture(folder / f"{name}-region.png", _shown_region(repaired))
    atomic_write_text(folder / f"{name}.json", json_line(repaired.to_json()))


def told_of(run: RunFolder, name: str) -> dict[str, Any]:
    """What `keep_repair` wrote: `Repaired.to_json`, ``before_file``, ``region_file`` (None where nothing changed).

    Args:
        run: the run folder.
        name: of the picture.

    Raises:
        LongalignError: the file cannot be read.
    """
    path = run.path / FOLDER / f"{name}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LongalignError(
            f"{path}: cannot be read ({error}). Remove images/{name}.png: the same command draws it again"
        ) from None
    for what in ("before", "region"):
        file = f"{FOLDER}/{name}-{what}.png"
        found[f"{what}_file"] = file if found["chosen"] != found["before"] else None
    return found


def shown_before(repair: Mapping[str, Any], seed: int, folder: Path) -> dict[str, Image.Image]:
    """Column → picture before the repair; empty where nothing was changed.

    Args:
        repair: of `told_of`.
        seed: of the picture.
        folder: the run folder.
    """
    file = repair["before_file"]
    return {} if file is None else {before_column(seed): load_image(folder / file)}


def before_column(seed: int) -> str:
    """The name of the column of the picture before.

    Args:
        seed: of the picture.
    """
    return f"seed {seed}, before"


def scored_rows(
    rows: Sequence[SentenceRow], repairs: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> list[SentenceRow]:
    """The sentences of the report with P(true) in %, or with scores, before the repair and after.

    Args:
        rows: the sentences.
        repairs: of `told_of`, one a picture.
        seeds: of the pictures.
    """
    scores: dict[str, dict[str, float]] = {}
    for repair, seed in zip(repairs, seeds, strict=True):
        factor = 100.0 if repair["probability"] else 1.0
        columns = {f"seed {seed}": repair["chosen"]}
        if repair["before_file"] is not None:
            columns[before_column(seed)] = repair["before"]
        for column, number in columns.items():
            values = repair["attempts"][number]["values"]
            for text, value in zip(repair["sentences"], values, strict=True):
                scores.setdefault(text, {})[column] = factor * value
    return [replace(row, scores=scores.get(row.text, {})) for row in rows]


def in_words(repair: Mapping[str, Any]) -> str:
    """What was done, for a remark below the picture.

    Args:
        repair: of `told_of`.
    """
    attempts = repair["attempts"]
    first = sum(a["round"] == 0 for a in attempts)
    rounds = len(attempts) - first
    parts = [f"{repair['calls']} denoiser calls", f"best of {first}" if first > 1 else ""]
    if rounds:
        kept = sum(a["accepted"] for a in attempts[first:])
        parts.append(f"{kept} of {rounds} round{'s' * (rounds != 1)} of repair kept")
    else:
        parts.append("no sentence was doubtful" if first == 1 else "")
    return ", ".join(part for part in parts if part)


def panels(repair: Mapping[str, Any], seed: int, folder: Path, after: Panel) -> list[Panel]:
    """The picture before, what was drawn again, and the picture after.

    Args:
        repair: of `told_of`.
        seed: of the picture.
        folder: the run folder.
        after: the panel of the picture.
    """
    note = in_words(repair)
    after = Panel(after.column, after.image, note, after.file)
    if repair["before_file"] is None:
        return [after]
    before, region = repair["before_file"], repair["region_file"]
    return [
        Panel(before_column(seed), load_image(folder / before), file=before),
        Panel(f"seed {seed}, drawn again", load_image(folder / region), file=region, aside=True),
        after,
    ]


def page_panels(repair: Mapping[str, Any], seed: int, folder: Path, after: PagePanel) -> list[PagePanel]:
    """The same on one of many pages.

    Args:
        repair: of `told_of`.
        seed: of the picture.
        folder: the run folder.
        after: the panel of the picture.
    """
    after = PagePanel(after.column, after.file, in_words(repair))
    if repair["before_file"] is None:
        return [after]
    return [PagePanel(before_column(seed), folder / repair["before_file"]), after]


def _shown_region(repaired: Repaired) -> Image.Image:
    """The picture before, dark where it was kept. All rounds that led to the result count."""
    before = repaired.before.image.convert("RGB")
    region = Image.new("L", before.size)
    attempt = repaired.after
    while attempt.of is not None:
        mask = attempt.mask()
        if mask is not None:
            region = ImageChops.lighter(region, mask)
        attempt = repaired.attempts[attempt.of]
    return Image.composite(before, before.point(lambda value: round(_DIMMED * value)), region)
