"""`longalign import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import Json, LoraBase
from longalign.cli.terminal import show_files


def import_checkpoint(
    source: Annotated[Path, typer.Argument(help="A published file or folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write; empty, or not there yet.")],
    base: LoraBase = None,
    after: Annotated[
        list[Path] | None,
        typer.Option(
            help="LoRA folder that was merged into --base before this LoRA was trained. Repeat for each."
        ),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Text adapter of a LoRA, where it does not lie beside it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a published checkpoint, without running code that it may hold, and write it as safetensors.

    Knows LoRAs of kohya, A1111, diffusers and peft (.safetensors; with --base, their model), LongAlign's LoRA lists
    (s28750_lora_vis.pt) and adapters, Denscore and other CLIPModel folders, and SoftREPA's tokens (a folder with
    dc_tokens.pth, and dc_t_tokens.pth where they know the time; they become one soft_tokens.safetensors). A LoRA then
    loads into diffusers by pipe.load_lora_weights(FOLDER).

    With --base the LoRA's file carries a fingerprint of that model, and longalign refuses to load it into another
    one. Without it, shapes are checked against SD1.5's and any model of them is accepted, with a warning. Examples:

        longalign import s28750_lora_vis.pt --adapter s28750_adapter --out long --base sd15

        longalign import sd15-reward-3750.pt --out reward --base sd15 --after long

        longalign import my-style.safetensors --base stable-diffusion-v1-5/stable-diffusion-v1-5 --out my-style

        longalign import softrepa-sd15 --out tokens
    """
    from longalign.weights.convert import import_checkpoint as run

    show_files(run(source, out, base=base, after=after or (), adapter=adapter), as_json)
