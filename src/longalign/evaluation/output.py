"""The run folder of a measurement: settings, numbers, report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longalign.report import Case, Curve, Report, Table, write_report
from longalign.runs import RunFolder
from longalign.versions import versions


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
) -> RunFolder:
    """Writes ``config.yaml``, ``metrics.jsonl`` (the records), ``report.html`` and ``report.jsonl``.

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
        facts={"command": shlex.join(["longalign", *sys.argv[1:]]), **facts, **versions()},
        tables=tables,
        cases=cases,
        curves=curves,
    )
    write_report(report, run.report, jsonl=run.path / "report.jsonl")
    return run
