"""`longalign generate`."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.options import (
    BatchSize,
    ClipSkip,
    Device,
    Dtype,
    ForceLora,
    Json,
    Language,
    Length,
    Loras,
    Model,
    On,
    Out,
    Overwrite,
    Prompts,
    SamplingSteps,
    Scorer,
    Segments,
    SoftTokenBranches,
    SoftTokens,
    SoftTokenScale,
    Strategy,
    SyntaxName,
    Workers,
    engine_of,
    settings_of,
    stack_of,
)
from longalign.cli.terminal import command_line, print_json_list, print_paths, progress, tell_unjudged

MOST_PROMPTS = 20  # whose pictures the terminal lists; the report has all


def generate(
    prompts: Prompts,
    model: Model = "stickers",
    lora: Loras = None,
    soft_tokens: SoftTokens = None,
    soft_token_scale: SoftTokenScale = 1.0,
    soft_token_branches: SoftTokenBranches = "both",
    strategy: Strategy = "auto",
    steps: SamplingSteps = 25,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance scale; else the model's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture of each prompt.")] = 0,
    num: Annotated[
        int, typer.Option(min=1, help="Pictures of each prompt, from seeds seed, seed + 1, …")
    ] = 1,
    scheduler: Annotated[
        str,
        typer.Option(help="auto (UniPC; a flow model's own), own, unipc, ddim, dpm++, deis, euler, pndm."),
    ] = "auto",
    negative: Annotated[
        str | None, typer.Option(help="Negative prompt, of any length: text, @file, or -.")
    ] = None,
    syntax: SyntaxName = "plain",
    clip_skip: ClipSkip = None,
    segments: Segments = "auto",
    pooled: Annotated[
        str, typer.Option(help="Pooled vector of SDXL and SD3: first, mean or whole.")
    ] = "whole",
    length: Length = None,
    max_length: Annotated[
        int | None, typer.Option(help="Cut text after so many tokens; the report shows what was cut.")
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels; else the model's.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels; else the model's.")] = None,
    round_size: Annotated[
        bool, typer.Option("--round-size", help="Take the nearest size that the model can draw.")
    ] = False,
    batch_size: BatchSize = 16,
    scorer: Scorer = None,
    repair: Annotated[
        int,
        typer.Option(
            min=0,
            help="Rounds in which what the scorer takes for false is drawn again; the report shows before and after.",
        ),
    ] = 0,
    best_of: Annotated[
        int, typer.Option(min=1, help="Draw so many for each picture and keep the best by the scorer.")
    ] = 1,
    language: Language = "en",
    device: Device = "auto",
    dtype: Dtype = "auto",
    force_lora: ForceLora = False,
    out: Out = None,
    overwrite: Overwrite = False,
    on: On = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Draw pictures of prompts of any length, and report on them sentence by sentence.

    The same command with the same --out goes on where it was stopped. Examples:

        longalign generate "The background is navy. A fox is in the top left. …"

        longalign generate @prompts.txt --model stable-diffusion-v1-5/stable-diffusion-v1-5 --num 4

        longalign generate @prompts.txt --lora stickers/sft --lora stickers/reward

        longalign generate @picture.png --seed 7

        longalign generate "a (red:1.4) fox BREAK deep snow" --syntax a1111

        longalign generate @prompts.jsonl --on ray --out runs/many

        longalign generate @prompts.txt --scorer stickers --best-of 2 --repair 2

        longalign generate @prompts.txt --soft-tokens runs/softrepa --soft-token-scale 0.7
    """
    given = locals()
    from longalign.data.prompts import read_prompts, read_text

    texts = read_prompts(prompts)  # before torch is imported: wrong input is answered at once
    negative = None if negative is None else read_text(negative, "--negative")
    from longalign.generation import GenerateConfig
    from longalign.generation import generate as run

    config = settings_of(
        GenerateConfig, given, **stack_of(lora, force_lora=force_lora), negative_prompt=negative
    )
    engine = engine_of(on, workers)
    local = engine.on == "local"
    with progress("drawing", len(texts) * num * (config.most_steps if local else 1)) as advance:
        made = run(
            texts,
            config,
            out=out,
            overwrite=overwrite,
            engine=engine,
            command_line=command_line(),
            on_step=advance,
            on_pictures=(lambda pictures: None) if local else advance,
        )
    if as_json:
        print_json_list(
            {"folder": made.folder, "report": made.folder / "report.html"},
            "prompts",
            map(made.prompt_json, made.lines()),
        )
        return
    from longalign.generation.repairs import in_words
    from longalign.generation.result import rows_of
    from longalign.report import counted

    for line in made.lines(MOST_PROMPTS):
        files = [p.path for p in made.pictures_of(line)]
        print_paths(f"prompt {line['index'] + 1}: {counted(len(line['sentences']), 'sentence')}", files)
        for repaired in line.get("repairs", ()):
            print(f"  {in_words(repaired)}")
    if len(made.prompts) > MOST_PROMPTS:
        print(f"… {counted(len(made.prompts) - MOST_PROMPTS, 'more prompt')}: see the report")
    tell_unjudged(map(rows_of, made.lines()), made.settings.oracle)
    print(f"report: {made.folder / 'report.html'}")
