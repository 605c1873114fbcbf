"""`longalign edit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from longalign.errors import LongalignError
from longalign.stages.cli import ForceLora, Loras
from longalign.terminal import Device, Dtype, Json, Language, Model, Out, Overwrite, progress

SoftTokensOption = Annotated[
    str | None,
    typer.Option(
        "--soft-tokens",
        help="Trained soft text tokens (SoftREPA): a file, the folder that `longalign train` or `import` wrote, or "
        "embedded ones (stickers/softrepa).",
    ),
]
SoftTokenScale = Annotated[
    float, typer.Option(min=0, max=1, help="How much of the soft tokens' effect, from 0 (none) to 1.")
]
SoftTokenBranches = Annotated[
    str, typer.Option(help="Branches of guidance that get soft tokens: both (the paper), cond or uncond.")
]


def edit(
    image: Annotated[Path, typer.Argument(help="The picture: a file.")],
    source: Annotated[str, typer.Option(help="What the picture shows: text of any length, @file, or -.")],
    target: Annotated[str, typer.Option(help="What it should show.")],
    model: Model = "stickers",
    lora: Loras = None,
    soft_tokens: SoftTokensOption = None,
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
    start: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of the steps that are taken: more changes more. Else the method's."
        ),
    ] = None,
    source_guidance: Annotated[
        float | None, typer.Option(help="Guidance towards the source; else the method's.")
    ] = None,
    target_guidance: Annotated[
        float | None, typer.Option(help="Guidance towards the target: more changes more. Else the method's.")
    ] = None,
    finish: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the steps, the last, that look at the target alone.")
    ] = 0.0,
    samples: Annotated[int, typer.Option(min=1, help="Noises averaged in each step (flowedit).")] = 1,
    iterations: Annotated[
        int, typer.Option(min=1, help="Calls for each step of the inversion (ddim); more make it exact.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise (ddim draws none).")] = 0,
    resize: Annotated[
        bool, typer.Option("--resize", help="Bring a picture of another size to the model's.")
    ] = False,
    scorer: Annotated[
        str | None,
        typer.Option(
            help="Preference model that scores each sentence: stickers/denscore, a folder, a hub name."
        ),
    ] = None,
    strategy: Annotated[str, typer.Option(help="Text encoding, as for `longalign generate`.")] = "auto",
    length: Annotated[
        int | None, typer.Option(help="Pad text to a multiple of this many tokens; else the model's.")
    ] = None,
    language: Language = "en",
    device: Device = "auto",
    dtype: Dtype = "auto",
    force_lora: ForceLora = False,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Change in a picture what differs between two texts, and leave the rest alone.

    Writes before, after and difference, and a page that says of each sentence whether it is true of either picture.
    Examples:

        longalign edit scene.png --source "A fox is in the middle." --target "A fox is in the top left."

        longalign edit photo.png --source @now.txt --target @then.txt --model FOLDER --soft-tokens runs/tokens --resize
    """
    from longalign.prompts import read_prompts

    texts = []
    for name, given in (("--source", source), ("--target", target)):
        found = read_prompts([given])
        if len(found) != 1:
            raise LongalignError(f"{name} names {len(found)} texts; an edit has one: put it on one line")
        texts.append(found[0])
    from longalign.editing.edit import check_texts
    from longalign.editing.run import EditConfig, run_edit
    from longalign.preference.images import load_image

    now, then = texts
    check_texts(now, then)  # before the model is loaded, which may take a while
    load_image(image)

    config = EditConfig(
        model=model,
        loras=tuple(lora or ()),
        soft_tokens=soft_tokens,
        soft_token_scale=soft_token_scale,
        soft_token_branches=soft_token_branches,
        method=method,
        steps=steps,
        start=start,
        source_guidance=source_guidance,
        target_guidance=target_guidance,
        finish=finish,
        samples=samples,
        iterations=iterations,
        seed=seed,
        resize=resize,
        scorer=scorer,
        strategy=strategy,
        length=length,
        language=language,
        device=device,
        dtype=dtype,
        check_base=not force_lora,
    )
    pipe = config.load()
    with progress("editing", config.options(pipe).calls) as advance:
        made = run_edit(image, now, then, config, out=out, overwrite=overwrite, pipe=pipe, on_step=advance)
    if as_json:
        print(json.dumps(made.to_json(), ensure_ascii=False))
        return
    from rich.console import Console

    console = Console()
    for text, rows in made.rows.items():
        true = [sum(row.marks.get(column) == "true" for row in rows) for column in ("before", "after")]
        if any(mark != "unjudged" for row in rows for mark in row.marks.values()):
            console.print(f"{text}: {len(rows)} sentences, {true[0]} true before, {true[1]} after")
    console.print(f"picture: {made.folder / 'images' / 'after.png'}", soft_wrap=True)
    console.print(f"report: {made.folder / 'report.html'}", soft_wrap=True)
