"""`longalign information`: what captions tell of pictures, with and without soft tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.errors import LongalignError
from longalign.metrics.options import Seed, check_out, finish
from longalign.stages.cli import ForceLora, Loras
from longalign.terminal import Device, Json, Model, Out, Overwrite, progress


def information(
    model: Model = "stickers",
    soft_tokens: Annotated[
        str | None,
        typer.Option(
            help="Soft tokens to compare with none: a file, a folder that training wrote, or stickers/softrepa."
        ),
    ] = None,
    lora: Loras = None,
    force_lora: ForceLora = False,
    data: Annotated[
        str, typer.Option(help="Captioned pictures: stickers, or a file or folder as for training.")
    ] = "stickers",
    objects: Annotated[str, typer.Option(help="Least and greatest number of stickers of a scene.")] = "1-9",
    rows: Annotated[int, typer.Option(min=4, help="How many pictures.")] = 256,
    batch: Annotated[int, typer.Option(min=2, help="B: so many pictures and captions at once.")] = 16,
    scale: Annotated[float, typer.Option(help="s of logit = s·exp(−E/τ).")] = 4.0,
    temperature: Annotated[float, typer.Option(help="τ of it.")] = 0.07,
    strategy: Annotated[str, typer.Option(help="Text encoding, as of longalign generate.")] = "auto",
    size_px: Annotated[int | None, typer.Option(help="Side of the pictures; else the model's.")] = None,
    pairs_at_once: Annotated[int, typer.Option(min=1, help="Pairs in one call of the denoiser.")] = 32,
    samples: Annotated[int, typer.Option(min=100, help="Bootstrap draws.")] = 2000,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Estimate how much captions tell a denoiser of pictures: the contrastive bound on mutual information, in nats.

    Each of B pictures is noised alike and predicted under each of B captions; the more surely the errors tell the own
    caption from the others, the more information. This is what soft tokens are trained for, so it says that
    training worked, not that pictures are better. Examples:

        longalign information --soft-tokens runs/softrepa/model

        longalign information --model FOLDER --soft-tokens soft_tokens.safetensors --data photos.jsonl --batch 8
    """
    check_out(out, overwrite)
    if scale <= 0 or temperature <= 0:
        raise LongalignError(f"--scale and --temperature must be above 0, not {scale} and {temperature}")
    if rows < 2 * batch:
        raise LongalignError(f"--rows {rows} is less than two batches of {batch}: take --batch {rows // 2}")

    from longalign.data.captioned import CaptionedPictures
    from longalign.data.sources import named_source
    from longalign.denoiser import Denoiser
    from longalign.generate import t5_branch
    from longalign.metrics.mutual_information import InformationConfig
    from longalign.metrics.mutual_information import information as run
    from longalign.objectives.contrastive_tokens import check_size
    from longalign.pipelines import load_pipeline, settings_of, strategy_for
    from longalign.soft_tokens.pipelines import load_tokens
    from longalign.stickers.files import parse_range

    source = named_source(data, split="test", seed=seed, count=rows, objects=(parse_range(objects),))
    tokens = None if soft_tokens is None else load_tokens(soft_tokens)
    loras = tuple(lora or ())
    strategy = strategy_for(strategy, loras)
    pipe = load_pipeline(model, device=device, dtype="float32", loras=loras, check_base=not force_lora)
    denoiser = Denoiser.of(pipe)
    if tokens is not None:
        tokens.config.check(denoiser.module)
    side = size_px or denoiser.side * denoiser.vae_factor
    check_size(denoiser, side)
    config = InformationConfig(
        strategy=strategy,
        length=settings_of(model, pipe).length,
        rows=rows,
        batch=batch,
        scale=scale,
        temperature=temperature,
        pairs_at_once=pairs_at_once,
        samples=samples,
        t5=t5_branch(model, strategy, pipe, loras),
    )
    pictures = CaptionedPictures(source, side, data)
    with progress("comparing", config.denoisings(1 if tokens is None else 2)) as advance:
        found = run(pipe, pictures, config, tokens=tokens, on_pairs=advance)
    finish(
        "information",
        {
            "model": model,
            "soft_tokens": soft_tokens,
            "loras": loras,
            "data": data,
            "objects": objects,
            "rows": rows,
            "batch": batch,
            "scale": scale,
            "temperature": temperature,
            "strategy": strategy,
            "size_px": side,
            "seed": seed,
        },
        found.tables(),
        found.to_json(),
        title="What captions tell of pictures",
        intro="Each picture is noised, and its noise predicted under its own caption and under those of others; the "
        "lower the error under the own one, the more it told.",
        facts={
            "model": model,
            "soft tokens": "none" if tokens is None else str(soft_tokens),
            "data": f"{data}, {len(found.times)} batches of {found.batch}",
        },
        out=out,
        overwrite=overwrite,
        as_json=as_json,
    )
