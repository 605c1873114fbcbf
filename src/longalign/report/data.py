"""What a report is made of. Plain frozen data: no HTML, no drawing, no judging happens here.

`Report` ⊃ `Table` ⊃ `Estimate`, `Report` ⊃ `Curve` ⊃ `Line`, `Report` ⊃ `Case` ⊃ (`Panel`, `SentenceRow`). A
*column* is one way of making the picture ("reference", "plain, 77 tokens", "segments"); its name joins panels, marks
and tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from longalign.worlds import Mark as Mark

if TYPE_CHECKING:
    from PIL.Image import Image

Better = Literal["higher", "lower", ""]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured number with its interval.

    Attributes:
        value: the estimate; NaN where there was nothing to measure, which prints as "—".
        low, high: ends of the interval; NaN where a single prompt (or scene) was measured, which shows no spread.
        n: how many observations stand behind it.
        format: format specification of the three numbers. With a ``%`` a plot's axis runs from 0 to 100 %; with ``+``
            and ``%`` the number is a difference of percentages and prints in points.
        level: coverage that the interval is meant to have.
    """

    value: float
    low: float
    high: float
    n: int
    format: str = ".1%"
    level: float = 0.95

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "—"
        return self._shown(self.value) + (" points" if self._is_difference else "")

    @property
    def bounded(self) -> bool:
        """Is there an interval?"""
        return all(map(math.isfinite, (self.value, self.low, self.high)))

    @property
    def interval(self) -> str:
        """``"79.2–87.9%"``, with a sign at an end ``"−1.2 to 0.4%"``; empty where there is no estimate.

        An estimate from a single prompt has no interval, and this says so.
        """
        if not math.isfinite(self.value):
            return ""
        if not self.bounded:
            return "one prompt: no interval"
        low, high = self._shown(self.low).removesuffix("%"), self._shown(self.high)
        return f"{low} to {high}" if {low[0], high[0]} & {"−", "+"} else f"{low}–{high}"

    @property
    def _is_difference(self) -> bool:
        return self.format.startswith("+") and self.format.endswith("%")

    def _shown(self, number: float) -> str:
        if self._is_difference:
            number, shown = 100 * number, self.format.replace("%", "f")
        else:
            shown = self.format
        return format(number, shown).replace("-", "−")


@dataclass(frozen=True, slots=True)
class SentenceRow:
    """One sentence of a caption and what each column made of it.

    Attributes:
        text: the sentence.
        beyond: it lies, at least in part, past what the plain encoding can read.
        marks: column → verdict; a column that is left out was not judged.
        scores: column → score of this sentence against the column's picture, printed beside the mark.
        wanted: column → the mark that it should have there, where that is not ``true``.
    """

    text: str
    beyond: bool = False
    marks: Mapping[str, Mark] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    wanted: Mapping[str, Mark] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Attributes:
        column: name of the column that it stands in.
        image: its pixels, which the page carries.
        note: a remark below it.
        file: its path in the run folder, for the JSONL.
        aside: it is no picture of the prompt (such as a map of differences), so its sentences have no marks.
    """

    column: str
    image: Image
    note: str = ""
    file: str = ""
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt with its pictures and its sentences.

    Attributes:
        title: heading of the case.
        verdict: the result in words, below the title.
        prompt: the whole text.
        panels: the pictures.
        sentences: the rows of the table of sentences.
        note: what was cut, or another remark.
    """

    title: str
    prompt: str
    panels: Sequence[Panel]
    sentences: Sequence[SentenceRow] = ()
    note: str = ""
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class PagePanel:
    """One picture of a `PageCase`. It stays in its file.

    Attributes:
        column: name of the column that it stands in.
        file: the picture; a relative path starts at the current folder. Where it is missing or broken the page says so.
        note: a remark below it.
        flagged: what is wrong with the picture in a word or two (``blank``); empty: nothing.
        aside: it is no picture of the prompt (such as a map of differences), so its sentences have no marks.
    """

    column: str
    file: Path
    note: str = ""
    flagged: str = ""
    aside: bool = False


@dataclass(frozen=True, slots=True)
class PageCase:
    """One prompt of many, as `longalign.report.write_pages` shows it.

    Attributes:
        number: which prompt it is. No two cases share one.
        id: its name in the data; empty where it has none.
        prompt: the whole text.
        panels: the pictures.
        sentences: the rows of the table of sentences.
        numbers: column → name → number of that column's picture; texts are printed as they are.
        note: what was cut, or another remark.
    """

    number: int
    id: str
    prompt: str
    panels: Sequence[PagePanel]
    sentences: Sequence[SentenceRow] = ()
    numbers: Mapping[str, Mapping[str, str | float]] = field(default_factory=dict)
    note: str = ""

    @property
    def title(self) -> str:
        """``Prompt 17``."""
        return f"Prompt {self.number}"


