"""Report on many prompts → a folder of light pages with thumbnails, for a browser alone: no server, no scripts.

``report.html`` has the introduction, tables and curves, and the ways to all else. ``pages/cases-0001.html`` and so on
have the prompts in order, with their pictures side by side; ``pages/by-NAME-0001.html`` and so on are lists of prompts,
sorted by something. The pictures stay where they are; `longalign.report.thumbnails` makes small copies of them.
"""

from __future__ import annotations

import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from longalign.report.data import Better, Estimate, PageCase, Report, SortedList, counted
from longalign.report.render import SMALL_PX, differs, environment, legend_kinds
from longalign.report.thumbnails import ShownPicture, Thumbnails
from longalign.runs import atomic_write_text

LIST_ROWS = 500  # on a page of a list
MOST_PAGE_BYTES = 900_000  # of the cases of a page; a page of long prompts has fewer cases
MOST_EXAMPLE_BYTES = 600_000  # of the examples on the first page, all together
MOST_LINKS = 200  # to pages, on one page
FEW_NUMBERS = 4  # are printed below a picture; all of them are in a table
FIRST_WORDS = 90  # characters of a prompt in a list
MOST_PROBLEMS = 40  # kinds of problems that are told apart
_PROBLEMS_SHOWN = 12  # prompts of a problem
_WORKERS = 8
_INDENT = re.compile(r"\n\s+")
_OURS = re.compile(r"(cases|by-[A-Za-z0-9-]+)-\d{4,}\.html")


def worst_first(
    name: str,
    title: str,
    values: Mapping[str, Mapping[int, float]],
    *,
    of: str,
    against: str | None = None,
    better: Better = "higher",
    format: str = ".1%",
    note: str = "",
) -> SortedList:
    """A `SortedList` of the prompts whose number is worst, or falls behind that of another column most.

    Equals are in the order of their numbers. Prompts without a finite number are left out.

    Args:
        name: in the names of the files: letters, digits and hyphens.
        title: what it is sorted by, in words.
        values: column → number of a case → its number.
        of: the column that the list is about.
        against: the column that it is compared with; None: sorted by the numbers of `of` themselves.
        better: which numbers are better.
        format: format specification of the numbers.
        note: a remark below the title.
    """
    sign = -1 if better == "lower" else 1
    keys = {number: sign * _by(values, of, against, number) for number in values[of]}
    order = sorted((n for n, key in keys.items() if math.isfinite(key)), key=lambda n: (keys[n], n))
    return SortedList(name, title, order, values, of, against, format, note)


def write_pages(
    report: Report,
    cases: Iterable[PageCase],
    folder: str | os.PathLike[str],
    *,
    lists: Sequence[SortedList] = (),
    per_page: int = 50,
    examples: int = 4,
    on_case: Callable[[PageCase], None] | None = None,
) -> Path:
    """Write `report` and its cases as a folder of pages; returns the path of ``report.html``, which is written last.

    Cases may be a stream: one page of them is in memory. Thumbnails that are newer than their pictures are kept, so a
    second call is quick. Pages of an earlier call that are not written again are removed. The same input gives the same
    bytes. A missing or broken picture is no error: the page says what is wrong, and the first page counts them.

    Args:
        report: introduction, facts, tables and curves. Its own `cases` are on the first page with all their pixels.
        cases: the prompts, in the order of the pages.
        folder: of the report, such as a run folder; made where it is missing.
        lists: the sorted lists. Their prompts that have no case are left out.
        per_page: cases on a page, fewer where the page would become heavy.
        examples: cases on the first page: the first one of each list, or the first ones of all.
        on_case: called with each case after its thumbnails are made and before its page is written.

    Raises:
        LongalignError: a file cannot be written.
        ValueError: two cases have the same number, two lists have the same name, or `per_page` is less than 1.
    """
    if per_page < 1:
        raise ValueError(f"per_page {per_page} is less than 1")
    if len({chosen.name for chosen in lists}) < len(lists):
        raise ValueError(f"lists with the same name: {[chosen.name for chosen in lists]}")
    book = _Book(report, Path(folder), per_page)
    wanted: dict[int, str] = {}
    for chosen in [c for c in lists if len(c.order)][:examples]:
        wanted.setdefault(chosen.order[0], chosen.title)
    shown: list[tuple[_Card, str]] = []
    for case, pictures in _with_thumbnails(cases, Thumbnails(book.folder)):
        card = _card(case, pictures)
        if case.number in wanted or (not wanted and len(shown) < examples):
            shown.append((card, wanted.get(case.number, "")))
        if on_case is not None:
            on_case(case)
        book.add(card)
    book.close()
    ways = [_write_list(book, chosen) for chosen in lists]
    for file in (book.folder / "pages").glob("*.html"):
        if _OURS.fullmatch(file.name) and file.name not in book.written:
            with suppress(OSError):
                file.unlink()
    places = list(wanted)
    shown.sort(
        key=lambda pair: places.index(pair[0].case.number) if wanted else 0
    )  # in the order of the lists
    return _write_first(book, [way for way in ways if way], shown)


