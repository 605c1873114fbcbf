"""`longalign edit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import (
    Device,
    Dtype,
    EditIterations,
    EditSamples,
    EditStart,
    ForceLora,
    Json,
    Language,
    Length,
    Loras,
    Model,
    Out,
    Overwrite,
    Scorer,
    SoftTokenBranches,
    SoftTokens,
    SoftTokenScale,
    SourceGuidance,
    Strategy,
    TargetGuidance,
    settings_of,
    stack_of,
)
from longalign.cli.terminal import command_line, print_json, progress, tell_unjudged


def edit(
    image: Annotated[Path, typer.Argument(help="The picture: a file.")],
    source: Annotated[str, typer.Option(help="What the picture shows: text of any length, @file, or -.")],
    target: Annotated[str, typer.Option(help="What it should show.")],
    model: Model = "stickers",
    lora: Loras = None,
    soft_tokens: SoftTokens = None,
    soft_token_scale: SoftTokenScale = 1.0,
    soft_token_branches: SoftTokenBranches = "both",
    method: Annotated[
        str,
        typer.Option(
            help="flowedit (flow models: SD3); flowedit-x0 (its idea, for every model); ddim (inversion); "
            "auto: flowedit for flow models, else flowedit-x0."
        ),
    ] = "auto",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the whole schedule; else 50.")] = None,
    start: EditStart = None,
    source_guidance: SourceGuidance = None,
    target_guidance: TargetGuidance = None,
    finish: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of the steps at the end that sample the target without the source."
        ),
    ] = 0.0,
    samples: EditSamples = 1,
    iterations: EditIterations = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise (ddim draws none).")] = 0,
    resize: Annotated[
        bool, typer.Option("--resize", help="Bring a picture of another size to the model's.")
    ] = False,
    scorer: Scorer = None,
    strategy: Strategy = "auto",
    length: Length = None,
    language: Language = "en",
    device: Device = "auto",
    dtype: Dtype = "auto",
    force_lora: ForceLora = False,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Change in a picture what differs between two texts, and keep the rest.

    Writes the pictures before and after, their difference, and a page with the truth of each sentence for both.
    Examples:

        longalign edit scene.png --source "A fox is in the middle." --target "A fox is in the top left."

        longalign edit photo.png --source @now.txt --target @then.txt --model FOLDER --soft-tokens runs/tokens --resize
    """
    given = locals()
    from longalign.data.prompts import read_text

    now, then = read_text(source, "--source"), read_text(target, "--target")
    from longalign.editing.edit import check_texts
    from longalign.editing.run import EditConfig, run_edit
    from longalign.preference.images import load_image

    check_texts(now, then)  # before the model is loaded, which may take a while
    load_image(image)

    config = settings_of(EditConfig, given, **stack_of(lora, force_lora=force_lora))
    pipe = config.load()
    with progress("editing", config.options(pipe).calls) as advance:
        made = run_edit(
            image,
            now,
            then,
            config,
            out=out,
            overwrite=overwrite,
            pipe=pipe,
            command_line=command_line(),
            on_step=advance,
        )
    if as_json:
        print_json(made.to_json())
        return
    from longalign.diffusion.pipelines import settings_of as model_settings
    from longalign.report import counted

    for text, rows in made.rows.items():
        true = [sum(row.marks.get(column) == "true" for row in rows) for column in ("before", "after")]
        if any(mark != "unjudged" for row in rows for mark in row.marks.values()):
            print(f"{text}: {counted(len(rows), 'sentence')}, {true[0]} true before, {true[1]} after")
    if made.verdict:
        print(f"verdict: {made.verdict}")
    tell_unjudged(list(made.rows.values()), model_settings(model, pipe).oracle)
    print(f"picture: {made.folder / 'images' / 'after.png'}")
    print(f"report: {made.folder / 'report.html'}")
