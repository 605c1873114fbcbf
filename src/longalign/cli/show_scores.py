"""Scores on the terminal: coloured, and readable without colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from longalign.cli.terminal import MOST_ROWS, plain_text
from longalign.preference import SegmentScore
from longalign.report import counted, signed
from longalign.scoring.data import Failure
from longalign.scoring.outcome import Outcome
from longalign.scoring.page import NAMES, said_of, share_of
from longalign.scoring.ranking import Ranking, worst_row
from longalign.scoring.stream import Scored

_BAR_CELLS = 12
_EIGHTHS = " ▏▎▍▌▋▊▉█"
# All are readable on dark and on light backgrounds. Without a verdict nothing is coloured.
_STYLES = {"true": "#0f9d8f", "false": "bold #d9541e", "doubtful": "dim"}
_PICTURES_ACROSS = 6
_CARDS_SHOWN = 8
_FAILURES_SHOWN = 10


def style_of(segment: SegmentScore) -> str:
    """The style of a sentence: that of its verdict."""
    return _STYLES.get(segment.verdict or "", "")


def bar(value: float, low: float, high: float) -> str:
    """A score as a bar from the zero line ``│``, to the right if it is positive and to the left if negative.

    Args:
        value: the score.
        low, high: least and greatest score of all bars that are to be compared.
    """
    zero = round(_BAR_CELLS * share_of(0.0, low, high) / 100)  # cells on the left of the line
    length = _BAR_CELLS * abs(share_of(value, low, high) - share_of(0.0, low, high)) / 100
    if value < 0:
        return ("█" * max(1, min(zero, round(length)))).rjust(zero) + "│"
    eighths = max(1, round(8 * min(length, _BAR_CELLS - zero)))
    return " " * zero + "│" + "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def show_outcome(outcome: Outcome, console: Any) -> None:
    """The ranking, or each picture, or the summary and the lowest sentences of a data set."""
    if outcome.ranking is not None:
        show_ranking(outcome.kept, outcome.ranking, console)
    else:
        for item in outcome.kept[:_CARDS_SHOWN]:
            show_card(item, console)
        if left := len(outcome.kept[_CARDS_SHOWN:]):
            console.print(
                f"… {counted(left, 'more picture')}: --out writes a page of all, --json prints them"
            )
    if not outcome.kept:
        show_summary(outcome, console)
    if outcome.lowest:
        show_lowest(outcome.lowest, console)


def _numbers(item: Scored) -> str:
    return "   ".join(
        f"{NAMES[name]} {signed(value, '.2f' if name == 'eta' else '.1f')}"
        for name, value in item.scores.items()
    )


def show_card(item: Scored, console: Any) -> None:
    """One picture: each sentence with score, bar and verdict; the lowest one is marked unless it is called true."""
    from rich.table import Table
    from rich.text import Text

    values = item.values
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("sentence", overflow="fold")
    table.add_column("", overflow="fold")
    for k, (segment, value) in enumerate(zip(item.segments, values, strict=True)):
        style = style_of(segment)
        said = [said_of(segment), "◀ lowest" if k == item.suspect else ""]
        table.add_row(
            Text(signed(value), style),
            Text(bar(value, min(values), max(values)), style),
            plain_text(segment.text),
            Text("\n".join(filter(None, said)), style),
        )
    console.print(plain_text(item.pair.name), style="bold", soft_wrap=True)
    console.print(table)
    console.print(plain_text(f"  {_numbers(item)}\n"), soft_wrap=True)


def show_ranking(items: Sequence[Scored], ranking: Ranking, console: Any) -> None:
    """Pictures of one prompt, the best one first; a star at the best of each sentence unless it is false there."""
    from rich.table import Table
    from rich.text import Text

    order = list(ranking.order)[:_PICTURES_ACROSS]
    console.print("best first", style="bold")
    for place, i in enumerate(order, 1):
        console.print(plain_text(f"{place}  {items[i].pair.name}"), soft_wrap=True)
        console.print(plain_text(f"   {_numbers(items[i])}"), soft_wrap=True)
    if left := len(ranking.order) - len(order):
        console.print(f"… {counted(left, 'more picture')}: --out writes a page of all, --json prints them")
    table = Table(box=None, padding=(0, 1))
    for place in range(1, len(order) + 1):
        table.add_column(str(place), justify="right", no_wrap=True)
    table.add_column("sentence", overflow="fold", min_width=12)
    for k, segment in enumerate(items[0].segments):
        cells = []
        for i in order:
            of_picture = items[i].segments[k]
            star = "★" if ranking.best[k] == i and of_picture.verdict != "false" else " "
            mark = {"false": "✗", "doubtful": "?", "true": " "}.get(of_picture.verdict or "", "")
            cells.append(Text(f"{signed(items[i].values[k])}{star}{mark}", style_of(of_picture)))
        table.add_row(*cells, plain_text(segment.text))
    console.print(table)
    legend = ["★ best picture for the sentence"]
    if any(s.verdict is not None for item in items for s in item.segments):
        legend += ["✗ called false", "? doubtful"]
    console.print(", ".join(legend), style="dim")


def show_summary(outcome: Outcome, console: Any) -> None:
    """Mean and deviation of each score."""
    from rich.table import Table

    summary = outcome.summary
    table = Table("score", "mean", "deviation", box=None)
    for name, mean in summary.mean.items():
        digits = ".2f" if name == "eta" else ".1f"
        table.add_row(NAMES.get(name, name), signed(mean, digits), signed(summary.deviation(name), digits))
    console.print(counted(summary.scored, "pair"), style="bold")
    console.print(table)


def show_lowest(items: Sequence[Scored], console: Any) -> None:
    """The lowest sentence of each picture, the lowest first: its score, the mean of the others, the picture."""
    from rich.text import Text

    console.print("lowest sentences", style="bold")
    for place, item in enumerate(items[:MOST_ROWS], 1):
        row, segment = worst_row(item), item.segments[item.worst]
        others = "" if row["others"] is None else f", its other sentences {signed(row['others'])}"
        said = f", {said_of(segment)}" if said_of(segment) else ""
        console.print(Text(f"{place:>3}  {signed(row['score'])}{others}{said}", style_of(segment)))
        console.print(plain_text(f"     {row['sentence']}"), soft_wrap=True)
        console.print(plain_text(f"     {row['image']}"), soft_wrap=True)
    if left := len(items) - MOST_ROWS if len(items) > MOST_ROWS else 0:
        console.print(
            f"… {counted(left, 'more sentence')}: --out writes all to worst.jsonl, --json prints them"
        )


def failure_lines(failures: Sequence[Failure], total: int) -> list[str]:
    """The lines about failures for standard error."""
    lines = [f"longalign: skipped {f.name}: {f.reason}" for f in failures[:_FAILURES_SHOWN]]
    if total > len(lines):
        lines.append(f"longalign: skipped {total - len(lines):,} more")
    return lines
