"""What `longalign evaluate` prints and shows: tables, and the runs' pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longalign.evaluation.evaluate import (
    COLUMNS,
    Column,
    Measured,
    load,
    sentences_by_prompt,
)
from longalign.evaluation.pictures import PictureSet
from longalign.report import Case, Estimate, Panel, Table
from longalign.report.sentences import sentence_rows
from longalign.worlds import World

if TYPE_CHECKING:
    from longalign.preference import PreferenceModel

_PICTURES_ALONE = "the picture alone"


def columns_of(metrics: Sequence[str], found: Sequence[Measured]) -> list[Column]:
    """The columns that some run has a number for, or a reason to have none."""
    columns = [column for metric in metrics for column in COLUMNS[metric]]
    return [c for c in columns if any(c.key in m.cells and m.cells[c.key] != "—" for m in found)]


def main_table(found: Sequence[Measured], metrics: Sequence[str], notes: Sequence[str]) -> Table:
    """One row a run, one column a number."""
    columns = columns_of(metrics, found)
    rows = [
        [m.label, f"{len(m.pictures):,}", *(m.cells.get(column.key, "—") for column in columns)]
        for m in found
    ]
    note = (
        "Arrows point to the better side. Intervals: 95 % bootstrap over prompts, where a number is a mean. "
    )
    return Table(
        "Runs by metrics",
        ["", "pictures", *(column.title for column in columns)],
        rows,
        note=note + " ".join(notes),
    )


def flipped(table: Table) -> Table:
    """For a narrow terminal: rows and columns exchanged where that makes fewer columns."""
    if len(table.columns) <= len(table.rows) + 1:
        return table
    columns = [str(row[0]) for row in table.rows]
    rows = [[name, *(row[k] for row in table.rows)] for k, name in enumerate(table.columns) if k]
    return Table(table.caption, ["", *columns], rows, note=table.note)


def plot_table(found: Sequence[Measured], metrics: Sequence[str]) -> Table | None:
    """The same numbers drawn, as far as they have intervals: a group for each, a dot for every run."""
    columns = [
        c for c in columns_of(metrics, found) if all(isinstance(m.cells.get(c.key), Estimate) for m in found)
    ]
    if not columns:
        return None
    rows = [[column.title, *(m.cells[column.key] for m in found)] for column in columns]
    return Table("Metrics with intervals", ["", *(m.label for m in found)], rows, plot=True)


def reading_table(found: Sequence[Measured], metrics: Sequence[str], model: PreferenceModel | None) -> Table:
    """How much of the prompts each metric could read (of all runs together)."""
    rows: list[list[str | Estimate]] = []
    for metric in metrics:
        if metric == "denscore" and model is not None:
            share = _segmented(model, [p.prompt for m in found for p in m.pictures])
            window = f"every sentence on its own, each in {model.window_tokens} tokens"
            rows.append([metric, window, f"{share:.1%} of the characters"])
        elif metric == "oracle":
            total = {key: sum(m.marks[key] for m in found) for key in found[0].marks}
            known = total["sentences"] - total["unjudged"]
            said = f"{known / total['sentences']:.1%} of the sentences" if total["sentences"] else "—"
            if known:
                said += f"; {total['unclear'] / known:.1%} of these it called unclear"
            rows.append([metric, "sentences that state a fact about stickers", said])
        else:
            rows.append([metric, _PICTURES_ALONE, "nothing"])
    return Table("What each metric could read of the prompts", ["metric", "reads", "share"], rows)


def _segmented(model: PreferenceModel, prompts: Sequence[str]) -> float:
    """Share of the characters, but for blanks, that is in some segment."""
    read = whole = 0
    for prompt in dict.fromkeys(prompts):
        read += sum(len("".join(s.text.split())) for s in model.segments(prompt))
        whole += len("".join(prompt.split()))
    return read / whole


def side_by_side(
    found: Sequence[Measured], most: int, *, judge: World | None, reference: PictureSet | None = None
) -> list[Case]:
    """A case for each of the first prompts that all runs share: each run's first picture of it.

    Args:
        judge: marks the sentences; None leaves them unmarked.
        reference: whose picture of the same prompt, if it has one, comes first.
    """
    columns = {m.label: {p.prompt: p for p in reversed(m.pictures)} for m in found}
    shared = [
        prompt
        for prompt in dict.fromkeys(p.prompt for p in found[0].pictures)
        if all(prompt in of_run for of_run in columns.values())
    ][:most]
    if reference is not None and reference.label not in columns:
        columns = {reference.label: {p.prompt: p for p in reference.pictures}, **columns}
    sentences = sentences_by_prompt(shared) if judge is not None and shared else {}
    cases = []
    for k, prompt in enumerate(shared, 1):
        images = {label: load(of_run[prompt]) for label, of_run in columns.items() if prompt in of_run}
        panels = [Panel(label, image, note=columns[label][prompt].name) for label, image in images.items()]
        rows = sentence_rows(sentences[prompt], images, judge.name) if judge is not None else ()
        cases.append(Case(f"Prompt {k}", prompt, panels, rows))
    return cases
