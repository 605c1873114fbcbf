"""`longalign stickers edits`."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.options import (
    BatchSize,
    Device,
    EditIterations,
    EditSamples,
    EditStart,
    Json,
    KeepPictures,
    Loras,
    Model,
    Objects,
    Out,
    Overwrite,
    SoftTokens,
    SoftTokenScale,
    SourceGuidance,
    TargetGuidance,
    settings_of,
)
from longalign.cli.terminal import command_line, progress, show_run


def edits(
    count: Annotated[int, typer.Option(min=1, help="How many edits.")] = 200,
    changes: Annotated[
        str, typer.Option(help="Kinds of edits in turn, with commas between.")
    ] = "swap,recolour,move,remove",
    objects: Objects = "2-5",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="flowedit (flow models), flowedit-x0 or ddim. Repeat for each; else all that fit the model."
        ),
    ] = None,
    model: Model = "stickers",
    lora: Loras = None,
    soft_tokens: SoftTokens = None,
    soft_token_scale: SoftTokenScale = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the whole schedule.")] = 20,
    start: EditStart = None,
    source_guidance: SourceGuidance = None,
    target_guidance: TargetGuidance = None,
    samples: EditSamples = 1,
    iterations: EditIterations = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes, and of the first edit's noise.")] = 0,
    batch_size: BatchSize = 50,
    keep_pictures: KeepPictures = 12,
    device: Device = "cpu",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Edit renders of held-out scenes, one change each. The oracle judges whether it happened and the rest stayed.

    There are two baselines: no edit, and the target drawn from noise. With --soft-tokens every method has a second
    column. 200 edits take some minutes on one core. Examples:

        longalign stickers edits --count 200 --out runs/edits

        longalign stickers edits --soft-tokens runs/softrepa --method ddim --json
    """
    given = locals()
    from longalign.stickers.files import parse_range
    from longalign.studies.accuracy import tables_json
    from longalign.studies.edits import EditStudyConfig, edit_steps, edit_study
    from longalign.studies.edits_page import write_edit_study

    config = settings_of(
        EditStudyConfig,
        given,
        objects=parse_range(objects),
        changes=tuple(name.strip() for name in changes.split(",")),
        loras=tuple(lora or ()),
        methods=tuple(method) if method else None,
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
    tables = write_edit_study(found, command_line())
    show_run(tables, found.run.report, {"tables": tables_json(tables)}, as_json=as_json)
