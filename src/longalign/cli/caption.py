"""`longalign caption`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import Device, Dtype, Json
from longalign.cli.terminal import print_json, progress


def caption(
    pictures: Annotated[list[Path], typer.Argument(help="Picture files, and folders of them.")],
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
    as_json: Json = False,
) -> None:
    """Write long captions of pictures with a vision-language model.

    The result is a metadata.jsonl that `longalign cache` and recipes read. Example:

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
        print_json({**dataclasses.asdict(report), "out": str(target)})
        return
    from longalign.report import counted

    print(f"{counted(report.written, 'caption')} written to {target}; {report.kept:,} were there")
    if report.skipped:
        print(
            f"without a caption: {counted(report.skipped, 'picture')}, listed in {target.parent / 'skipped.jsonl'}"
        )
