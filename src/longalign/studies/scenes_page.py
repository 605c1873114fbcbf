"""Tables and page of a study of scenes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from longalign.report import (
    CLUSTERED,
    Case,
    Estimate,
    Panel,
    Report,
    SentenceRow,
    Table,
    clustered_wilson,
    counted,
    write_report,
)
from longalign.runs import atomic_write_text, json_line
from longalign.stickers.world import render
from longalign.studies.accuracy import (
    CHANCE,
    PARTS,
    Scenes,
    counts_in,
    mean_estimate,
    parts_of,
    ratio_difference,
    share_table,
    tables_json,
)
from longalign.studies.compare import MEANINGS, file_name
from longalign.studies.scenes import (
    ASPECTS,
    LETTERS,
    REFERENCE,
    Series,
    StudyResult,
    letters_true,
    picture_name,
)
from longalign.studies.scenes_objects import objects_tables
from longalign.versions import provenance

MOST_CASES = 8  # scenes on the page for each sort of captions
_MARKS = {letter: mark for mark, letter in LETTERS.items()}
BEFORE, BEYOND, ALL = PARTS


def tables_of(result: StudyResult) -> list[Table]:
    """Shares for each sort of captions, differences, shares by statement, surplus and missing objects, and looks."""
    shares = [
        share_table(
            _true(series) | {CHANCE: _chance(series)}, _beyond(series), f"{sort.capitalize()} captions"
        )
        for sort, series in result.series.items()
    ]
    return [
        *shares,
        differences(result),
        *aspect_tables(result),
        *objects_tables(result),
        looks_table(result),
    ]


def differences(result: StudyResult) -> Table:
    """Beyond minus before the window, each column minus the one on its left, referring minus self-contained."""
    labels = list(result.columns)
    rows: list[list[str | Estimate]] = []
    counts: dict[str, dict[str, Any]] = {}
    for sort, series in result.series.items():
        chosen, true = parts_of(_beyond(series)), _true(series)
        counts[sort] = {label: counts_in(true[label], chosen[ALL]) for label in labels}
        of_part = {part: {x: counts_in(true[x], chosen[part]) for x in labels} for part in (BEFORE, BEYOND)}
        rows.append(
            [
                f"{sort}: beyond − before token 77",
                *(ratio_difference(of_part[BEYOND][x], of_part[BEFORE][x]) for x in labels),
            ]
        )
        rows.append([f"{sort}: all, − the column to the left", *_to_the_left(counts[sort], labels)])
    if len(counts) == 2:
        (first, a), (second, b) = counts.items()
        rows.append([f"all, {second} − {first}", *(ratio_difference(b[x], a[x]) for x in labels)])
    return Table(
        "Differences",
        ["", *labels],
        rows,
        note="Percentage points, with paired 95 % bootstrap intervals: the same scenes are drawn for both sides. "
        "The first column has none to its left (—).",
    )


def _to_the_left(counts: Mapping[str, Any], labels: list[str]) -> list[str | Estimate]:
    found: list[str | Estimate] = ["—"]
    return found + [ratio_difference(counts[b], counts[a]) for a, b in pairwise(labels)]


def aspect_tables(result: StudyResult) -> list[Table]:
    """Share of true statements by kind of statement, for each sort of captions."""
    found = []
    for sort, series in result.series.items():
        rows: list[list[str | Estimate]] = []
        for aspect in ASPECTS:
            cells = [_aspect(of_column, aspect) for of_column in series.rows.values()]
            if cells[0].n:
                rows.append([aspect, *cells])
        found.append(
            Table(
                f"By statement, {sort} captions",
                ["", *series.rows],
                rows,
                note="A sentence may make several statements, each judged by itself. Kind, anywhere: the sticker is "
                "somewhere in the picture. 95 % " + CLUSTERED.format("scene") + ".",
            )
        )
    return found


def _aspect(rows: list[dict[str, Any]], aspect: str) -> Estimate:
    return clustered_wilson(
        [row[aspect].count("t") for row in rows], [len(row[aspect]) - row[aspect].count(".") for row in rows]
    )


def looks_table(result: StudyResult) -> Table:
    """Mean looks of each column's pictures."""
    rows: list[list[str | Estimate]] = [
        [
            f"{sort} captions",
            *(mean_estimate(np.array([r["looks"] for r in rows])) for rows in series.rows.values()),
        ]
        for sort, series in result.series.items()
    ]
    return Table(
        "Looks",
        ["", *result.columns],
        rows,
        note="0 for a clean picture, about −1 for one that blur, noise, washed-out colours or blocks spoil at full "
        "strength; means over scenes with 95 % bootstrap intervals. What the picture shows does not matter.",
    )


def write_study(result: StudyResult, command_line: str | None = None) -> list[Table]:
    """Writes `metrics.jsonl`, `report.html` and `report.jsonl` into the run folder; returns the tables.

    Args:
        command_line: what the user typed, for the report.
    """
    tables, run, config = tables_of(result), result.run, result.config
    atomic_write_text(run.metrics, "".join(json_line(table) for table in tables_json(tables)))
    least, most = config.objects
    size = f"{least} to {most} stickers" if least < most else f"{most} sticker{'s' * (most != 1)}"
    report = Report(
        title="Held-out scenes, sentence by sentence",
        intro=f"{counted(config.scenes, 'scene')} of {size} that no model here was trained on. "
        "Every column starts from the same noise, and the oracle reads the pixels.",
        facts=provenance(
            {
                "model": config.model,
                **{label: str(column) for label, column in result.columns.items()},
                "sampling": f"{config.scheduler}, {config.steps} steps, seeds {config.seed} to "
                f"{config.seed + config.scenes - 1}",
            },
            command_line,
        ),
        glossary={label: MEANINGS[label] for label in result.columns if label in MEANINGS},
        tables=tables,
        cases=[case for sort in result.series for case in _cases(result, sort)],
        window_tokens=result.window_tokens,
    )
    write_report(report, run.report, jsonl=run.path / "report.jsonl")
    return tables


def _cases(result: StudyResult, sort: str) -> list[Case]:
    """The first scenes whose pictures were kept in every column."""
    series, run, found = result.series[sort], result.run, []
    for i in range(min(MOST_CASES, result.config.scenes)):
        names = {label: picture_name(sort, i, file_name(label, c)) for label, c in result.columns.items()}
        files = {label: run.images / f"{name}.png" for label, name in names.items()}
        if not all(file.is_file() for file in files.values()):
            break
        panels = [Panel(REFERENCE, render(result.scenes[i]))]
        for label, file in files.items():
            with Image.open(file) as image:
                panels.append(Panel(label, image.convert("RGB"), file=str(file.relative_to(run.path))))
        marks = {label: rows[i]["marks"] for label, rows in series.rows.items()}
        sentences = [
            SentenceRow(s.text, beyond, {label: _MARKS[letters[k]] for label, letters in marks.items()})
            for k, (s, beyond) in enumerate(
                zip(series.sentences[i].segments, series.sentences[i].beyond, strict=True)
            )
        ]
        found.append(Case(f"Scene {i + 1}, {sort} caption", series.prompts[i], panels, sentences))
    return found


def _true(series: Series) -> dict[str, Scenes]:
    return {label: [letters_true(row["marks"]) for row in rows] for label, rows in series.rows.items()}


def _chance(series: Series) -> Scenes:
    """Of the last column."""
    return [letters_true(row["chance"]) for row in list(series.rows.values())[-1]]


def _beyond(series: Series) -> Scenes:
    return [np.array(s.beyond, bool) for s in series.sentences]
