"""`longalign export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import Json, LoraBase
from longalign.cli.terminal import show_files


def export(
    folder: Annotated[
        str, typer.Argument(help="A LoRA: its folder, a run folder of `longalign train`, or stickers/sft.")
    ],
    out: Annotated[Path, typer.Option(help="File to write.")],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="diffusers (load_lora_weights, ComfyUI), kohya (A1111, Forge, ComfyUI), or longsd (LongAlign's "
            "released list of matrices); else by --out: longsd for .pt, diffusers for .safetensors.",
        ),
    ] = None,
    base: LoraBase = None,
    as_json: Json = False,
) -> None:
    """Write a LoRA for other tools, with its text encoders' parts.

    The list of longsd has no names, so the LoRA must have exactly the layers of its model's UNet: SD1.5's, or those of
    --base (of which only the configuration is read). A text adapter goes beside the file, into <out>_adapter. Examples:

        longalign export runs/my-training --format kohya --out my-style.safetensors

        longalign export long --format longsd --out s28750_lora_vis.pt
    """
    from longalign.weights.convert import export_lora

    show_files(export_lora(folder, out, base=base, form=form), as_json)
