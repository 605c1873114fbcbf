"""`longalign stickers localise`."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.measuring import finish, open_models, read_v_prompts, v_facts
from longalign.cli.options import (
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


def localise(
    model: PreferenceModels = None,
    renders: Annotated[int, typer.Option(min=1, help="Held-out scenes, one false sentence each.")] = 2000,
    objects: Objects = "2-9",
    v_prompts: VPrompts = None,
    seed: ScenesSeed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure how often the one false sentence of a caption has the lowest score, against chance, for every model.

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
