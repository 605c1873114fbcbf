"""`longalign data`: captioned pictures in other files, and pictures that occur more than once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from longalign.cli.options import Json, On, Split, Workers, engine_of
from longalign.cli.terminal import print_json, print_json_list, progress

Data = Annotated[str, typer.Argument(help="Captioned pictures, as for `longalign cache`, or stickers:1000.")]
Images = Annotated[
    Path | None, typer.Option(help="Folder that picture paths are relative to; else that of DATA.")
]
Column = Annotated[str | None, typer.Option(help="Key of the captions; else caption, prompt or text.")]
_SHOWN = 100  # groups on the page


def convert(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the shards. With shards in it the command goes on.")],
    format: Annotated[str, typer.Option(help="webdataset (.tar) or parquet.")] = "webdataset",
    rows: Annotated[int, typer.Option(min=1, help="Rows of a shard.")] = 10_000,
    images: Images = None,
    column: Column = None,
    split: Split = "train",
    on: On = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Write captioned pictures as WebDataset tars or parquet files.

    Files of pictures are copied as they are. `longalign cache`, `score --data` and recipes read the folder. Example:

        longalign data convert my-pictures --format parquet --out shards
    """
    from longalign.data.convert import convert as run

    source = _source(data, images, column, split)
    with progress("writing", len(source())) as advance:
        report = run(
            source,
            out,
            name=data,
            format=format,
            rows=rows,
            engine=engine_of(on, workers),
            on_rows=advance,
        )
    if as_json:
        print_json(report.to_json())
        return
    from longalign.report import counted

    print(f"{counted(report.rows, 'row')} in {counted(report.shards, 'shard')}: {out}")
    if report.skipped:
        print(f"left out: {counted(report.skipped, 'row')}, listed in {out / 'skipped.jsonl'}")


def duplicates(
    data: Data,
    near: Annotated[
        int | None,
        typer.Option(
            help="Also pictures that look alike: bits of 64 that may differ; 4 is strict, 10 is loose."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for duplicates.jsonl, a page, and the hashes, with which the command goes on."
        ),
    ] = None,
    images: Images = None,
    column: Column = None,
    split: Split = "train",
    on: On = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Find pictures that occur more than once: with the same bytes, or nearly alike.

    Examples:

        longalign data duplicates my-pictures

        longalign data duplicates my-pictures --near 6 --out runs/twice
    """
    from longalign.data.duplicates import find_duplicates
    from longalign.report import counted

    load = _source(data, images, column, split)
    source = load()
    folder = None if out is None else out / "hashes"
    with progress("hashing", len(source)) as advance:
        found = find_duplicates(
            load, near=near, folder=folder, engine=engine_of(on, workers), on_rows=advance
        )
    rows = (_group_json(source, group) for group in found.groups)
    if out is not None:
        from longalign.runs import atomic_path, json_line

        with atomic_path(out / "duplicates.jsonl") as path, open(path, "wb") as file:
            for row in rows:
                file.write(json_line(row).encode("utf-8", "backslashreplace"))
        rows = (_group_json(source, group) for group in found.groups)
        _write_page(source, found, out / "report.html")
    if as_json:
        head = {"rows": found.rows, "failed": found.failed, "extra": found.extra}
        print_json_list(head, "groups", rows)
        return
    print(
        f"{counted(found.extra, 'row')} of {found.rows:,} repeat an earlier picture, in "
        f"{counted(len(found.groups), 'group')}"
    )
    for row, _ in zip(rows, range(10), strict=False):
        print(f"  {'the same' if row['same'] else 'alike'}: {', '.join(row['names'][:4])}")
    if found.failed:
        print(f"cannot be read: {counted(found.failed, 'row')}")
    if out is not None:
        print(f"report: {out / 'report.html'}")


def _source(data: str, images: Path | None, column: str | None, split: str) -> Any:
    """Opens the data, a row a picture."""
    from functools import partial

    from longalign.data.sources import named_source

    folder = None if images is None else str(images)
    return partial(named_source, data, split=split, images=folder, column=column, captions="random")


def _group_json(source: Any, group: Any) -> dict[str, Any]:
    return {"same": group.same, "rows": group.rows, "names": [source[row].name for row in group.rows]}


def _write_page(source: Any, found: Any, path: Path) -> None:
    from longalign.cli.terminal import command_line
    from longalign.errors import LongalignError
    from longalign.report import Case, Panel, Report, counted, write_report
    from longalign.versions import provenance

    cases = []
    for number, group in enumerate(found.groups[:_SHOWN], 1):
        panels = []
        for row in group.rows[:8]:
            try:
                image = source[row].picture()
            except LongalignError:
                continue
            image.thumbnail((192, 192))
            panels.append(Panel(source[row].name, image))
        title = f"{number}. {counted(len(group.rows), 'row')}, {'the same' if group.same else 'alike'}"
        cases.append(Case(title=title, prompt=source[group.rows[0]].text, panels=panels, sentences=[]))
    more = f" The page shows the first {_SHOWN} groups." if len(found.groups) > _SHOWN else ""
    intro = (
        f"{counted(found.extra, 'row')} of {found.rows:,} repeat an earlier picture, in "
        f"{counted(len(found.groups), 'group')}.{more}"
    )
    facts = provenance({}, command_line())
    write_report(
        Report(title="Pictures that occur more than once", intro=intro, facts=facts, cases=cases), path
    )
