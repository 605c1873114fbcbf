"""Steps that the commands share which measure runs and preference models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longalign.cli.terminal import command_line, show_run

if TYPE_CHECKING:
    from longalign.metrics.embedding import Models


def open_models(names: Sequence[str] | None, device: str, dtype: str) -> Models:
    """The models of ``--model``, not loaded yet; all embedded ones if there are none."""
    from longalign.metrics.embedding import Models, embedded_models

    return Models(names or embedded_models(), device=device, dtype=dtype)


def read_v_prompts(file: Path | None) -> Sequence[str] | None:
    """The prompts of ``--v-prompts``."""
    from longalign.data.prompts import read_prompt_file

    return None if file is None else read_prompt_file(file)


def v_facts(sources: Mapping[str, str]) -> dict[str, str]:
    """The source of each model's V, for the report."""
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
    """Writes the run folder, then prints JSON or the tables.

    Args:
        command, config, tables, report: arguments of `write_run`.
        result: the numbers, for the run folder and for ``--json``.
        as_json: print JSON.
        shown: which of the tables the terminal shows.
    """
    from longalign.evaluation.output import write_run

    run = write_run(command, config, tables, [result], command_line=command_line(), **report)
    show_run(tables[shown], run.report, result, as_json=as_json, facts=report["facts"])
