"""Report → one HTML file that needs nothing from outside, and its JSONL twin.

The page is put together by the templates beside this file: `report.html.j2` is the page, the other
``.html.j2`` files are macros for its parts, `style.css` is set into it. It has no script, and its content
security policy forbids the browser to fetch or to run anything, whatever a prompt contains.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from longalign.report.curve import line_plot
from longalign.report.data import (
    Case,
    Estimate,
    PageCase,
    PagePanel,
    Panel,
    Report,
    SentenceRow,
    counted,
    signed,
)
from longalign.report.plot import plot_groups
from longalign.report.ranking import grid
from longalign.runs import atomic_write_text, json_line
from longalign.versions import VERSION

LARGEST_PX = 768  # longer sides are shrunk for the page: sixteen 1,024 px PNGs would make it 30 MB
SMALL_PX = 128  # up to this side a picture is shown enlarged, pixel by pixel

# Control characters have no business in HTML; each shows as � instead, so that it is not silently gone.
_CONTROL = dict.fromkeys(
    [c for c in range(32) if chr(c) not in "\t\n\r"] + [127], "\N{REPLACEMENT CHARACTER}"
)


def write_report(
    report: Report, path: str | os.PathLike[str], *, jsonl: str | os.PathLike[str] | None = None
) -> Path:
    """Write `report` as HTML to `path`, and as JSONL to `jsonl` when it is given; both all or nothing.

    The JSONL has a line ``{"kind": "report", …}`` and then a line ``{"kind": "case", …}`` for each case, with
    the sizes and files of the pictures in place of their pixels. The same report gives the same bytes.

    Raises:
        LongalignError: a file cannot be written.
    """
    html = (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            title=report.title,
            intro=report.intro,
            facts=report.facts,
            glossary=report.glossary,
        )
    )
    written = atomic_write_text(path, html)
    if jsonl is not None:
        atomic_write_text(jsonl, "".join(json_line(line) for line in _records(report)))
    return written


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Jinja with the templates and filters that all pages share. It is one object for all: change an overlay of it."""
    jinja = Environment(
        loader=PackageLoader("longalign.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_printable,
    )
    jinja.filters.update(
        all_same=_all_same,
        any_differs=lambda cases: any(differs(case) for case in cases),
        data_uri=data_uri,
        extent=_extent,
        grid=grid,
        kinds=legend_kinds,
        layout=layout,
        line_plot=line_plot,
        mark_kind=_mark_kind,
        number=signed,
        paragraphs=lambda text: [part for part in text.split("\n\n") if part.strip()],
        plot_groups=plot_groups,
        runs=_runs,
        says_more=_says_more,
        tally=_tally,
    )
    jinja.tests.update(estimate=lambda cell: isinstance(cell, Estimate), judged=judged, comparing=_compares)
    jinja.globals.update(version=VERSION, largest_px=LARGEST_PX)
    return jinja


def data_uri(image: Image.Image) -> str:
    """The picture as a PNG in a ``data:`` address, shrunk to `LARGEST_PX` when it is larger."""
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image = image.convert("RGB")
    if max(image.size) > LARGEST_PX:
        image = image.copy()
        image.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def layout(case: Case) -> str:
    """CSS classes of a case: how many pictures, whether they are small, and where they stand.

    A single picture stands at the ``side`` of its text. A few small ones stand at the head of the columns of
    marks, ``beside`` the sentences. Large or many ones get the whole width ``above`` them.
    """
    small = all(max(panel.image.size) <= SMALL_PX for panel in case.panels)
    n = len(case.panels)
    beside = small and 2 <= n <= 4 and judged(case)
    place = "side" if n == 1 else "beside" if beside else "above"
    return f"{place} n{min(n, 5)}" + (" small" if small else "")


def judged(case: Case | PageCase) -> bool:
    """Does any sentence have a verdict or a score?"""
    return any(row.scores or any(mark != "unjudged" for mark in row.marks.values()) for row in case.sentences)


def _compares(report: Report) -> bool:
    """Has it a table with best cells, or a line with intervals? Then it needs `comparison.css`."""
    return any(table.better or table.turned for table in report.tables) or any(
        len(line.low) for curve in report.curves for line in curve.lines
    )


def legend_kinds(cases: Sequence[Case | PageCase]) -> set[str]:
    """What a legend has to explain: the marks that are drawn, and ``"beyond"``."""
    found: set[str] = set()
    for case in filter(judged, cases):
        for row in case.sentences:
            columns = {panel.column for panel in case.panels if not panel.aside}
            found.update(_mark_kind(row, column) for column in columns - row.scores.keys())
            scored = {_mark_kind(row, column) for column in columns & row.scores.keys()}
            found.update(scored - {"unjudged"})  # there the score stands alone
            found.update({"scored"} if columns & row.scores.keys() else ())
            found.update({"beyond"} if row.beyond else ())
    return found


def _mark_kind(row: SentenceRow, column: str) -> str:
    """The mark of a sentence as it is drawn: ``gone`` is false and should be, ``still`` is true and should not be."""
    mark = row.marks.get(column, "unjudged")
    if row.wanted.get(column, "true") == "false":
        return {"false": "gone", "true": "still"}.get(mark, mark)
    return mark


def _all_same(rows: Sequence[SentenceRow], panels: Sequence[Panel | PagePanel]) -> bool:
    """Has each of these sentences the same mark in every picture?"""
    columns = [panel.column for panel in panels if not panel.aside]
    return all(len({row.marks.get(column, "unjudged") for column in columns}) == 1 for row in rows)


def differs(case: Case | PageCase) -> bool:
    """Is there a sentence whose mark differs between the pictures, and one whose mark does not?"""
    same = {_all_same([row], case.panels) for row in case.sentences}
    return judged(case) and same == {True, False}


def _runs(rows: Sequence[SentenceRow]) -> list[tuple[bool, list[SentenceRow]]]:
    """Neighbouring sentences on the same side of the window: [(beyond, rows), …]."""
    return [(beyond, list(group)) for beyond, group in groupby(rows, key=lambda row: row.beyond)]


def _tally(rows: Sequence[SentenceRow], column: str, wording: str = "{} of {} true") -> str:
    """``"9 of 12 true"``, the unclear ones among the twelve; empty when nothing was judged in that column.

    Where some sentences should be false, those count that are as they should be.
    """
    judged = [row for row in rows if row.marks.get(column, "unjudged") != "unjudged"]
    if not judged:
        return ""
    if any(column in row.wanted for row in judged):
        wording = wording.replace("true", "as they should be")
    good = sum(row.marks[column] == row.wanted.get(column, "true") for row in judged)
    return wording.format(good, len(judged))


def _extent(rows: Sequence[SentenceRow], window_tokens: int) -> str:
    """``"12 sentences, 5 beyond token 77"``."""
    beyond = sum(row.beyond for row in rows)
    text = counted(len(rows), "sentence")
    return f"{text}, {beyond} beyond token {window_tokens}" if beyond else text


def _says_more(case: Case) -> bool:
    """Is there anything in the prompt that its sentences do not print already?"""
    return "".join(case.prompt.split()) != "".join("".join(row.text for row in case.sentences).split())


def _printable(value: Any) -> Any:
    return value.translate(_CONTROL) if isinstance(value, str) and not isinstance(value, Markup) else value


def _records(report: Report) -> Iterator[dict[str, Any]]:
    def cell(value: str | Estimate) -> Any:
        if isinstance(value, str):
            return value
        return {name: getattr(value, name) for name in ("value", "low", "high", "n", "level")}

    yield {
        "kind": "report",
        "title": report.title,
        "intro": report.intro,
        "facts": report.facts,
        "window_tokens": report.window_tokens,
        "truncation": report.truncation,
        "tables": [
            {
                "caption": table.caption,
                "columns": table.columns,
                "rows": [[cell(value) for value in row] for row in table.rows],
                "baseline": table.baseline,
                "note": table.note,
            }
            for table in report.tables
        ],
        "curves": [
            {
                "caption": curve.caption,
                "x_label": curve.x_label,
                "lines": [
                    {
                        "name": line.name,
                        "x": line.x,
                        "y": line.y,
                        **({"low": line.low, "high": line.high} if len(line.low) else {}),
                    }
                    for line in curve.lines
                ],
            }
            for curve in report.curves
        ],
    }
    for case in report.cases:
        yield {
            "kind": "case",
            "title": case.title,
            "prompt": case.prompt,
            "note": case.note,
            **({"verdict": case.verdict} if case.verdict else {}),
            "panels": [
                {
                    "column": panel.column,
                    "width_px": panel.image.width,
                    "height_px": panel.image.height,
                    "file": panel.file,
                    "note": panel.note,
                    **({"aside": True} if panel.aside else {}),
                }
                for panel in case.panels
            ],
            "sentences": [
                {
                    "text": row.text,
                    "beyond": row.beyond,
                    "marks": row.marks,
                    "scores": row.scores,
                    **({"wanted": row.wanted} if row.wanted else {}),
                }
                for row in case.sentences
            ],
        }
