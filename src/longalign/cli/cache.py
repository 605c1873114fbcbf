"""`longalign cache`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import (
    Device,
    Dtype,
    Json,
    Model,
    On,
    Split,
    Strategy,
    Workers,
    engine_of,
    settings_of,
)
from longalign.cli.terminal import print_json, progress
from longalign.errors import LongalignError

MERGE = "merge"


def cache(
    data: Annotated[
        list[str],
        typer.Argument(
            help="stickers; a .jsonl, .csv, .parquet, .arrow or .tar file, COCO captions (.json); or a folder of such "
            "files, or of pictures with .txt files. Or: merge CACHE CACHE …"
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
    unique: Annotated[
        bool, typer.Option("--unique", help="Of merge: leave out rows that an earlier cache has, too.")
    ] = False,
    on: On = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Compute latents and text-encoder outputs once, for training.

    Name the folder as data.pictures of a recipe. Run the command again after changes of captions, pictures or model: it
    computes only what is missing. Caches of several machines are merged without being copied. Examples:

        longalign cache my-pictures --model stable-diffusion-v1-5/stable-diffusion-v1-5 --out my-cache

        longalign cache merge cache-a cache-b --out all
    """
    given = locals()
    if data[0] == MERGE and len(data) > 1:
        return _merge(data[1:], out, unique, as_json)
    if len(data) > 1 or unique:
        raise LongalignError(
            "one data set at a time; longalign cache merge joins caches (and knows --unique)"
        )
    from functools import partial

    from longalign.data.cache import CacheBuilder
    from longalign.data.cache_model import CacheModel
    from longalign.data.sources import named_source

    [name] = data
    engine = engine_of(on, workers)
    folder = None if images is None else str(images)
    load_source = partial(named_source, name, split=split, count=count, images=folder, column=column)
    source = load_source()
    # With Ray workers load the model themselves. It is loaded here, too: keys of the cache are made of its weights.
    load_encoder = partial(settings_of(CacheModel, given).load, source.square)
    builder = CacheBuilder.of(out, load_encoder(), rows)
    with progress("caching", len(source)) as advance:
        report = builder.build(
            source,
            name,
            advance,
            engine=engine,
            load_source=load_source,
            load_encoder=load_encoder,
            reading={"split": split, "images": folder, "column": column},
        )
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


def _merge(caches: list[str], out: Path, unique: bool, as_json: bool) -> None:
    from longalign.data.cache_merge import merge_caches
    from longalign.report import counted

    report = merge_caches(caches, out, unique=unique)
    if as_json:
        print_json(report.to_json())
        return
    twice = "left out" if unique else "kept (--unique leaves them out)"
    print(f"{counted(report.rows, 'row')} of {counted(report.caches, 'cache')} in {out}")
    if report.twice:
        print(f"rows that an earlier one equals: {report.twice:,}, {twice}")
