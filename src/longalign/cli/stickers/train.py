"""`longalign stickers train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

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
    out: Annotated[Path, typer.Option(help="Folder for weights, metrics and run folders; resumes from it.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps; else what suits the part.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
) -> None:
    """Train the tiny models from random weights (hours on two cores). The same command again resumes."""
    import torch

    from longalign.plugins import unknown
    from longalign.runtime import pick_device
    from longalign.stickers.making.recipes import PARTS, SD15_PARTS, STEPS, train_part

    if part not in (*PARTS, "all"):
        raise LongalignError(unknown("part", part, ("all", *PARTS)))
    picked = pick_device(device)
    if picked.startswith("cuda:"):
        torch.cuda.set_device(picked)
    for name in SD15_PARTS if part == "all" else [part]:
        total = steps or STEPS[name]
        with progress(name, total) as advance:
            on_step = _Advance(advance)
            result = train_part(name, out, steps=total, seed=seed, cpu=picked == "cpu", on_step=on_step)
        if result.stopped:
            print(f"{name}: stopped after step {result.step} of {total}; the same command resumes it")
            raise typer.Exit(1)
    print(f"weights in {out}")


class _Advance:
    """Turns the number of steps done into advances of a progress bar."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance, self.done = advance, 0

    def __call__(self, step: int, row: Mapping[str, Any]) -> None:
        self.advance(step - self.done)
        self.done = step
