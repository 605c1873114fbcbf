"""`longalign stickers identify`."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.measuring import finish, open_models, read_v_prompts, v_facts
from longalign.cli.options import (
    BootstrapSamples,
    Device,
    Dtype,
    Json,
    Objects,
    Out,
    Overwrite,
    PreferenceModels,
    ScenesSeed,
    VPrompts,
)
from longalign.cli.terminal import check_out, progress


def identify(
    model: PreferenceModels = None,
    renders: Annotated[int, typer.Option(min=10, help="Renders, each of its own held-out scene.")] = 5000,
    versions: Annotated[
        int,
        typer.Option(min=0, help="Renders of each prompt for the variant within prompts; 0 leaves it out."),
    ] = 5,
    objects: Objects = "2-9",
    v_prompts: VPrompts = None,
    samples: BootstrapSamples = 2000,
    seed: ScenesSeed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure whether C_X·V follows image quality and C_X·C⊥ the truth, by partial correlations on renders.

    Each render shows a held-out scene with some mistakes and degraded quality; the prompt describes the scene without
    them. So truth and quality of every render are known.
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
