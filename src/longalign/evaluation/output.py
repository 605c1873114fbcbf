"""The run folder of a measurement: settings, numbers, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longalign.report import Case, Curve, Report, Table, write_report
from longalign.runs import RunFolder
from longalign.versions import provenance


def write_run(
    command: str,
    config: Mapping[str, Any],
    tables: Sequence[Table],
    records: Sequence[Mapping[str, Any]],
    *,
    title: str,
    intro: str,
    facts: Mapping[str, str],
    cases: Sequence[Case] = (),
    curves: Sequence[Curve] = (),
    out: Path | None = None,
    overwrite: bool = False,
    command_line: str | None = None,
) -> RunFolder:
    """Writes ``config.yaml``, ``metrics.jsonl`` (the records), ``report.html`` and ``report.jsonl``.

    Args:
        command: name of the command, for ``config.yaml`` and the names of new folders.
        command_line: what the user typed, for the report; None where there was no command.

    Raises:
        LongalignError: the folder holds files already, or cannot be written.
    """
    settings = {"command": command, **config}
    run = RunFolder(out, settings, overwrite=overwrite) if out else RunFolder.new(command, settings)
    for record in records:
        run.log(record)
    report = Report(
        title=title,
        intro=intro,
        facts=provenance(facts, command_line),
        tables=tables,
        cases=cases,
        curves=curves,
    )
    write_report(report, run.report, jsonl=run.path / "report.jsonl")
    return run
