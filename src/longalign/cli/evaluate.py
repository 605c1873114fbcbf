"""`longalign evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.measuring import finish
from longalign.cli.options import BootstrapSamples, Device, Dtype, Json, Out, Overwrite
from longalign.cli.terminal import check_out, progress, show_tables


def evaluate(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders: of `longalign generate` or `demo`, or of pictures with a metadata.jsonl. NAME=FOLDER "
            "labels one."
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="fid, cmmd, denscore, oracle, diversity, looks, with commas between; else all that are possible."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="For fid and cmmd: a folder of pictures, or 'stickers': clean renderings of the scenes that the "
            "prompts describe (the default where they do)."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Preference model of denscore: stickers, a CLIPModel folder, a hub name.")
    ] = "stickers",
    features: Annotated[
        str | None,
        typer.Option(
            help="Extractor of fid, cmmd and diversity: a preference model, a CLIP image tower or a DINOv2. "
            "Else stickers/clip for sticker pictures, and --model for others."
        ),
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Prompts whose pictures the page shows.")] = 8,
    samples: BootstrapSamples = 2000,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Evaluate the pictures of one or several runs by independent metrics, in one table and on one page.

    A model that was trained on a reward scores high by that reward. Compare oracle, looks, diversity and the
    distances, which no training used. Examples:

        longalign evaluate runs/demo-2026-01-01-001

        longalign evaluate base=runs/a tuned=runs/b --metrics fid,cmmd,denscore --reference photos --features
        openai/clip-vit-large-patch14-336 --model path/to/denscore
    """
    from longalign.evaluation.evaluate import EvaluateConfig, EvaluationJob

    check_out(out, overwrite)
    config = EvaluateConfig(metrics, reference, model, features, show, samples, device, dtype)
    job = EvaluationJob(runs, config)
    with progress("measuring", job.steps) as advance:
        found = job.run(advance)
    if not as_json:
        show_tables([found.table, found.reading])
        if found.remark:
            print(found.remark)
    finish(
        "evaluate",
        {"runs": runs, **job.settings},
        [*([found.drawn] if found.drawn is not None else []), found.table, found.reading],
        found.to_json(),
        title="Runs by independent metrics",
        intro="The same metrics of every run, and pictures of the first prompts that all runs share."
        + (f"\n\n{found.remark}" if found.remark else ""),
        facts=found.facts,
        cases=found.cases,
        out=out,
        overwrite=overwrite,
        as_json=as_json,
        shown=slice(0),
    )
