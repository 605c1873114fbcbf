"""`longalign stickers identify` and `longalign stickers localise`: they need the known truth of the sticker world."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.measuring import (
    ModelList,
    Objects,
    Seed,
    VPrompts,
    check_out,
    finish,
    open_models,
    read_v_prompts,
    v_facts,
)
from longalign.cli.terminal import Device, Dtype, Json, Out, Overwrite, progress


def identify(
    model: ModelList = None,
    renders: Annotated[int, typer.Option(min=10, help="Renders, each of its own held-out scene.")] = 5000,
    versions: Annotated[
        int,
        typer.Option(min=0, help="Renders of each prompt for the variant within prompts; 0: leave it out."),
    ] = 5,
    objects: Objects = "2-9",
    v_prompts: VPrompts = None,
    samples: Annotated[int, typer.Option(min=100, help="Bootstrap draws.")] = 2000,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Does C_X·V follow looks, and C_X·C⊥ truth? Partial correlations with both, which are known of every render.

    Each render shows a held-out scene with some mistakes and spoilt looks; the prompt describes the scene without them.
    Example:

        longalign stickers identify --model stickers/clip --model seg=runs/seg --model seg-o=runs/seg-o
    """
    from longalign.stickers.files import parse_range
    from longalign.studies.identification import identification_steps
    from longalign.studies.identification import identify as run

    check_out(out, overwrite)
    low_high = parse_range(objects)
    models = open_models(model, device, dtype)
    fit_on = read_v_prompts(v_prompts)
    with progress("reading", identification_steps(len(models), renders, versions)) as advance:
        found = run(
            models,
            renders,
            versions=versions,
            objects=low_high,
            v_prompts=fit_on,
            samples=samples,
            seed=seed,
            on_step=advance,
        )
    finish(
        "identify",
        {
            "models": models.names,
            "renders": renders,
            "versions": versions,
            "objects": objects,
            "seed": seed,
            "samples": samples,
            "v_prompts": v_prompts,
            "v": dict(found.v_source),
        },
        found.tables(),
        found.to_json(),
        title="What the two parts of a preference score measure",
        intro="Renders of the sticker world whose truth and looks are known. Truth: the share of the prompt's "
        "sentences that the picture makes true. Looks: minus the strength of blur, noise, washed-out colours, blocks.",
        facts={
            "correlation of truth and looks": f"{found.correlation_of_factors:.3f}",
            **v_facts(found.v_source),
        },
        out=out,
        overwrite=overwrite,
        as_json=as_json,
        shown=slice(1, None),
    )


def localise(
    model: ModelList = None,
    renders: Annotated[int, typer.Option(min=1, help="Held-out scenes, one false sentence each.")] = 2000,
    objects: Objects = "2-9",
    v_prompts: VPrompts = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """One sentence of each caption is false: how often does it score lowest? Against chance, for every model.

    Example:

        longalign stickers localise --model stickers/clip --model mine=runs/mine --renders 500
    """
    from longalign.stickers.files import parse_range
    from longalign.studies.localisation import localisation_steps
    from longalign.studies.localisation import localise as run

    check_out(out, overwrite)
    low_high = parse_range(objects)
    models = open_models(model, device, dtype)
    fit_on = read_v_prompts(v_prompts)
    with progress("reading", localisation_steps(len(models), renders)) as advance:
        found = run(models, renders, objects=low_high, v_prompts=fit_on, seed=seed, on_step=advance)
    finish(
        "localise",
        {
            "models": models.names,
            "renders": renders,
            "objects": objects,
            "seed": seed,
            "v_prompts": v_prompts,
            "v": dict(found.v_source),
        },
        found.tables(),
        found.to_json(),
        title="Finding the false sentence",
        intro="Captions of held-out scenes in which one sentence differs from the truth by one word. Does that "
        "sentence get the lowest score of its caption?",
        facts=v_facts(found.v_source),
        out=out,
        overwrite=overwrite,
        as_json=as_json,
    )
