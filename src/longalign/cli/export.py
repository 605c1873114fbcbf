"""`longalign export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import Json, LoraBase
from longalign.cli.terminal import show_files


def export(
    folder: Annotated[
        Path, typer.Argument(help="A LoRA folder, as training and `longalign import` write it.")
    ],
    out: Annotated[Path, typer.Option(help="File to write.")],
    form: Annotated[
        str, typer.Option("--format", help="longsd: LongAlign's released list of matrices.")
    ] = "longsd",
    base: LoraBase = None,
    as_json: Json = False,
) -> None:
    """Write a LoRA as others publish it.

    The list has no names, so the LoRA must have exactly the layers of its model's UNet: SD1.5's, or those of --base
    (of which only the configuration is read). A text adapter goes beside it, into <out>_adapter. Example:

        longalign export long --format longsd --out s28750_lora_vis.pt
    """
    from longalign.weights.convert import export_lora

    show_files(export_lora(folder, out, base=base, form=form), as_json)
