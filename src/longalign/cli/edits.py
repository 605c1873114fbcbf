"""`longalign stickers edits`."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.edit import SoftTokenScale, SoftTokensOption
from longalign.cli.merge import Loras
from longalign.cli.terminal import Device, Json, Model, Out, Overwrite, print_table, progress


def edits(
    count: Annotated[int, typer.Option(min=1, help="How many edits.")] = 200,
    changes: Annotated[
        str, typer.Option(help="Kinds of edits in turn, with commas between.")
    ] = "swap,recolour,move,remove",
    objects: Annotated[str, typer.Option(help="Least and greatest number of stickers.")] = "2-5",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="flowedit (flow models), flowedit-x0 or ddim. Again for each; else all that fit the model."
        ),
    ] = None,
    model: Model = "stickers",
    lora: Loras = None,
    soft_tokens: SoftTokensOption = None,
    soft_token_scale: SoftTokenScale = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the whole schedule.")] = 20,
    start: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the steps that are taken; else the method's.")
    ] = None,
    source_guidance: Annotated[
        float | None, typer.Option(help="Guidance towards the source; else the method's.")
    ] = None,
    target_guidance: Annotated[
        float | None, typer.Option(help="Guidance towards the target; else the method's.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Noises averaged in each step (flowedit).")] = 1,
    iterations: Annotated[int, typer.Option(min=1, help="Calls for each step of the inversion (ddim).")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes, and of the first edit's noise.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Most pictures at once.")] = 50,
    keep_pictures: Annotated[int, typer.Option(min=0, help="Show so many edits.")] = 12,
    device: Device = "cpu",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Edit renders of held-out scenes, one change each, and let the oracle judge: did it happen, did the rest stay?

    Beside the methods there are two baselines: no edit at all, and drawing the target from noise. With --soft-tokens
    every method has a second column. 200 edits take some minutes on one core. Examples:

        longalign stickers edits --count 200 --out runs/edits

        longalign stickers edits --soft-tokens runs/softrepa --method ddim --json
    """
    from longalign.stickers.files import parse_range
    from longalign.studies.edits import EditStudyConfig, edit_steps, edit_study
    from longalign.studies.edits_page import write_edit_study

    config = EditStudyConfig(
        count=count,
        objects=parse_range(objects),
        changes=tuple(name.strip() for name in changes.split(",")),
        model=model,
        loras=tuple(lora or ()),
        soft_tokens=soft_tokens,
        soft_token_scale=soft_token_scale,
        methods=tuple(method) if method else None,
        steps=steps,
        start=start,
        source_guidance=source_guidance,
        target_guidance=target_guidance,
        samples=samples,
        iterations=iterations,
        seed=seed,
        device=device,
    )
    pipe = config.load()
    with progress("editing", edit_steps(config, pipe)) as advance:
        found = edit_study(
            config,
            out=out,
            overwrite=overwrite,
            batch_size=batch_size,
            keep_pictures=keep_pictures,
            pipe=pipe,
            on_step=advance,
        )
    tables = write_edit_study(found)
    if as_json:
        from longalign.runs import json_line
        from longalign.studies.accuracy import table_json

        shown = [{"caption": t.caption, "rows": table_json(t)} for t in tables]
        print(json_line({"folder": found.run.path, "report": found.run.report, "tables": shown}), end="")
        return
    for table in tables:
        print_table(table)
    print(f"report: {found.run.report}")
