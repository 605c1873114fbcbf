"""`longalign evaluate` and `longalign curves`: what came of runs, side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.measuring import check_out, finish
from longalign.cli.terminal import Device, Dtype, Json, Out, Overwrite, print_table, progress


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
            help="fid, cmmd, denscore, oracle, diversity, looks, with commas between; else all that can be had."
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
    samples: Annotated[int, typer.Option(min=100, help="Bootstrap draws.")] = 2000,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Evaluate the pictures of one or several runs by independent metrics; one table, one page.

    A reward-trained model pleases its own reward: oracle, looks, diversity and the distances are the ones to
    look at. Examples:

        longalign evaluate runs/demo-2026-01-01-001

        longalign evaluate base=runs/a tuned=runs/b --metrics fid,cmmd,denscore --reference photos --features
        openai/clip-vit-large-patch14-336 --model path/to/denscore
    """
    from longalign.evaluation.job import EvaluateConfig, EvaluationJob
    from longalign.evaluation.page import flipped

    check_out(out, overwrite)
    config = EvaluateConfig(metrics, reference, model, features, show, samples, device, dtype)
    job = EvaluationJob(runs, config)
    with progress("looking", job.steps) as advance:
        found = job.run(advance)
    if not as_json:
        print_table(flipped(found.table))
        print_table(found.reading)
    finish(
        "evaluate",
        {"runs": runs, **job.settings},
        [*([found.drawn] if found.drawn is not None else []), found.table, found.reading],
        found.to_json(),
        title="Runs by independent metrics",
        intro="The same numbers of every run's pictures, and the pictures of the first prompts that all runs share.",
        facts=found.facts,
        cases=found.cases,
        out=out,
        overwrite=overwrite,
        as_json=as_json,
        shown=slice(0),
    )


def curves(
    runs: Annotated[
        list[str],
        typer.Argument(help="Folders of `longalign train`; NAME=FOLDER labels one, ω=0.3=FOLDER too."),
    ],
    metrics: Annotated[
        str | None, typer.Option(help="Names of the metrics to draw, commas between; else all.")
    ] = None,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Lay the held-out curves of several training runs over each other: a figure a metric, a line a run.

    Example:

        longalign curves "ω = 0=runs/w0" "ω = 0.3=runs/w03" "ω = 1=runs/w1" --metrics true,diversity
    """
    from longalign.evaluation.curves import overlay, read_runs

    check_out(out, overwrite)
    names = None if metrics is None else [m.strip() for m in metrics.split(",") if m.strip()]
    found = overlay(read_runs(runs), names)
    finish(
        "curves",
        {"runs": runs, "metrics": names},
        found.tables(),
        found.to_json(),
        title="Training runs on held-out data",
        intro="Each line is one run; what was measured on prompts that it was not trained on.",
        facts={"runs": ", ".join(found.labels)},
        curves=found.curves(),
        out=out,
        overwrite=overwrite,
        as_json=as_json,
    )
