"""`longalign stickers trust`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.measuring import finish
from longalign.cli.options import Device, Json, Out, Overwrite
from longalign.cli.terminal import check_out, progress


def trust(
    scenes: Annotated[int, typer.Option(min=2, help="Held-out scenes of each length.")] = 200,
    metrics: Annotated[
        str, typer.Option(help="Scores that are tested, with commas between.")
    ] = "clipscore,pickscore,denscore,denscore_o,verdict",
    results: Annotated[
        Path | None,
        typer.Option(
            help="results.jsonl of `longalign evaluate` with the oracle: pictures that models drew."
        ),
    ] = None,
    device: Device = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Test which automatic scores can be trusted: each one against the oracle, by prompt length and kind of mistake.

    Example:

        longalign stickers trust --scenes 200 --results runs/table2/results.jsonl
    """
    from longalign.studies.trust import trust as run
    from longalign.studies.trust import trust_steps

    check_out(out, overwrite)
    with progress("measuring", trust_steps(scenes)) as advance:
        found = run(scenes, metrics=metrics, results=results, device=device, on_step=advance)
    finish(
        "trust",
        {"scenes": scenes, "metrics": metrics, "results": results and str(results)},
        found.tables(),
        found.to_json(),
        title="Which scores can be trusted?",
        intro="Every score against the oracle, which knows of each sentence whether it is true of the picture.",
        facts={"scenes of each length": f"{scenes:,}"},
        curves=found.curves(),
        out=out,
        overwrite=overwrite,
        as_json=as_json,
    )
