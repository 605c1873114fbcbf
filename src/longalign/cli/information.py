"""`longalign information`."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.measuring import finish
from longalign.cli.options import (
    BootstrapSamples,
    Device,
    ForceLora,
    Json,
    Loras,
    Model,
    Objects,
    Out,
    Overwrite,
    ScenesSeed,
    Strategy,
)
from longalign.cli.terminal import check_out, progress
from longalign.errors import LongalignError


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
    objects: Objects = "1-9",
    rows: Annotated[int, typer.Option(min=4, help="How many pictures.")] = 256,
    batch: Annotated[int, typer.Option(min=2, help="B: pictures and captions compared at once.")] = 16,
    scale: Annotated[float, typer.Option(help="s of logit = s·exp(−E/τ).")] = 4.0,
    temperature: Annotated[float, typer.Option(help="τ of logit = s·exp(−E/τ).")] = 0.07,
    strategy: Strategy = "auto",
    size_px: Annotated[int | None, typer.Option(help="Side of the pictures; else the model's.")] = None,
    pairs_at_once: Annotated[int, typer.Option(min=1, help="Pairs in one call of the denoiser.")] = 32,
    samples: BootstrapSamples = 2000,
    seed: ScenesSeed = 0,
    device: Device = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Estimate how much captions tell a denoiser of pictures: the contrastive bound on mutual information, in nats.

    Each of B pictures gets the same noise level, and its noise is predicted under each of B captions. The more clearly
    the error under the picture's own caption is below the others, the higher the bound. Soft tokens are trained for
    this. So a rise says that training worked, not that pictures are better. Examples:

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
    from longalign.diffusion.denoiser import Denoiser
    from longalign.diffusion.pipelines import settings_of
    from longalign.evaluation.information import InformationConfig
    from longalign.evaluation.information import information as run
    from longalign.objectives.contrastive.tokens import check_size
    from longalign.soft_tokens import SoftTokens
    from longalign.stickers.files import parse_range
    from longalign.weights.stack import load_pipeline, strategy_for, t5_branch

    source = named_source(data, split="test", seed=seed, count=rows, objects=(parse_range(objects),))
    tokens = None if soft_tokens is None else SoftTokens.from_pretrained(soft_tokens)
    loras = tuple(lora or ())
    strategy = strategy_for(strategy, loras, "clip-cat")
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
        title="Mutual information of captions and pictures",
        intro="Each picture gets noise, and the denoiser predicts this noise under the picture's own caption and under "
        "other captions. The lower the error under its own caption, the higher the information.",
        facts={
            "model": model,
            "soft tokens": "none" if tokens is None else str(soft_tokens),
            "data": f"{data}, {len(found.times)} batches of {found.batch}",
        },
        out=out,
        overwrite=overwrite,
        as_json=as_json,
    )
