"""`longalign import` and `longalign export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longalign.cli.terminal import Json

if TYPE_CHECKING:
    from longalign.weights.convert import Converted

LoraBase = Annotated[
    str | None, typer.Option(help="The LoRA's model: 'stickers', a diffusers folder or a hub name.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands of this package to the table of functions."""
    app.command("import")(import_)
    app.command("export")(export)


def import_(
    source: Annotated[Path, typer.Argument(help="A published file or folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write; empty, or not there yet.")],
    base: LoraBase = None,
    after: Annotated[
        list[Path] | None,
        typer.Option(
            help="LoRA folder that was merged into --base before this LoRA was trained. May be repeated."
        ),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Text adapter of a LoRA, where it does not lie beside it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a published checkpoint, without running code that it may hold, and write it as safetensors.

    Knows LongAlign's LoRA lists (s28750_lora_vis.pt) and adapters, Denscore and other CLIPModel folders, and
    SoftREPA's tokens (a folder with dc_tokens.pth, and dc_t_tokens.pth where they know the time; they become one
    soft_tokens.safetensors). A LoRA then loads into diffusers by pipe.load_lora_weights(FOLDER).

    With --base the LoRA's file carries a fingerprint of that model, and longalign refuses to load it into another
    one. Without it, shapes are checked against SD1.5's and any model of them is accepted, with a warning. Examples:

        longalign import s28750_lora_vis.pt --adapter s28750_adapter --out long --base sd15

        longalign import sd15-reward-3750.pt --out reward --base sd15 --after long

        longalign import softrepa-sd15 --out tokens
    """
    from longalign.weights.convert import import_checkpoint

    _show(import_checkpoint(source, out, base=base, after=after or (), adapter=adapter), as_json)


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

    _show(export_lora(folder, out, base=base, form=form), as_json)


def _show(done: Converted, as_json: bool) -> None:
    if as_json:
        print(json.dumps(done.to_json(), ensure_ascii=False))
        return
    facts = ", ".join(f"{name} {value}" for name, value in done.facts.items() if value is not None)
    print(f"{done.kind}: {facts}")
    for file in done.files:
        print(f"  {file}")
