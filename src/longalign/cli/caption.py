"""`longalign caption`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import Device, Dtype, Json, On, Workers, engine_of
from longalign.cli.terminal import print_json, progress
from longalign.errors import LongalignError


def caption(
    pictures: Annotated[
        list[Path],
        typer.Argument(help="Picture files, folders of them, or pictures of a world (stickers:1000)."),
    ],
    model: Annotated[
        str, typer.Option(help="An image-text-to-text model of transformers: a folder or a hub name.")
    ] = "llava-hf/llava-v1.6-mistral-7b-hf",
    out: Annotated[
        Path | None,
        typer.Option(
            help="JSONL file; else metadata.jsonl in the (first) folder. An existing file is continued."
        ),
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="What the model is asked to do.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a caption.")] = 384,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 8,
    device: Device = "auto",
    dtype: Dtype = "auto",
    on: On = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Write long captions of pictures with a vision-language model.

    The result is a metadata.jsonl that `longalign cache` and recipes read. The same command goes on where it was
    stopped. Example:

        longalign caption my-pictures --model llava-hf/llava-v1.6-mistral-7b-hf
    """
    from functools import partial

    from longalign.data.recaption import INSTRUCTION, Captioner, caption_pictures, count_pictures

    engine = engine_of(on, workers)
    first = pictures[0]
    if out is None and not first.exists():
        count_pictures(pictures)  # says what is wrong with them
        raise LongalignError("pictures of a world lie in no folder: name a file with --out")
    target = out or (first if first.is_dir() else first.parent) / "metadata.jsonl"
    total = count_pictures(pictures)
    told = instruction or INSTRUCTION
    load = partial(
        Captioner.from_pretrained,
        model,
        device=device,
        dtype=dtype,
        instruction=told,
        max_new_tokens=max_new_tokens,
    )
    captioner = load() if engine.on == "local" else None
    with progress("captioning", total) as advance:
        report = caption_pictures(
            pictures,
            target,
            captioner,
            load=load,
            settings={"model": model, "dtype": dtype, "instruction": told, "max_new_tokens": max_new_tokens},
            batch_size=batch_size,
            engine=engine,
            on_rows=advance,
        )
    if as_json:
        print_json({**dataclasses.asdict(report), "out": str(target)})
        return
    from longalign.report import counted

    print(f"{counted(report.written, 'caption')} written to {target}; {report.kept:,} were there")
    if report.skipped:
        print(
            f"without a caption: {counted(report.skipped, 'picture')}, listed in {target.parent / 'skipped.jsonl'}"
        )
