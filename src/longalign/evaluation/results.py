"""Files of an evaluation beside its page: results.jsonl, one line a picture; summary.json; tables as CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from longalign.evaluation.measuring import Item
from longalign.evaluation.parts import Line
from longalign.evaluation.sets import PictureSet
from longalign.report import Table
from longalign.report.csv import table_csv
from longalign.report.latex import table_latex
from longalign.runs import atomic_path, atomic_write_text, json_line

RESULTS = "results.jsonl"
SUMMARY = "summary.json"
_INTERNAL = ("of", "key", "place")


def result_rows(sets: Sequence[PictureSet], lines: Iterable[tuple[Item, Line]]) -> Iterator[dict[str, Any]]:
    """What was found of each picture, as it stands in results.jsonl.

    Args:
        sets: of pictures.
        lines: of `Measuring.lines`.
    """
    for item, line in lines:
        yield {
            "run": sets[item.of].label,
            "id": item.key,
            "picture": item.picture.name,
            "prompt": item.picture.text,
            **{key: value for key, value in line.items() if key not in _INTERNAL},
        }


def write_results(folder: Path, sets: Sequence[PictureSet], lines: Iterable[tuple[Item, Line]]) -> Path:
    """Writes results.jsonl; no more than one line is in memory.

    Args:
        folder: the run folder.
        sets, lines: as of `result_rows`.

    Raises:
        LongalignError: the file cannot be written.
    """
    file = folder / RESULTS
    with (
        atomic_path(file) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace") as opened,
    ):
        for row in result_rows(sets, lines):
            opened.write(json_line(row))
    return file


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes summary.json: the numbers of the runs and the comparisons, as ``--json`` prints them.

    Args:
        folder: the run folder.
        summary: `Evaluation.to_json`.
    """
    atomic_write_text(folder / SUMMARY, json_line(summary))


def write_tables(folder: Path, tables: Sequence[tuple[str, Table]]) -> None:
    """Writes each table as NAME.csv and NAME.tex.

    Args:
        folder: the run folder.
        tables: names of files and tables.
    """
    for name, table in tables:
        atomic_write_text(folder / f"{name}.csv", table_csv(table))
        atomic_write_text(folder / f"{name}.tex", table_latex(table))