@dataclass(frozen=True, slots=True)
class SortedList:
    """A list of prompts in an order that is worth reading, worst first; see `longalign.report.worst_first`.

    Attributes:
        name: in the names of its files, ``by-NAME-0001.html``: letters, digits and hyphens.
        title: what it is sorted by, in words.
        order: numbers of cases.
        values: column → number of a case → its number.
        of: the column that the list is about.
        against: the column that is taken from it; then the difference is printed, too. None: there is none.
        format: format specification of the numbers.
        note: a remark below the title.
    """

    name: str
    title: str
    order: Sequence[int]
    values: Mapping[str, Mapping[int, float]]
    of: str
    against: str | None = None
    format: str = ".1%"
    note: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Za-z0-9-]+", self.name):
            raise ValueError(f"list {self.name!r}: a name has letters, digits and hyphens only")
        for column in (self.of, self.against):
            if column is not None and column not in self.values:
                raise ValueError(f"list {self.name!r}: column {column!r} is none of {list(self.values)}")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts and estimates.

    Attributes:
        caption: what the numbers are.
        columns: headings; the first one heads the row names and may be empty.
        rows: each begins with its name and has as many cells as there are columns.
        plot: draw it: a group for every row, in it a dot and an interval for every column. The numbers stand
            beside the dots, so nothing is printed twice.
        baseline: the column that the others are to be held against (chance); drawn hollow, with a line
            through the group.
        note: how the numbers were got, printed below.
        better: which values of a column are better, one for each column, ``""`` where neither. The best estimate of
            such a column is bold. Empty: no column has a best one.
        unranked: names of rows that are never the best (reference, chance).
        turned: print columns as rows. A table of more columns than rows is easier to read so. Not with `plot`.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Estimate]]
    plot: bool = False
    baseline: str | None = None
    note: str = ""
    better: Sequence[Better] = ()
    unranked: Sequence[str] = ()
    turned: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.caption!r}: {len(self.columns)} columns, a row of {len(row)}")
        if self.better and len(self.better) != len(self.columns):
            raise ValueError(
                f"table {self.caption!r}: {len(self.columns)} columns, {len(self.better)} better"
            )
        if self.turned and self.plot:
            raise ValueError(f"table {self.caption!r}: a plot cannot be turned")
        if self.baseline is not None and self.baseline not in self.columns[1:]:
            raise ValueError(
                f"table {self.caption!r}: baseline {self.baseline!r} is none of {self.columns[1:]}"
            )


@dataclass(frozen=True, slots=True)
class Line:
    """Points (x, y) in order of x. Where y is NaN or infinite the line is broken.

    Attributes:
        name: in the legend.
        x, y: the points.
        faint: True draws it in the background.
        colour: number of its colour and dashes, 0 to 3 (to 7 in a curve of lines with intervals); None: its place
            among the lines.
        low, high: ends of the interval at each point, drawn as a band; NaN where there is none. Both or neither.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    faint: bool = False
    colour: int | None = None
    low: Sequence[float] = ()
    high: Sequence[float] = ()

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"line {self.name!r}: {len(self.x)} x for {len(self.y)} y")
        if not len(self.low) == len(self.high) or len(self.low) not in (0, len(self.y)):
            raise ValueError(
                f"line {self.name!r}: {len(self.y)} y, {len(self.low)} low and {len(self.high)} high ends"
            )


@dataclass(frozen=True, slots=True)
class Curve:
    """One plot. Only finite points are drawn; there may be none.

    Attributes:
        caption: its title.
        x_label: what x is.
        lines: what is drawn.
        note: a remark below it.
        mark: an x at which a line stands across the plot, and the text over it.
    """

    caption: str
    x_label: str
    lines: Sequence[Line]
    note: str = ""
    mark: tuple[float, str] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report.

    Attributes:
        title: the headline.
        intro: a sentence or two under it; an empty line parts paragraphs.
        facts: command line, seed, model, date, versions: name → value.
        tables: printed in order before the cases; those with ``plot`` come before the facts.
        cases: one a prompt; after the facts, but first of all where there are neither tables nor curves.
        truncation: what was cut from which prompt, one entry each; empty when nothing was.
        window_tokens: how far the plain encoding reads.
        curves: drawn first, the first one across the page, the others side by side.
        scores: what the numbers beside the marks are (`SentenceRow.scores`), for the legend.
        cases_first: the cases come before curves and tables.
        glossary: name → what it is, below the introduction.
    """

    title: str
    intro: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    cases: Sequence[Case] = ()
    truncation: Sequence[str] = ()
    window_tokens: int = 77
    curves: Sequence[Curve] = ()
    scores: str = ""
    cases_first: bool = False
    glossary: Mapping[str, str] = field(default_factory=dict)


def signed(value: float, format_: str = ".1f") -> str:
    """A number with a true minus sign.

    Args:
        value: the number.
        format_: format specification.
    """
    return format(value, format_).replace("-", "\N{MINUS SIGN}")


def counted(count: int, noun: str, plural: str = "") -> str:
    """``"1 sentence"``, ``"1,234 sentences"``.

    Args:
        count: how many.
        noun: its singular.
        plural: where an s does not make it.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
