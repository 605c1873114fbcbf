"""Options and steps that the commands of this package share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longalign.cli.terminal import print_table
from longalign.errors import LongalignError

if TYPE_CHECKING:
    from longalign.metrics.embedding import Models

ModelList = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="A preference model: NAME or LABEL=NAME, where NAME is stickers/clip or another embedded one, a CLIPModel "
        "folder, or a hub name. Again for each model, the plain CLIP first; else all embedded ones.",
    ),
]
VPrompts = Annotated[
    Path | None,
    typer.Option(
        "--v-prompts", help="Prompts to fit V on for models that have none stored: one a line, or JSONL."
    ),
]
Objects = Annotated[str, typer.Option(help="Least and greatest number of stickers of a scene.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the series of scenes.")]


def open_models(names: Sequence[str] | None, device: str, dtype: str) -> Models:
    """The models of ``--model``, not loaded yet; all embedded ones if there are none."""
    from longalign.metrics.embedding import Models, embedded_models

    return Models(names or embedded_models(), device=device, dtype=dtype)


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


def read_v_prompts(file: Path | None) -> list[str] | None:
    """The prompts of ``--v-prompts``."""
    from longalign.data.prompts import read_prompt_file

    return None if file is None else read_prompt_file(file)


def v_facts(sources: Mapping[str, str]) -> dict[str, str]:
    """For the report: where each model's V is from."""
    return {f"V of {label}": source for label, source in sources.items()}


def finish(
    command: str,
    config: Mapping[str, Any],
    tables: Sequence[Any],
    result: Mapping[str, Any],
    *,
    as_json: bool,
    shown: slice = slice(None),
    **report: Any,
) -> None:
    """Writes the run folder; prints JSON, or the tables."""
    from longalign.evaluation.output import write_run
    from longalign.runs import json_line

    run = write_run(command, config, tables, [result], **report)
    if as_json:
        print(json_line({"folder": run.path, "report": run.report, **result}), end="")
        return
    for table in tables[shown]:
        print_table(table)
    for fact, value in report["facts"].items():
        print(f"{fact}: {value}")
    print(f"report: {run.report}")
