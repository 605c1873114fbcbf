"""`longalign demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.options import Json, NoiseSeed, Out, Overwrite, SamplingSteps
from longalign.cli.terminal import command_line, print_json, progress, show_tables


def demo(
    out: Out = None,
    scenes: Annotated[int, typer.Option(min=1, help="How many held-out scenes.")] = 16,
    steps: SamplingSteps = 25,
    seed: NoiseSeed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw crowded held-out scenes by plain encoding, segment by segment and with trained stages; the oracle judges.

    The package contains all that this needs: the models of the sticker world.
    """
    from longalign.studies.demo import demo as run
    from longalign.studies.demo import demo_steps

    with progress("drawing", demo_steps(scenes, steps)) as advance:
        made = run(
            scenes=scenes,
            steps=steps,
            seed=seed,
            out=out,
            overwrite=overwrite,
            command_line=command_line(),
            on_step=advance,
        )
    if as_json:
        print_json(made.to_json())
        return
    show_tables([made.accuracy])
    print(f"report: {made.folder / 'report.html'}")
