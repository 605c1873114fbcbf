"""`longalign stickers …`: the embedded world from the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from longalign.cli.edits import edits
from longalign.cli.study import study
from longalign.cli.terminal import Device, Json, Model, print_table, progress
from longalign.errors import LongalignError
from longalign.runs import json_line

app = typer.Typer(no_args_is_help=True, help="The embedded sticker world: its pictures, models and oracle.")


@app.command("render")
def render(
    out: Annotated[Path, typer.Option(help="Folder for PNG files and metadata.jsonl (image folder layout).")],
    count: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 16,
    objects: Annotated[str, typer.Option(help="Least and greatest number of stickers.")] = "1-5",
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the series of scenes.")] = 0,
    referring: Annotated[bool, typer.Option(help="Captions that refer across sentences.")] = False,
    scale: Annotated[int, typer.Option(min=1, max=8, help="Pixels are 96 times this.")] = 1,
) -> None:
    """Write scenes with captions as an image folder that datasets and trainers read."""
    from longalign.stickers.files import render_folder

    count = render_folder(out, count, objects, split=split, seed=seed, referring=referring, scale=scale)
    print(f"{count} scenes in {out}")


@app.command("train")
def train(
    part: Annotated[
        str,
        typer.Argument(
            help="vae, clip, t5, unet or adapter; or all, in this order. Or sdxl or sd3, on the embedded model."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights, metrics and run folders; resumes from it.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps; else what suits the part.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
) -> None:
    """Train the tiny models from random weights (hours on two cores). The same command resumes a stopped run."""
    import torch

    from longalign.plugins import unknown
    from longalign.runtime import pick_device
    from longalign.stickers.making.recipes import PARTS, SD15_PARTS, STEPS, train_part

    if part not in (*PARTS, "all"):
        raise LongalignError(unknown("part", part, ("all", *PARTS)))
    picked = pick_device(device)
    if picked.startswith("cuda:"):
        torch.cuda.set_device(picked)
    for name in SD15_PARTS if part == "all" else [part]:
        total = steps or STEPS[name]
        with progress(name, total) as advance:
            done = 0

            def on_step(step: int, row: Mapping[str, Any], advance: Callable[[int], None] = advance) -> None:
                nonlocal done
                advance(step - done)
                done = step

            result = train_part(name, out, steps=total, seed=seed, cpu=picked == "cpu", on_step=on_step)
        if result.stopped:
            print(f"{name}: stopped after step {result.step} of {total}; the same command resumes it")
            raise typer.Exit(1)
    print(f"weights in {out}")


@app.command("pack")
def pack(
    source: Annotated[
        Path, typer.Argument(help="Folder that `stickers train` wrote, or a run folder of `train`.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    model: Annotated[
        str,
        typer.Option(
            help="Of a folder that `stickers train` wrote: sd15, or what sdxl or sd3 has of its own."
        ),
    ] = "sd15",
    guidance: Annotated[
        float | None, typer.Option(help="Guidance that suits the model, its default.")
    ] = None,
    after: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a LoRA or of soft tokens that were trained on top of LoRAs: what these are called once packed, "
            "such as stickers/sft. Again for each, in order."
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of a LoRA: keep this rank of every layer, by truncated SVD.")
    ] = None,
) -> None:
    """Pack for shipping, in fp16: trained parts as one Stable Diffusion folder, a run as CLIP, LoRA or soft tokens."""
    from longalign.stickers import MODELS
    from longalign.stickers.files import pack, pack_denoiser
    from longalign.stickers.making.pack_run import pack_run

    if model not in MODELS.values():
        raise LongalignError(f"no model {model!r}; one of {', '.join(MODELS.values())}")
    if (source / "model").is_dir():
        size_bytes = pack_run(source, out, after=after or (), rank=rank)
    elif model == "sd15":
        size_bytes = pack(source, out, guidance=guidance)
    else:
        size_bytes = pack_denoiser(model, source, out, guidance=guidance)
    print(f"{out}: {size_bytes / 1e6:.1f} MB")


@app.command("check")
def check(
    sentences: Annotated[int, typer.Option(min=100, help="True ones, and as many lies.")] = 10_000,
    scenes: Annotated[
        int, typer.Option(min=0, help="Held-out scenes to draw with the model; 0: none.")
    ] = 200,
    model: Model = "stickers",
    as_json: Json = False,
) -> None:
    """Measure the oracle on clean and on spoilt pictures, and the base model on held-out scenes."""
    from longalign.studies.check import check_model, check_oracle

    with progress("oracle", 6) as advance:
        tables = [check_oracle(sentences, model=model, on_step=advance)]
    if scenes:
        with progress("drawing", scenes * 25 * 3) as advance:
            tables += [check_model(scenes, model=model, on_step=advance)]
    if as_json:
        from longalign.studies.accuracy import table_json

        print(json_line([{"caption": t.caption, "rows": table_json(t)} for t in tables]), end="")
        return
    for table in tables:
        print_table(table)


app.command("study")(study)
app.command("edits")(edits)
