"""Output of the commands: progress bars, tables, JSON, and the run folder at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longalign.errors import LongalignError

if TYPE_CHECKING:
    from longalign.report import SentenceRow, Table
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


def print_table(table: Table) -> None:
    """A report's table. Intervals stand beside their estimates, or below them where the terminal is narrow."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Shown

    def shown(cell: str, **style: Any) -> Shown:
        made = Shown(*table.columns, title=table.caption, caption=table.note or None, **style)
        for row in table.rows:
            made.add_row(
                *[str(c) if isinstance(c, str) or not c.interval else cell.format(c, c.interval) for c in row]
            )
        return made

    console = Console()
    wide = shown("{} ({})")
    unbounded = console.options.update(max_width=10_000)
    fits = console.measure(wide, options=unbounded).maximum <= console.width
    narrow = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
    console.print(wide if fits else shown("{}\n{}", **narrow))


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
    for table in tables:
        print_table(table)
    for name, value in (facts or {}).items():
        print(f"{name}: {value}")
    print(f"report: {report}")


def show_files(done: Converted, as_json: bool) -> None:
    """What an import or an export wrote: its kind, its facts, its files."""
    if as_json:
        print_json(done.to_json())
        return
    facts = ", ".join(f"{name} {value}" for name, value in done.facts.items() if value is not None)
    print(f"{done.kind}: {facts}")
    for file in done.files:
        print(f"  {file}")


def tell_unjudged(prompts: Sequence[Sequence[SentenceRow]], most: int = 3) -> None:
    """Say on standard error which sentences the judge of the model's world could not read.

    Args:
        prompts: the sentences of each prompt, with their marks. A model without a world has none.
        most: sentences that are named.
    """
    rows = [row for of_prompt in prompts for row in of_prompt]
    if all(mark == "unjudged" for row in rows for mark in row.marks.values()):
        return  # of no world, or a prompt of something else altogether
    silent = list(dict.fromkeys(row.text for row in rows if "unjudged" in row.marks.values()))
    if silent:
        named = ", ".join(f"“{text}”" for text in silent[:most]) + (", …" if len(silent) > most else "")
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
