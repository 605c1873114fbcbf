"""Output of the commands: progress bars, tables, JSON, and the run folder at the end."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longalign.errors import LongalignError

if TYPE_CHECKING:
    from longalign.report import Estimate, SentenceRow, Table
    from longalign.weights.convert import Converted


def command_line() -> str:
    """What the user typed, as it can be typed again. Reports show it."""
    return shlex.join(["longalign", *sys.argv[1:]])


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; yields the function that advances it. Nothing is shown outside a terminal.

    Args:
        title: what the program does.
        total: number of units; None if it is unknown.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def plain_text(text: str) -> Any:
    """Text for rich without markup: a prompt may contain [brackets]."""
    from rich.text import Text

    return Text(text)


def print_line(text: str) -> None:
    """A line with rich's markup, which a narrow terminal does not cut: paths stay whole."""
    from rich.console import Console

    Console().print(text, soft_wrap=True)


def print_json(value: Any) -> None:
    """One line of strict JSON on standard output; NaN and ±∞ become null."""
    from longalign.runs import json_line

    print(json_line(value), end="")


def print_json_list(head: Mapping[str, Any], name: str, rows: Iterable[Any]) -> None:
    """One JSON object on standard output whose last value is a list, written row by row: it may be long.

    Args:
        head: the values before it.
        name: of the list.
        rows: its members.
    """
    from longalign.runs import json_line

    print(f"{json_line(head)[:-2]}, {json.dumps(name)}: [", end="")
    for number, row in enumerate(rows):
        print("," if number else "", json_line(row)[:-1], sep="\n", end="")
    print("]}")


MOST_ROWS = 30  # of a table on the terminal: about a screen
MOST_LINES = 120  # of all tables of a command


def print_table(table: Table, where: str = "") -> int:
    """A report's table, with every figure whole however narrow the terminal is. Returns the number of lines.

    Intervals stand beside their estimates, or below them where the terminal is narrow. Rows and columns are exchanged
    where the table then fits; else each row becomes a block with a line for each column. A long table ends after
    `MOST_ROWS` rows.

    Args:
        table: the table.
        where: where the rest of a long table is, such as the path of the report.
    """
    from rich.console import Console

    console = Console()
    rows = list(table.rows)[:MOST_ROWS]
    flipped = _flipped(table, rows)
    candidates = [(table, rows), *([flipped] if flipped is not None else [])]
    shown = None
    for make in (_side_by_side, _figures_below, _stacked):
        for candidate, its_rows in candidates:
            if shown is None:
                shown = make(candidate, its_rows, console)
    left = len(table.rows) - len(rows)
    hint = f"… {left:,} more rows{f': see {where}' if where else '; --json has them'}" if left else ""
    with console.capture() as captured:
        console.print(shown)
        if hint:
            console.print(plain_text(hint), soft_wrap=True)
        if table.note:
            console.print(plain_text(table.note), style="dim")
    text = captured.get()
    sys.stdout.write(text)
    return text.count("\n")


def _cell_text(cell: str | Estimate, between: str) -> str:
    return (
        str(cell) if isinstance(cell, str) or not cell.interval else f"{cell}{between.format(cell.interval)}"
    )


def _side_by_side(table: Table, rows: Sequence[Sequence[Any]], console: Any) -> Any:
    """The ordinary table, or None if a cell would have to wrap."""
    from rich.table import Table as Shown

    made = Shown(title=plain_text(table.caption), title_justify="left", title_style="bold")
    for heading in table.columns:
        made.add_column(plain_text(heading))
    for row in rows:
        made.add_row(*(plain_text(_cell_text(cell, " ({})")) for cell in row))
    unbounded = console.options.update(max_width=100_000)
    return made if console.measure(made, options=unbounded).maximum <= console.width else None


