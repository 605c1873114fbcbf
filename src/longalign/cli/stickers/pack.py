"""`longalign stickers pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.errors import LongalignError


def pack(
    source: Annotated[
        Path, typer.Argument(help="Folder that `stickers train` wrote, or a run folder of `train`.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    model: Annotated[
        str,
        typer.Option(
            help="Of a folder that `stickers train` wrote: sd15, or what sdxl or sd3 has of its own."
        ),
    ] = "sd15",
    guidance: Annotated[
        float | None, typer.Option(help="Guidance that suits the model, its default.")
    ] = None,
    after: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a LoRA or of soft tokens that were trained on top of LoRAs: what these are called once packed, "
            "such as stickers/sft. Repeat for each, in order."
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of a LoRA: keep this rank of every layer, by truncated SVD.")
    ] = None,
) -> None:
    """Pack for shipping, in fp16: trained parts as one Stable Diffusion folder, a run as CLIP, LoRA or soft tokens."""
    from longalign.stickers import MODELS
    from longalign.stickers.files import pack, pack_denoiser
    from longalign.stickers.making.pack_run import pack_run

    if model not in MODELS.values():
        raise LongalignError(f"no model {model!r}; one of {', '.join(MODELS.values())}")
    if (source / "model").is_dir():
        size_bytes = pack_run(source, out, after=after or (), rank=rank)
    elif model == "sd15":
        size_bytes = pack(source, out, guidance=guidance)
    else:
        size_bytes = pack_denoiser(model, source, out, guidance=guidance)
    print(f"{out}: {size_bytes / 1e6:.1f} MB")
