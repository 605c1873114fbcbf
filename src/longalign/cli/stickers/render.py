"""`longalign stickers render`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import Objects, Referring, ScenesSeed, Split


def render(
    out: Annotated[Path, typer.Option(help="Folder for PNG files and metadata.jsonl (image folder layout).")],
    count: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 16,
    objects: Objects = "1-5",
    split: Split = "train",
    seed: ScenesSeed = 0,
    referring: Referring = False,
    scale: Annotated[int, typer.Option(min=1, max=8, help="Pixels are 96 times this.")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier set of scenes in --out.")
    ] = False,
) -> None:
    """Write scenes with captions as an image folder that datasets and trainers read."""
    from longalign.report import counted
    from longalign.stickers.files import render_folder

    count = render_folder(
        out,
        count,
        objects,
        split=split,
        seed=seed,
        referring=referring,
        scale=scale,
        overwrite=overwrite,
    )
    print(f"{counted(count, 'scene')} in {out}")