def _figures_below(table: Table, rows: Sequence[Sequence[Any]], console: Any) -> Any:
    """A table whose intervals are below the estimates; texts and headings wrap between words. None if too wide."""
    from rich import box
    from rich.table import Table as Shown

    cells = [[_cell_text(cell, "\n{}") for cell in row] for row in rows]
    least, most = [], []
    for k, heading in enumerate(table.columns):
        texts = [row[k] for row in cells]
        figures = [text for row, text in zip(rows, texts, strict=True) if not isinstance(row[k], str)]
        words = [word for text in (heading, *texts) for word in text.split()]
        lines = [line for text in texts for line in text.split("\n")]
        whole = [line for text in figures for line in text.split("\n")]  # an interval is not wrapped
        least.append(max(map(_width, [*words, *whole]), default=1))
        most.append(max(map(_width, [heading, *lines]), default=1))
    least[0] = max(least[0], min(most[0], 14))  # row names one word a line are hard to read
    room = console.width - sum(least) - 2 * (len(least) - 1)
    if room < 0:
        return None
    widths = list(least)
    by_need = sorted(range(len(least)), key=lambda k: most[k] - least[k])
    for done, k in enumerate(by_need):
        widths[k] += min(most[k] - least[k], room // (len(by_need) - done))
        room -= widths[k] - least[k]
    if any(widths[k] < 20 and most[k] > 4 * widths[k] for k in range(len(widths))):
        return None  # sentences in columns of a word's width
    made = Shown(
        title=plain_text(table.caption),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        title_style="bold",
    )
    for heading, width in zip(table.columns, widths, strict=True):
        made.add_column(plain_text(heading), width=width, overflow="fold")
    for row in cells:
        made.add_row(*map(plain_text, row))
    return made


def _flipped(table: Table, rows: Sequence[Sequence[Any]]) -> tuple[Table, Sequence[Sequence[Any]]] | None:
    """The table with rows and columns exchanged, if that makes fewer columns and its cells are short."""
    from longalign.report import Table as Made

    short = all(_width(cell) <= 24 for row in rows for cell in row[1:] if isinstance(cell, str))
    if len(rows) + 1 >= len(table.columns) or not short:
        return None
    exchanged = [[name, *(row[k] for row in rows)] for k, name in enumerate(table.columns) if k]
    head = [str(row[0]) for row in rows]
    return Made(table.caption, [table.columns[0], *head], exchanged, note=table.note), exchanged


def _stacked(table: Table, rows: Sequence[Sequence[Any]], console: Any) -> Any:
    """Each row as a block: its name, and below it a line for each column, figures under one another."""
    from rich.text import Text

    head = table.columns[0]
    lines = [table.caption]
    across = max(map(_width, table.columns[1:]), default=0)
    for row in rows:
        lines.append(f"{head} {row[0]}" if head else str(row[0]))
        for heading, cell in zip(table.columns[1:], row[1:], strict=True):
            text = _cell_text(cell, " ({})")
            name = heading + " " * (across - _width(heading))
            if 4 + across + _width(text) <= console.width:
                lines.append(f"  {name}  {text}")
            else:
                lines += [f"  {heading}", f"    {text}"]
    shown = Text("\n".join(lines), overflow="fold")
    shown.stylize("bold", 0, len(table.caption))
    return shown


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def print_paths(title: str, paths: Sequence[Path | str], most: int = 8) -> None:
    """A title and paths, each on a row of its own and never broken; after `most` of them how many are left.

    Args:
        title: plain text; a single path follows it below, too.
        paths: files of one folder, which a long list ends with.
        most: how many are listed.
    """
    print(title)
    shown = paths if len(paths) <= most + 1 else paths[:most]
    for path in shown:
        print(f"  {path}")
    if left := len(paths) - len(shown):
        print(f"  … {left:,} more in {Path(paths[-1]).parent}")


def show_run(
    tables: Sequence[Table],
    report: Path,
    result: Mapping[str, Any],
    *,
    as_json: bool,
    facts: Mapping[str, str] | None = None,
) -> None:
    """The end of a command that measured something: its tables, facts and report, or all of it as JSON.

    Args:
        tables: for the terminal.
        report: the page in the run folder.
        result: for ``--json``, after the paths of folder and report.
        as_json: print JSON.
        facts: name → value, below the tables.
    """
    if as_json:
        print_json({"folder": report.parent, "report": report, **result})
        return
    show_tables(tables, str(report))
    for name, value in (facts or {}).items():
        print(f"{name}: {value}")
    print(f"report: {report}")


def show_tables(tables: Sequence[Table], where: str = "") -> None:
    """Tables until `MOST_LINES` lines are printed, and the captions of the rest.

    Args:
        tables: in order.
        where: where the rest is, such as the path of the report.
    """
    lines = 0
    for k, table in enumerate(tables):
        if lines > MOST_LINES:
            rest = tables[k:]
            print(f"… {len(rest)} more tables{f', see {where}' if where else ''}:")
            for other in rest:
                print(f"  {other.caption}")
            return
        if k:
            print()
        lines += print_table(table, where)


def show_files(done: Converted, as_json: bool) -> None:
    """What an import or an export wrote: its kind, its facts, its files."""
    if as_json:
        print_json(done.to_json())
        return
    facts = ", ".join(f"{name} {value}" for name, value in done.facts.items() if value is not None)
    print(f"{done.kind}: {facts}")
    for file in done.files:
        print(f"  {file}")


def tell_unjudged(prompts: Iterable[Sequence[SentenceRow]], world: str | None, most: int = 3) -> None:
    """Say on standard error which sentences the judge of the model's world could not read.

    Args:
        prompts: the sentences of each prompt, with their marks.
        world: the world that judges the model's pictures; None: there is no judge, and nothing to say.
        most: sentences that are named.
    """
    if world is None:
        return
    silent: dict[str, None] = {}
    for row in (row for of_prompt in prompts for row in of_prompt):
        if len(silent) <= most and "unjudged" in row.marks.values():
            silent[row.text] = None
    if silent:
        named = ", ".join(f"“{text}”" for text in list(silent)[:most]) + (", …" if len(silent) > most else "")
        print(
            f"longalign: not judged, since the oracle knows only what stands where, on which disc, and the background: "
            f"{named}",
            file=sys.stderr,
        )


def check_out(out: Path | None, overwrite: bool) -> None:
    """Refuses a folder that the run could not be written to, before minutes of measuring and not after.

    Raises:
        LongalignError: ``out`` is a file, or holds files and is not to be overwritten.
    """
    if out is None or not out.exists():
        return
    if not out.is_dir():
        raise LongalignError(f"{out} is a file; a run needs a folder. Choose another name.")
    if not overwrite and any(out.iterdir()):
        raise LongalignError(f"{out} already holds files. Choose another folder, or --overwrite.")