class _Case(NamedTuple):
    """What is kept of a case after its page is written."""

    page: int
    words: str


@dataclass(frozen=True, slots=True)
class _Card:
    """A case and what its macro in the template needs.

    ``few`` has the first numbers below each picture, ``all_numbers`` the rows of a table of them.
    """

    case: PageCase
    shown: Sequence[ShownPicture]
    few: Sequence[Sequence[tuple[str, str]]]
    all_numbers: Sequence[tuple[str, Sequence[str]]]

    @property
    def small(self) -> bool:
        """Pictures of few pixels are shown enlarged, pixel by pixel."""
        sizes = [(picture.width, picture.height) for picture in self.shown if not picture.problem]
        return bool(sizes) and max(map(max, sizes)) <= SMALL_PX

    @property
    def wide(self) -> int:
        """Pictures side by side on a wide screen."""
        return min(max(len(self.shown), 2), 7)


@dataclass
class _Problem:
    count: int = 0
    first: dict[int, None] = field(default_factory=dict)  # numbers of cases


class _Book:
    """The pages as they grow: the open one in memory, and of the others where each case is."""

    def __init__(self, report: Report, folder: Path, per_page: int) -> None:
        self.report, self.folder, self.per_page = report, folder, per_page
        self.cases: dict[int, _Case] = {}
        self.pages: list[str] = []  # the title of each page, such as "1–50"
        self.problems: dict[str, _Problem] = {}
        self.written: set[str] = set()
        self._open: list[tuple[_Card, Markup]] = []
        self._bytes = 0

    def add(self, card: _Card) -> None:
        """Put a case on the open page; a full page is written first."""
        number = card.case.number
        if number in self.cases:
            raise ValueError(f"two cases have the number {number}")
        html = self.html(card, "../", "")
        size = len(html.encode("utf-8", errors="replace"))
        if self._open and (len(self._open) >= self.per_page or self._bytes + size > MOST_PAGE_BYTES):
            self._write_page(last=False)
        self._open.append((card, html))
        self._bytes += size
        self.cases[number] = _Case(len(self.pages) + 1, _first_words(card.case.prompt))
        for panel, picture in zip(card.case.panels, card.shown, strict=True):
            for text in filter(None, (picture.problem, panel.flagged)):
                self._note_problem(f"{panel.column}: {text}", number)

    def close(self) -> None:
        """Write the last page."""
        if self._open:
            self._write_page(last=True)

    def html(self, card: _Card, base: str, link: str, why: str = "") -> Markup:
        """One case. Links to pictures begin with `base`, the link to the case itself with `link`."""
        parts: Any = environment().get_template("page_parts.html.j2").module
        html = parts.show(card, base, link, self.report.window_tokens, why)
        return Markup(_INDENT.sub("\n", html))  # a sixth of the bytes; browsers collapse it anyway

    def link(self, number: int) -> str:
        """From a page to the place of a case."""
        return f"{_page_name(self.cases[number].page)}#case-{number}"

    def write(self, name: str, template: str, **context: Any) -> None:
        """Write one page in the folder ``pages``."""
        html = (
            environment().get_template(template).render(report=self.report, facts={}, glossary={}, **context)
        )
        atomic_write_text(self.folder / "pages" / name, html)
        self.written.add(name)

    def _write_page(self, last: bool) -> None:
        cards = [card for card, _ in self._open]
        page = len(self.pages) + 1
        numbers = [card.case.number for card in cards]
        self.pages.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}")
        self.write(
            _page_name(page),
            "cases_page.html.j2",
            title=f"{'Prompt' if len(numbers) == 1 else 'Prompts'} {self.pages[-1]}",
            intro="",
            before=(self.pages[-2], _page_name(page - 1)) if page > 1 else None,
            after=("next page", _page_name(page + 1)) if not last else None,
            kinds=legend_kinds([card.case for card in cards]),
            differs=any(differs(card.case) for card in cards),
            cards=[html for _, html in self._open],
        )
        self._open, self._bytes = [], 0

    def _note_problem(self, text: str, number: int) -> None:
        if text not in self.problems and len(self.problems) >= MOST_PROBLEMS:
            text = "other problems"
        problem = self.problems.setdefault(text, _Problem())
        problem.count += 1
        if len(problem.first) <= _PROBLEMS_SHOWN:
            problem.first[number] = None


