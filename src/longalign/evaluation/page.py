"""Tables of `longalign evaluate`, and the pictures of the runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from longalign.encoding.segments import Segmenter
from longalign.evaluation.measuring import Item
from longalign.evaluation.result import Evaluation
from longalign.evaluation.sets import MeasuredSet
from longalign.metrics.fid import TOO_FEW
from longalign.metrics.metric import SENTENCES, MetricColumn
from longalign.metrics.prompt_bootstrap import MISSING
from longalign.report import CLUSTERED, Estimate, PageCase, PagePanel, SentenceRow, Table, counted
from longalign.runs import atomic_path
from longalign.worlds import Mark


def columns_of(measured: Sequence[MeasuredSet]) -> list[MetricColumn]:
    """The columns for which at least one set has a number."""
    columns = [column for metric in measured[0].metrics for column in metric.columns]
    return [c for c in columns if any(m.cells.get(c.key, MISSING) != MISSING for m in measured)]


def main_table(measured: Sequence[MeasuredSet], notes: Sequence[str]) -> Table:
    """One row a set, one column a number.

    Args:
        measured: sets that were measured by the same metrics.
        notes: sentences below the table.
    """
    columns = columns_of(measured)
    rows = [
        [m.label, f"{len(m.pictures):,}", *(m.cells.get(column.key, MISSING) for column in columns)]
        for m in measured
    ]
    note = (
        "Arrows: ↑ higher is better, ↓ lower is better. Intervals: shares of sentences have 95 % "
        f"{CLUSTERED.format('prompt')}, means 95 % bootstrap intervals over prompts, and distances of sets have none. "
    )
    if any(cell == MISSING for row in rows for cell in row):
        note += f"{MISSING}: not measured. "
    if any(isinstance(cell, str) and TOO_FEW in cell for row in rows for cell in row):
        note += "FID of no more pictures than features is meaningless: take thousands, or look at CMMD. "
    return Table(
        "Runs by metrics",
        ["", "pictures", *(column.title for column in columns)],
        rows,
        note=note + " ".join(notes),
        better=["", "", *(column.better for column in columns)],
        turned=len(columns) > len(rows),
    )


def plot_table(measured: Sequence[MeasuredSet]) -> Table | None:
    """The numbers that have intervals in all sets, to be drawn: a group for each, a dot for every set."""
    columns = [
        c
        for c in columns_of(measured)
        if all(isinstance(cell := m.cells.get(c.key), Estimate) and cell.bounded for m in measured)
    ]
    if not columns:
        return None
    rows = [[column.title, *(m.cells[column.key] for m in measured)] for column in columns]
    return Table("Metrics with intervals", ["", *(m.label for m in measured)], rows, plot=True)


def prompts_in_common(measured: Sequence[MeasuredSet]) -> str:
    """A sentence for runs that do not all have the same prompts; empty where they do."""
    of_runs = [set(m.keys) for m in measured]
    shared, largest = len(set.intersection(*of_runs)), max(map(len, of_runs))
    if all(prompts == of_runs[0] for prompts in of_runs):
        return ""
    if not shared:
        return "These runs have no prompt in common, so their numbers are of different tasks: do not compare them."
    return f"The runs share {shared} of up to {counted(largest, 'prompt')}: the others make them hard to compare."


def reading_table(measured: Sequence[MeasuredSet]) -> Table:
    """How much of the prompts each metric could read, of all sets together."""
    prompts = [picture.text for m in measured for picture in m.pictures]
    rows: list[list[str | Estimate]] = [
        [metric.name, metric.reads, metric.share_read(prompts)] for metric in measured[0].metrics
    ]
    return Table("What each metric could read of the prompts", ["metric", "reads", "share"], rows)


def failures_table(
    measured: Sequence[MeasuredSet], dropped: Mapping[str, str], most: int = 100
) -> Table | None:
    """What could not be measured: metrics, pictures, prompts without a picture. None if there is nothing.

    Args:
        measured: the sets.
        dropped: metrics that could not be computed → the reason.
        most: rows.
    """
    rows: list[list[str | Estimate]] = [[f"metric {name}", "—", reason] for name, reason in dropped.items()]
    for m in measured:
        rows += [[m.label, failure.name, failure.reason] for failure in m.failed]
        rows += [[m.label, key, "the prompt has no picture"] for key in m.missing]
    if not rows:
        return None
    left = f"{len(rows) - most:,} more are in results.jsonl. " if len(rows) > most else ""
    return Table("Not measured", ["", "what", "why"], rows[:most], note=left)


def page_cases(found: Evaluation, folder: Path) -> Iterator[PageCase]:
    """Each prompt with the pictures of all runs and what was found of them.

    Args:
        found: the evaluation.
        folder: the run folder, in which pictures without a file are put.
    """
    columns = {column.key: column for column in found.columns}
    scored = sentence_scores(found)
    labels = [m.label for m in found.runs]
    number = 0
    for key, group in groupby(found.measuring.lines(found.passes), lambda pair: pair[0].key):
        number += 1
        panels: list[PagePanel] = []
        numbers: dict[str, dict[str, str | float]] = {}
        rows: dict[str, _Row] = {}
        prompt = ""
        for item, line in group:
            if item.place:
                continue  # the first picture of each run is shown
            label = labels[item.of]
            prompt = prompt if len(prompt) >= len(item.picture.text) else item.picture.text
            file = item.picture.image if isinstance(item.picture.image, Path) else _kept(folder, item)
            panels.append(PagePanel(label, file, flagged=line.get("failed", "")))
            numbers[label] = {
                columns[k].name: format(v, columns[k].format)
                for of_metric in line.values()
                if isinstance(of_metric, dict)
                for k, v in of_metric.items()
                if k in columns and isinstance(v, (int, float))
            }
            _add_sentences(rows, label, item.picture.text, line, scored)
        shown = [SentenceRow(text, row.beyond, row.marks, row.scores) for text, row in rows.items()]
        yield PageCase(number, key if key != prompt else "", prompt, panels, shown, numbers)


@dataclass
class _Row:
    beyond: bool = False
    marks: dict[str, Mark] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


def sentence_scores(found: Evaluation) -> str:
    """The metric whose numbers stand beside the sentences: the first one of these that was computed."""
    names = [m.name for m in found.runs[0].metrics]
    return next((name for name in ("verdict", "vqascore", "denscore_o", "denscore") if name in names), "")


def _add_sentences(
    rows: dict[str, _Row], label: str, prompt: str, line: Mapping[str, Any], scored: str
) -> None:
    """Adds one picture's marks and scores to the rows of its prompt's sentences."""
    texts = [s.text for s in _segmenter(prompt)]
    oracle = line.get("oracle", {})
    marks = oracle.get("marks", [])
    beyond = oracle.get("beyond", [])
    values = line.get(scored, {}).get(SENTENCES, [])
    for k, text in enumerate(texts):
        row = rows.setdefault(text, _Row())
        if len(marks) == len(texts):
            row.marks[label] = marks[k]
            row.beyond = row.beyond or bool(beyond[k])
        if len(values) == len(texts) and values[k] is not None:
            row.scores[label] = values[k]


def _kept(folder: Path, item: Item) -> Path:
    """The file of a picture that came from a table or an archive."""
    file = folder / "pictures" / f"set-{item.of}" / f"{item.key[:40]}-{item.place}.png"
    if not file.is_file():
        with atomic_path(file) as temporary:
            item.picture.picture().save(temporary, format="PNG")
    return file


_segmenter = Segmenter()
