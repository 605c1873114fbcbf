"""Scores on the terminal: coloured, and readable without colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from longalign.cli.terminal import plain_text
from longalign.report import signed
from longalign.scoring.data import Failure
from longalign.scoring.outcome import Outcome
from longalign.scoring.page import said_of
from longalign.scoring.ranking import Ranking, worst_row
from longalign.scoring.stream import Scored

_BAR_CELLS = 10
_EIGHTHS = " ▏▎▍▌▋▊▉█"
# From the lowest to the highest. All are readable on dark and on light backgrounds.
_STYLES = ("bold #d9541e", "#c98a4b", "", "#3f9f95", "bold #0f9d8f")
_PICTURES_ACROSS = 6
_FAILURES_SHOWN = 10


def style_of(share: float) -> str:
    """The style of a score that lies at ``share`` (0 to 1) of its scale."""
    return _STYLES[min(int(share * len(_STYLES)), len(_STYLES) - 1)]


def shares_of(values: Sequence[float], low: float, high: float) -> list[float]:
    """Where values lie between ``low`` and ``high``, from 0 to 1; 0.5 if ``low == high``."""
    return [0.5 if high <= low else (value - low) / (high - low) for value in values]


def bar(share: float) -> str:
    """``share`` (0 to 1) as at most ten cells, at least the thinnest."""
    eighths = max(1, round(share * _BAR_CELLS * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def show_outcome(outcome: Outcome, console: Any) -> None:
    """The ranking, or each picture, or the summary and the lowest sentences of a data set."""
    if outcome.ranking is not None:
        show_ranking(outcome.kept, outcome.ranking, console)
    else:
        for item in outcome.kept:
            show_card(item, console)
    if not outcome.kept:
        show_summary(outcome, console)
    if outcome.lowest:
        show_lowest(outcome.lowest, console)


def _numbers(item: Scored) -> str:
    return "   ".join(
        f"{name.replace('_', ' ')} {signed(value, '.2f' if name == 'eta' else '.1f')}"
        for name, value in item.scores.items()
    )


def show_card(item: Scored, console: Any) -> None:
    """One picture: each sentence with score, bar and verdict; the lowest one is marked unless it is called true."""
    from rich.table import Table
    from rich.text import Text

    values = item.values
    shares = shares_of(values, min(values), max(values))
    table = Table(title=plain_text(item.pair.name), title_justify="left", box=None, padding=(0, 1))
    table.add_column("score", justify="right")
    table.add_column("", width=_BAR_CELLS)
    table.add_column("sentence")
    table.add_column("")
    table.add_column("")
    for k, (segment, value, share) in enumerate(zip(item.segments, values, shares, strict=True)):
        style = style_of(share)
        table.add_row(
            Text(signed(value), style),
            Text(bar(share), style),
            Text(segment.text, style),
            said_of(segment),
            "◀ worst" if k == item.suspect else "",
        )
    console.print(table)
    console.print(plain_text(f"  {_numbers(item)}\n"), soft_wrap=True)


def show_ranking(items: Sequence[Scored], ranking: Ranking, console: Any) -> None:
    """Pictures of one prompt: a column each, the best one first; a star at the best of each sentence."""
    from rich.table import Table
    from rich.text import Text

    order = list(ranking.order)[:_PICTURES_ACROSS]
    values = [items[i].values for i in order]
    low, high = min(map(min, values)), max(map(max, values))
    names = Table("", "picture", "scores", title="best first", title_justify="left", box=None, padding=(0, 1))
    for place, i in enumerate(ranking.order, 1):
        names.add_row(str(place), plain_text(items[i].pair.name), plain_text(_numbers(items[i])))
    console.print(names)
    table = Table("sentence", box=None, padding=(0, 1))
    for place in range(1, len(order) + 1):
        table.add_column(str(place), justify="right")
    for k, segment in enumerate(items[0].segments):
        cells = []
        for column, i in enumerate(order):
            [share] = shares_of([values[column][k]], low, high)
            star = "★" if ranking.best[k] == i else " "
            said = items[i].segments[k].verdict
            mark = {"false": " ✗", "doubtful": " ?"}.get(said or "", "")
            cells.append(Text(f"{signed(values[column][k])}{star}{mark}", style_of(share)))
        table.add_row(plain_text(segment.text), *cells)
    console.print(table)
    if len(ranking.order) > len(order):
        console.print(f"The {len(order)} best of {len(ranking.order)}; --json and --out have all.")


def show_summary(outcome: Outcome, console: Any) -> None:
    """Mean and deviation of each score."""
    from rich.table import Table

    summary = outcome.summary
    table = Table(
        "score", "mean", "deviation", title=f"{summary.scored:,} pairs", title_justify="left", box=None
    )
    for name, mean in summary.mean.items():
        digits = ".2f" if name == "eta" else ".1f"
        table.add_row(name.replace("_", " "), signed(mean, digits), signed(summary.deviation(name), digits))
    console.print(table)


def show_lowest(items: Sequence[Scored], console: Any) -> None:
    """The lowest sentence of each picture, the lowest first."""
    from rich.table import Table
    from rich.text import Text

    rows = [worst_row(item) for item in items]
    shares = shares_of([row["score"] for row in rows], rows[0]["score"], rows[-1]["score"])
    table = Table(title="lowest sentences", title_justify="left", box=None, padding=(0, 1))
    table.add_column("", justify="right")
    table.add_column("score", justify="right")
    table.add_column("others", justify="right")
    table.add_column("verdict")
    table.add_column("sentence")
    table.add_column("picture", overflow="fold")
    for place, (row, share) in enumerate(zip(rows, shares, strict=True), 1):
        others = "" if row["others"] is None else signed(row["others"])
        table.add_row(
            str(place),
            Text(signed(row["score"]), style_of(share / 2)),  # all of them are low
            others,
            row.get("verdict", ""),
            plain_text(row["sentence"]),
            plain_text(row["image"]),
        )
    console.print(table)


def failure_lines(failures: Sequence[Failure], total: int) -> list[str]:
    """The lines about failures for standard error."""
    lines = [f"longalign: skipped {f.name}: {f.reason}" for f in failures[:_FAILURES_SHOWN]]
    if total > len(lines):
        lines.append(f"longalign: skipped {total - len(lines):,} more")
    return lines