def _with_thumbnails(
    cases: Iterable[PageCase], thumbnails: Thumbnails
) -> Iterator[tuple[PageCase, list[ShownPicture]]]:
    """Cases in their order, with what to show of their pictures. A few cases ahead are worked on by threads."""
    workers = min(_WORKERS, os.cpu_count() or 1)
    ahead: deque[tuple[PageCase, list[Future[ShownPicture]]]] = deque()
    pool = ThreadPoolExecutor(workers, "thumbnails")
    try:
        for case in cases:
            ahead.append((case, [pool.submit(thumbnails.of, panel.file) for panel in case.panels]))
            if len(ahead) > 2 * workers:
                first, futures = ahead.popleft()
                yield first, [future.result() for future in futures]
        for case, futures in ahead:
            yield case, [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def _card(case: PageCase, shown: Sequence[ShownPicture]) -> _Card:
    texts = {
        panel.column: {name: _number(value) for name, value in case.numbers.get(panel.column, {}).items()}
        for panel in case.panels
    }
    names = list(dict.fromkeys(name for of_column in texts.values() for name in of_column))
    rows = [(name, [texts[panel.column].get(name, "—") for panel in case.panels]) for name in names]
    return _Card(
        case,
        shown,
        few=[list(texts[panel.column].items())[:FEW_NUMBERS] for panel in case.panels],
        all_numbers=rows if len(names) > FEW_NUMBERS else [],
    )


def _write_list(book: _Book, chosen: SortedList) -> dict[str, str] | None:
    """Write the pages of a list; returns what the first page says of it, None where it has no row."""
    order = [number for number in chosen.order if number in book.cases]
    groups = [order[i : i + LIST_ROWS] for i in range(0, len(order), LIST_ROWS)]
    names = [f"by-{chosen.name}-{k:04d}.html" for k in range(1, len(groups) + 1)]
    titles = [
        f"{k * LIST_ROWS + 1:,}–{k * LIST_ROWS + len(group):,}" for k, group in enumerate(groups)
    ]  # ranks
    points = " (points)" if chosen.format.endswith("%") else ""
    columns = [(column, chosen.against is None and column == chosen.of) for column in chosen.values]
    if chosen.against is not None:
        columns.append((f"{chosen.of} − {chosen.against}{points}", True))
    for k, group in enumerate(groups):
        book.write(
            names[k],
            "list_page.html.j2",
            title=chosen.title,
            intro=chosen.note,
            place=f"Rank {titles[k]} of {len(order):,}",
            before=(titles[k - 1], names[k - 1]) if k else None,
            after=(titles[k + 1], names[k + 1]) if k + 1 < len(groups) else None,
            index=_thinned([(t, n if n != names[k] else "") for t, n in zip(titles, names, strict=True)]),
            columns=columns,
            rows=[
                {
                    "number": number,
                    "link": book.link(number),
                    "words": book.cases[number].words,
                    "cells": _cells(chosen, number),
                }
                for number in group
            ],
        )
    if not groups:
        return None
    extent = counted(len(order), "prompt") + (f". {chosen.note}" if chosen.note else "")
    return {"title": chosen.title, "link": f"pages/{names[0]}", "extent": extent}


def _cells(chosen: SortedList, number: int) -> list[str]:
    cells = [_number(of_case.get(number, math.nan), chosen.format) for of_case in chosen.values.values()]
    if chosen.against is not None:
        cells.append(_number(_by(chosen.values, chosen.of, chosen.against, number), "+" + chosen.format))
    return cells


def _write_first(book: _Book, ways: Sequence[Mapping[str, str]], shown: Sequence[tuple[_Card, str]]) -> Path:
    report, size = book.report, 0
    cards: list[Markup] = []
    kinds: set[str] = set()
    for card, why in shown:
        page = _page_name(book.cases[card.case.number].page)
        example = book.html(card, "", f"pages/{page}", why and f"First in: {why}")
        size += len(example.encode("utf-8", errors="replace"))
        if size > MOST_EXAMPLE_BYTES:
            break
        cards.append(example)
        kinds |= legend_kinds([card.case])
    pages = [(title, f"pages/{_page_name(k)}") for k, title in enumerate(book.pages, 1)]
    links = _thinned(pages)
    problems = [
        {
            "text": f"{text}: {counted(problem.count, 'picture')}",
            "first": [(n, f"pages/{book.link(n)}") for n in list(problem.first)[:_PROBLEMS_SHOWN]],
            "more": len(problem.first) > _PROBLEMS_SHOWN,
        }
        for text, problem in book.problems.items()
    ]
    html = (
        environment()
        .get_template("first_page.html.j2")
        .render(
            report=report,
            title=report.title,
            intro=report.intro,
            facts=report.facts,
            glossary=report.glossary,
            prompts=counted(len(book.cases), "prompt"),
            ways=ways,
            pages=links,
            left_out=len(links) < len(pages),
            problems=problems,
            examples=cards,
            kinds=kinds,
        )
    )
    return atomic_write_text(book.folder / "report.html", html)


def _thinned(links: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """At most `MOST_LINKS` of them, evenly."""
    return list(links[:: math.ceil(len(links) / MOST_LINKS) or 1])


def _page_name(page: int) -> str:
    return f"cases-{page:04d}.html"


def _first_words(prompt: str) -> str:
    """The beginning of a prompt on one line, cut between words where there are some."""
    text = " ".join(prompt[: 8 * FIRST_WORDS].split())
    if len(text) <= FIRST_WORDS:
        return text
    cut = text[:FIRST_WORDS]
    return (cut[: cut.rfind(" ")] if " " in cut[FIRST_WORDS // 2 :] else cut) + "…"


def _by(values: Mapping[str, Mapping[int, float]], of: str, against: str | None, number: int) -> float:
    """The number of a case in the column `of`, less that in `against`; NaN where one of them is missing."""
    own = values[of].get(number, math.nan)
    return own if against is None else own - values[against].get(number, math.nan)


def _number(value: str | float, format: str = "") -> str:
    """A number as it is printed; without a format as many digits as tell numbers of its size apart."""
    if isinstance(value, str):
        return value
    size = abs(value)
    format = format or (".1f" if size >= 100 else ".2f" if size >= 1 else ".3f")
    return str(Estimate(float(value), math.nan, math.nan, 1, format)).removesuffix(" points")
