"""Everything that an evaluation leaves in its run folder: results.jsonl, tables, and the page or pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from longalign.errors import LongalignError
from longalign.evaluation.comparison import comparison_tables, sentences_of
from longalign.evaluation.page import (
    columns_of,
    failures_table,
    main_table,
    page_cases,
    plot_table,
    prompts_in_common,
    reading_table,
    sentence_scores,
)
from longalign.evaluation.result import Evaluation
from longalign.evaluation.results import write_results, write_summary, write_tables
from longalign.evaluation.sweep import sweep_curves
from longalign.metrics.metric import MetricColumn
from longalign.preference.images import load_image
from longalign.report import (
    Case,
    Estimate,
    PageCase,
    Panel,
    Report,
    SortedList,
    Table,
    worst_first,
    write_pages,
    write_report,
)
from longalign.runs import RunFolder
from longalign.versions import provenance

ONE_PAGE = 200  # prompts; more make a folder of pages
MOST_SHOWN = 20  # rows of the table of differences
# Columns by which runs are told apart best, the first one that was computed.
IMPORTANT = ("true", "p_true", "vqascore", "aligned_cosine", "denscore", "pickscore", "clipscore")
_PIXELS = 40_000_000  # of all pictures of a page together; more are shrunk
_LARGEST_PX = 512


def write_evaluation(
    found: Evaluation,
    run: RunFolder,
    *,
    command_line: str | None = None,
    show: int | None = None,
    on_case: Callable[[PageCase], None] | None = None,
) -> list[Table]:
    """Writes the files of an evaluation.

    Args:
        found: the evaluation.
        run: its run folder.
        command_line: what the user typed, for the page.
        show: of how many prompts the pictures are shown; None: of all.
        on_case: called with each prompt whose pictures are written.

    Returns:
        the tables, for the terminal.

    Raises:
        LongalignError: a file cannot be written.
    """
    measuring = found.measuring
    write_results(run.path, measuring.blocks.sets, measuring.lines(found.passes))
    write_summary(run.path, found.to_json())
    table = main_table(found.runs, found.notes)
    compared = comparison_tables(found.comparisons, [m.label for m in found.runs]) if not found.sweep else []
    failed = failures_table(found.runs, found.dropped)
    reading = reading_table(found.runs)
    write_tables(run.path, [("table", table), *zip(("differences", "win-rates"), compared, strict=False)])
    drawn = plot_table(found.runs) if len(found.runs) <= 4 and not found.sweep else None
    worst = None if found.sweep else worst_table(found)
    judged = None if found.judged is None else found.judged.table
    tables = [t for t in (drawn, table, *compared, judged, worst, failed, reading) if t is not None]
    remark = prompts_in_common(found.runs)
    said = sentences_of(found.comparisons, [*IMPORTANT])
    report = Report(
        title="Evaluation of " + ", ".join(found.names) if len(found.names) < 4 else "Evaluation",
        intro="\n\n".join(text for text in ("The same metrics of every run.", remark, *said) if text),
        facts=provenance(dict(found.facts), command_line),
        tables=tables,
        curves=sweep_curves(found.sweep, found.points, found.runs, found.columns) if found.sweep else (),
        scores=_words_of_scores(sentence_scores(found)),
    )
    prompts = len(measuring.blocks.keys)
    if (prompts if show is None else min(show, prompts)) > ONE_PAGE:
        write_pages(report, page_cases(found, run.path), run.path, lists=sorted_lists(found), on_case=on_case)
    else:
        cases = _cases(found, run.path, prompts if show is None else show, on_case)
        write_report(_with(report, cases), run.report, jsonl=run.path / "report.jsonl")
    return tables


def sorted_lists(found: Evaluation) -> list[SortedList]:
    """Lists of prompts, worst first: each run by itself, and each run against the baseline.

    Args:
        found: the evaluation.
    """
    column = important_column(found)
    if column is None:
        return []
    number = {key: k for k, key in enumerate(found.measuring.blocks.keys, 1)}
    values: dict[str, Mapping[int, float]] = {
        m.label: {number[key]: v for key, v in m.per_prompt(column.key).items()} for m in found.runs
    }
    labels = [label for label, of_run in values.items() if of_run]
    lists = []
    for k, label in enumerate(labels, 1):
        if label != found.baseline and found.baseline in labels and found.sweep is None:
            title = f"{column.name}: where {label} falls behind {found.baseline} most"
            lists.append(
                worst_first(
                    f"difference-{k}",
                    title,
                    values,
                    of=label,
                    against=found.baseline,
                    better=column.better,
                    format=column.format,
                )
            )
    for k, label in enumerate(labels, 1):
        title = f"{column.name}: worst pictures of {label}"
        lists.append(
            worst_first(f"worst-{k}", title, values, of=label, better=column.better, format=column.format)
        )
    return lists


def worst_table(found: Evaluation) -> Table | None:
    """The prompts in which the runs differ most by the most telling number. None for a single run.

    Args:
        found: the evaluation.
    """
    column = important_column(found)
    if column is None or len(found.runs) < 2:
        return None
    number = {key: k for k, key in enumerate(found.measuring.blocks.keys, 1)}
    texts = {key: p.text for m in reversed(found.runs) for key, p in zip(m.keys, m.pictures, strict=True)}
    of_runs = [(m.label, m.per_prompt(column.key)) for m in found.runs]
    shared = [key for key in number if all(key in values for _, values in of_runs)]
    spread = {key: _spread([values[key] for _, values in of_runs]) for key in shared}
    chosen = sorted((k for k in shared if spread[k] > 0), key=lambda k: (-spread[k], number[k]))[:MOST_SHOWN]
    if not chosen:
        return None
    rows: list[list[str | Estimate]] = [
        [
            f"{number[key]}",
            *(format(values[key], column.format) for _, values in of_runs),
            texts[key][:70] + ("…" if len(texts[key]) > 70 else ""),
        ]
        for key in chosen
    ]
    note = (
        f"{column.title}, means over the pictures of a prompt, of the prompts in which the runs differ most."
    )
    return Table(
        "Prompts with the largest differences",
        ["prompt", *(label for label, _ in of_runs), ""],
        rows,
        note=note,
    )


def important_column(found: Evaluation) -> MetricColumn | None:
    """The number by which pictures are sorted: the first of `IMPORTANT` that was computed, else any of pictures.

    Args:
        found: the evaluation.
    """
    columns = {c.key: c for c in columns_of(found.runs) if found.runs[0].per_prompt(c.key)}
    first = next((key for key in IMPORTANT if key in columns), next(iter(columns), None))
    return None if first is None else columns[first]


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _words_of_scores(name: str) -> str:
    words = {
        "verdict": "P(true) of the sentence, by the preference model",
        "vqascore": "P(yes) of the sentence, by a vision-language model",
        "denscore_o": "100 · C_X·C⊥ of the sentence",
        "denscore": "100 · C_X·C_P of the sentence",
    }
    return words.get(name, "")


def _cases(
    found: Evaluation, folder: Path, most: int, on_case: Callable[[PageCase], None] | None
) -> list[Case]:
    """The cases of a single page, whose pictures are part of it."""
    cases: list[Case] = []
    px = largest_px(min(most, len(found.measuring.blocks.keys)) * len(found.runs))
    for case in page_cases(found, folder):
        if len(cases) == most:
            break
        panels = []
        notes = []
        for panel in case.panels:
            if panel.flagged:
                notes.append(f"{panel.column}: {panel.flagged}.")
                continue
            try:
                image = load_image(panel.file)
            except LongalignError as error:
                notes.append(f"{panel.column}: {error}.")
                continue
            image.thumbnail((px, px), Image.Resampling.LANCZOS)
            said = [f"{name} {value}" for name, value in list(case.numbers.get(panel.column, {}).items())[:3]]
            panels.append(Panel(panel.column, image, note=", ".join(said), file=_within(panel.file, folder)))
        cases.append(Case(case.title, case.prompt, panels, case.sentences, note=" ".join(notes)))
        if on_case is not None:
            on_case(case)
    return cases


def largest_px(pictures: int) -> int:
    """Up to which side pictures are shown on one page, so that it stays light.

    Args:
        pictures: how many there are.
    """
    return max(96, min(_LARGEST_PX, int(math.sqrt(_PIXELS / max(1, pictures)))))


def _within(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else ""


def _with(report: Report, cases: Sequence[Case]) -> Report:
    from dataclasses import replace

    return replace(report, cases=cases)
