"""`longalign curves`."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.measuring import finish
from longalign.cli.options import Json, Out, Overwrite
from longalign.cli.terminal import check_out


def curves(
    runs: Annotated[
        list[str],
        typer.Argument(help="Folders of `longalign train`; NAME=FOLDER labels one, ω=0.3=FOLDER too."),
    ],
    metrics: Annotated[
        str | None, typer.Option(help="Names of the metrics to draw, with commas between; else all.")
    ] = None,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw the held-out curves of several training runs together: one figure for each metric, one line for each run.

    Example:

        longalign curves "ω = 0=runs/w0" "ω = 0.3=runs/w03" "ω = 1=runs/w1" --metrics true,diversity
    """
    from longalign.evaluation.curves import overlay, read_runs

    check_out(out, overwrite)
    names = None if metrics is None else [m.strip() for m in metrics.split(",") if m.strip()]
    found = overlay(read_runs(runs), names)
    finish(
        "curves",
        {"runs": runs, "metrics": names},
        found.tables(),
        found.to_json(),
        title="Training runs on held-out data",
        intro="Each line is one run, measured on prompts that it was not trained on.",
        facts={"runs": ", ".join(found.labels)},
        curves=found.curves(),
        out=out,
        overwrite=overwrite,
        as_json=as_json,
    )
