"""`longalign stickers train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import Device
from longalign.cli.terminal import progress
from longalign.errors import LongalignError


def train(
    part: Annotated[
        str,
        typer.Argument(
            help="vae, clip, t5, unet or adapter; or all, in this order. Or sdxl or sd3, on the embedded model."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights, curves and checkpoints; resumes from it.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps; else what suits the part.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
) -> None:
    """Train the tiny models from random weights (hours on two cores). The same command again resumes."""
    from longalign.runtime import pick_device
    from longalign.stickers.making.training import FURTHER, PARTS, STEPS, fit

    if part not in (*PARTS, *FURTHER, "all"):
        raise LongalignError(f"no part {part!r}; one of all, {', '.join([*PARTS, *FURTHER])}")
    for name in PARTS if part == "all" else [part]:
        total = steps or STEPS[name]
        with progress(name, total) as advance:
            fit(name, out, steps=total, seed=seed, device=pick_device(device), on_step=advance)
    print(f"weights in {out}")
