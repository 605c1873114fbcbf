"""What the commands share: options, a progress bar, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from longalign.report import Table

Prompts = Annotated[
    list[str], typer.Argument(help="Prompts: text, @file (one a line, or JSONL), or - for standard input.")
]
Model = Annotated[
    str,
    typer.Option(
        help="'stickers' (embedded; also stickers-sdxl, stickers-sd3), a diffusers folder, or a hub name."
    ),
]
Out = Annotated[Path | None, typer.Option(help="Run folder to write; else runs/<command>-<date>-NNN.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines on standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, float16, bfloat16.")]
Language = Annotated[str, typer.Option(help="Language of the prompts, for cutting sentences (ISO 639-1).")]
SegmentsOption = Annotated[str, typer.Option(help="How to cut prompts: sentence, packed or released.")]


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error (none where that is no terminal); yields the function that advances it.

    Args:
        title: what is going on.
        total: of how many; None where nobody knows.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def plain_text(text: str) -> Any:
    """Text for rich as it stands: not as its markup, since a prompt may hold [brackets]."""
    from rich.text import Text

    return Text(text)


def print_table(table: Table) -> None:
    """A report's table on the terminal; estimates with their intervals, below them where the terminal is narrow."""
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
