"""`longalign cache`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import Device, Dtype, Json, Model, Split, Strategy
from longalign.cli.terminal import print_json, progress


def cache(
    data: Annotated[
        str,
        typer.Argument(
            help="stickers; a .jsonl, .csv, .parquet, .arrow or .tar file, COCO captions (.json); or a folder of such "
            "files, or of pictures with .txt files."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Cache folder. With an existing cache the command continues it.")],
    model: Model = "stickers",
    strategy: Strategy = "clip-cat",
    length: Annotated[
        int | None, typer.Option(help="Padded length of a caption in tokens; else the model's.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the model's square pictures in pixels; else the model's own.")
    ] = None,
    buckets: Annotated[
        bool,
        typer.Option(help="Keep the shape of pictures: buckets of aspect ratios. Else squares are cut."),
    ] = True,
    bucket_step: Annotated[
        int | None, typer.Option(help="Sides of buckets are multiples of it; else 64 pixels, or less.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that picture paths are relative to; else that of DATA.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Key of the captions; else caption, prompt or text.")
    ] = None,
    store: Annotated[str, typer.Option(help="What is stored: bfloat16, float16 or float32.")] = "bfloat16",
    count: Annotated[
        int, typer.Option(min=1, help="How many sticker scenes; files are taken whole.")
    ] = 10_000,
    split: Split = "train",
    rows: Annotated[
        int, typer.Option(min=1, help="Rows of a shard, and what an interruption loses at most.")
    ] = 1024,
    batch_size: Annotated[int, typer.Option(min=1, help="Most pictures at once in the VAE.")] = 16,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Compute latents and text-encoder outputs once, for training.

    Name the folder as data.pictures of a recipe. Run the command again after changes of captions, pictures or model: it
    computes only what is missing. Example:

        longalign cache my-pictures --model stable-diffusion-v1-5/stable-diffusion-v1-5 --out my-cache
    """
    from longalign.data.buckets import Buckets
    from longalign.data.cache import CacheBuilder
    from longalign.data.sources import named_source
    from longalign.data.text_states import TextSide
    from longalign.diffusion.denoiser import Denoiser
    from longalign.diffusion.pipelines import settings_of
    from longalign.weights.stack import load_pipeline, t5_branch

    source = named_source(
        data, split=split, count=count, images=None if images is None else str(images), column=column
    )
    pipe = load_pipeline(model, device=device, dtype=dtype)
    if length is None:
        length = settings_of(model, pipe).length
    denoiser = Denoiser.of(pipe)
    texts = TextSide(pipe, strategy, length, t5_branch(model, strategy, pipe))
    size_px = size or denoiser.side * denoiser.vae_factor
    shapes = Buckets.of(denoiser, size_px, bucket_step) if buckets and not source.square else None
    builder = CacheBuilder(
        out,
        pipe,
        texts,
        size_px,
        buckets=shapes,
        model=model,
        stored=store,
        at_once=rows,
        batch_size=batch_size,
    )
    with progress("caching", len(source)) as advance:
        report = builder.build(source, data, advance)
    if as_json:
        print_json(report.to_json())
        return
    from longalign.report import counted

    print(
        f"{counted(report.rows, 'row')} in {out}; computed {counted(report.latents, 'latent')} and "
        f"{counted(report.texts, 'caption')}"
    )
    if report.buckets:
        print(report.buckets)
    print(
        f"a row takes {report.latent_bytes:,} bytes of latents and {report.text_bytes:,} of text "
        f"({report.padded_text_bytes:,} if text were stored padded)"
    )
    if report.skipped:
        print(f"left out: {counted(report.skipped, 'row')}, listed in {out / 'skipped.jsonl'}")
