"""`longalign cache` and `longalign caption`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.terminal import Device, Dtype, Json, Model, progress


def cache(
    data: Annotated[
        str,
        typer.Argument(
            help="stickers; a .jsonl, .csv, .parquet, .arrow or .tar file, COCO captions (.json); or a folder of such "
            "files, or of pictures with .txt files."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Cache folder; the same one again goes on with it.")],
    model: Model = "stickers",
    strategy: Annotated[
        str, typer.Option(help="How captions are encoded: clip-cat, plain, t5-mlp or clip+t5.")
    ] = "clip-cat",
    length: Annotated[
        int | None, typer.Option(help="Padded length of a caption in tokens; else the model's.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the squares in pixels; else the model's.")] = None,
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
    split: Annotated[str, typer.Option(help="Of the sticker scenes: train, validation or test.")] = "train",
    rows: Annotated[
        int, typer.Option(min=1, help="Rows of a shard, and what an interruption loses at most.")
    ] = 1024,
    batch_size: Annotated[int, typer.Option(min=1, help="Most pictures at once in the VAE.")] = 16,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Compute latents and text-encoder outputs once, for training.

    Name the folder as data.pictures of a recipe. Run it again after changing captions, adding pictures or choosing
    another model: what is missing is computed, and nothing else. Example:

        longalign cache my-pictures --model stable-diffusion-v1-5/stable-diffusion-v1-5 --out my-cache
    """
    from longalign.data.cache import CacheBuilder
    from longalign.data.sources import (
        named_source,
    )
    from longalign.data.text_states import TextSide
    from longalign.diffusion.denoiser import Denoiser
    from longalign.diffusion.pipelines import settings_of
    from longalign.weights.stack import (
        load_pipeline,
        t5_branch,
    )

    source = named_source(
        data, split=split, count=count, images=None if images is None else str(images), column=column
    )
    pipe = load_pipeline(model, device=device, dtype=dtype)
    if length is None:
        length = settings_of(model, pipe).length
    denoiser = Denoiser.of(pipe)
    texts = TextSide(pipe, strategy, length, t5_branch(model, strategy, pipe))
    size_px = size or denoiser.side * denoiser.vae_factor
    builder = CacheBuilder(
        out, pipe, texts, size_px, model=model, stored=store, at_once=rows, batch_size=batch_size
    )
    with progress("caching", len(source)) as advance:
        report = builder.build(source, data, advance)
    if as_json:
        print(json.dumps(report.to_json()))
        return
    print(f"{report.rows:,} rows in {out}; computed {report.latents:,} latents and {report.texts:,} captions")
    print(
        f"a row takes {report.latent_bytes:,} bytes of latents and {report.text_bytes:,} of text "
        f"({report.padded_text_bytes:,} if text were stored padded)"
    )
    if report.skipped:
        print(f"{report.skipped:,} rows cannot be used: {out / 'skipped.jsonl'}")


def caption(
    pictures: Annotated[list[Path], typer.Argument(help="Picture files, and folders of them.")],
    model: Annotated[
        str, typer.Option(help="An image-text-to-text model of transformers: a folder or a hub name.")
    ] = "llava-hf/llava-v1.6-mistral-7b-hf",
    out: Annotated[
        Path | None,
        typer.Option(help="JSONL file; else metadata.jsonl in the (first) folder. Again: it goes on."),
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="What the model is asked to do.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a caption.")] = 384,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 8,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Write long captions of pictures with a vision-language model.

    The result is a metadata.jsonl that longalign cache and recipes read. Example:

        longalign caption my-pictures --model llava-hf/llava-v1.6-mistral-7b-hf
    """
    from longalign.data.recaption import INSTRUCTION, Captioner, caption_pictures, find_pictures

    first = pictures[0]
    target = out or (first if first.is_dir() else first.parent) / "metadata.jsonl"
    total = sum(1 for _ in find_pictures(pictures))
    captioner = Captioner.from_pretrained(
        model,
        device=device,
        dtype=dtype,
        instruction=instruction or INSTRUCTION,
        max_new_tokens=max_new_tokens,
    )
    with progress("captioning", total) as advance:
        report = caption_pictures(pictures, target, captioner, batch_size=batch_size, on_rows=advance)
    if as_json:
        print(json.dumps({**dataclasses.asdict(report), "out": str(target)}))
        return
    print(f"{report.written:,} captions written to {target}; {report.kept:,} were there")
    if report.skipped:
        print(f"{report.skipped:,} pictures have none: {target.parent / 'skipped.jsonl'}")
