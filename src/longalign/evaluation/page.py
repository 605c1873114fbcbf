"""Tables of `longalign evaluate`, and the pictures of the runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from longalign.evaluation.pictures import MeasuredSet, PictureSet
from longalign.metrics.fid import TOO_FEW
from longalign.metrics.metric import MetricColumn
from longalign.metrics.oracle import sentences_by_prompt
from longalign.metrics.prompt_bootstrap import MISSING
from longalign.report import CLUSTERED, Case, Estimate, Panel, Table, counted
from longalign.report.sentences import sentence_rows
from longalign.worlds import World


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
    of_runs = [{p.text for p in m.pictures} for m in measured]
    shared, largest = len(set.intersection(*of_runs)), max(map(len, of_runs))
    if all(prompts == of_runs[0] for prompts in of_runs):
        return ""
    if not shared:
        return "These runs have no prompt in common, so their numbers are of different tasks: do not compare them."
    return f"The runs share {shared} of up to {counted(largest, 'prompt')}: the others make them hard to compare."


def reading_table(measured: Sequence[MeasuredSet]) -> Table:
    """How much of the prompts each metric could read, of all sets together."""
    prompts = [picture.text for m in measured for picture in m.pictures]
    rows: list[list[str | Estimate]] = []
    for metric in measured[0].metrics:
        values = [value for m in measured for value in m.per_picture[metric.name]]
        rows.append([metric.name, metric.reads, metric.share_read(prompts, values)])
    return Table("What each metric could read of the prompts", ["metric", "reads", "share"], rows)


def side_by_side(
    measured: Sequence[MeasuredSet], most: int, *, judge: World | None, reference: PictureSet | None = None
) -> list[Case]:
    """A case for each of the first prompts that all sets share, with each set's first picture of it.

    Args:
        measured: the sets.
        most: how many prompts at most.
        judge: marks the sentences; None leaves them unmarked.
        reference: its picture of the same prompt, if it has one, comes first.
    """
    columns = {m.label: {p.text: p for p in reversed(m.pictures)} for m in measured}
    shared = [
        prompt
        for prompt in dict.fromkeys(p.text for p in measured[0].pictures)
        if all(prompt in of_run for of_run in columns.values())
    ][:most]
    if reference is not None and reference.label not in columns:
        columns = {reference.label: {p.text: p for p in reference.pictures}, **columns}
    sentences = sentences_by_prompt(shared) if judge is not None and shared else {}
    cases = []
    for k, prompt in enumerate(shared, 1):
        images = {label: of_run[prompt].picture() for label, of_run in columns.items() if prompt in of_run}
        panels = [Panel(label, image, note=columns[label][prompt].name) for label, image in images.items()]
        rows = sentence_rows(sentences[prompt], images, judge.name) if judge is not None else ()
        cases.append(Case(f"Prompt {k}", prompt, panels, rows))
    return cases
