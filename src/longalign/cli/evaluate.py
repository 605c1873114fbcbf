"""`longalign evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longalign.cli.options import (
    BootstrapSamples,
    Device,
    Dtype,
    Json,
    On,
    Out,
    Overwrite,
    Workers,
    engine_of,
)
from longalign.cli.terminal import command_line, print_json, progress, show_tables
from longalign.errors import LongalignError

if TYPE_CHECKING:
    from longalign.engine import Engine


def evaluate(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of pictures (of `longalign generate`, `demo`, or with a metadata.jsonl), models (stickers, a "
            "diffusers folder, a hub name), each as NAME, LABEL=NAME or LABEL=NAME,key=value,…; or a recipe "
            "(stickers-table2, FILE.yaml)."
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between, or 'all'; else the default ones that are possible. "
            "`longalign doctor` lists them."
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="What models draw: a text file, JSONL, CSV, parquet, DPG-Bench's folder, GenEval's metadata, or "
            "stickers:1000 (held-out captions). For folders: pictures are matched by prompt or by name."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="For fid, kid, cmmd, precision, lpips: a folder of pictures, or 'stickers': clean renderings of the "
            "scenes that the prompts describe (the default where they do)."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Preference model of denscore: stickers, a CLIPModel folder, a hub name."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Extractor of fid, cmmd and diversity: a preference model, a CLIP image tower or a DINOv2. "
            "Else stickers/clip for sticker pictures, and --model for others."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="METRIC.KEY=VALUE: an option of a metric. KEY=VALUE: a setting of all models (steps=20).",
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(help="Draw at several values: length=15,60,120,240,500, guidance=…, steps=… or seed=…."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The run that the others are compared with; else the first.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture of each prompt.")] = 0,
    num: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 1,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Prompts that are drawn and measured together.")
    ] = 16,
    show: Annotated[
        int | None, typer.Option(min=0, help="Prompts whose pictures the page shows; else all.")
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            help="Words with commas between: attention.html shows where models look for them (Fig. 12)."
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="I/N: do the I-th of N parts, on this machine, and stop (I from 1).")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="The arguments are run folders of shards: join them in --out.")
    ] = False,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Say how long it will take and how much memory; do nothing else."),
    ] = False,
    samples: BootstrapSamples = 2000,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    on: On = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Evaluate pictures and models on long prompts, by independent metrics, in one table and on one page.

    Models draw the same prompts from the same seeds. The same command with the same --out goes on where it was
    stopped. A model that was trained on a reward scores high by that reward: compare oracle, looks, diversity and the
    distances, which no training used. Examples:

        longalign evaluate runs/demo-2026-01-01-001

        longalign evaluate stickers stickers,lora=stickers/sft --prompts stickers:100 --out runs/compared

        longalign evaluate base=runs/a tuned=runs/b --metrics fid,cmmd,denscore --reference photos --features
        openai/clip-vit-large-patch14-336 --model path/to/denscore

        longalign evaluate stickers-table2 --out runs/table2
    """
    from longalign.evaluation.evaluate import EvaluationJob
    from longalign.evaluation.processes import Shard
    from longalign.evaluation.settings import EvaluateConfig, split_settings

    if merge:
        from longalign.evaluation.merging import merge_shards

        if out is None:
            raise LongalignError("--merge needs --out FOLDER for the whole")
        names, config = merge_shards([Path(r) for r in runs], out)
        return _evaluate(EvaluationJob(names, config), out, False, None, as_json)
    options, drawing = split_settings(settings or [])
    config = EvaluateConfig(
        metrics,
        reference,
        model,
        features,
        show,
        samples,
        device,
        dtype,
        prompts,
        limit,
        seed,
        num,
        batch_size,
        sweep,
        options,
        drawing,
        baseline,
    )
    engine = engine_of(on, workers)
    if engine.on != "local" and shard is not None:
        raise LongalignError(f"--on {on} shares the work out itself: leave --shard out")
    job = EvaluationJob(runs, config)
    if estimate:
        from longalign.evaluation.estimate import estimated

        return _tell(estimated(job), as_json)
    part = None if shard is None else _shard(shard)
    words = [word.strip() for word in (attention or "").split(",") if word.strip()]
    if words:
        from longalign.evaluation.attention import check_words

        check_words(job.points, words)
    _evaluate(job, out, overwrite, part and Shard(*part), as_json, words, engine)


def _evaluate(
    job: Any,
    out: Path | None,
    overwrite: bool,
    shard: Any,
    as_json: bool,
    words: Sequence[str] = (),
    engine: Engine | None = None,
) -> None:
    """Draws, measures, writes and prints."""
    from longalign.evaluation.parts import FolderParts
    from longalign.evaluation.processes import Shard, is_first, of_this_process, wait_for_all
    from longalign.evaluation.report import write_evaluation

    mine = of_this_process(shard or Shard())
    first = is_first()
    run = open_folder(out, job.settings, overwrite) if first else None
    wait_for_all()
    run = run or open_folder(out, job.settings, False)
    parts = FolderParts(run.path / "parts")
    if first:
        job.prepare(parts)
    wait_for_all()
    if engine is not None and engine.on != "local":
        from longalign.evaluation.on_engine import run_on

        with progress("drawing and measuring", None) as advance:
            run_on(job, run, engine, advance)
    if amount := job.pictures_to_draw(mine):
        with progress("drawing", amount) as advance:
            job.draw(run, mine, advance)
    wait_for_all()
    sets = job.all_sets(run)
    with progress("measuring", job.pictures_to_measure(sets, mine)) as advance:
        measuring, passes, kept = job.measure(sets, parts, mine, advance)
    wait_for_all()
    if shard is not None and shard.count > 1:
        print(
            f"shard {shard.index + 1}/{shard.count} is done: {run.path}. When all are, join them by\n"
            f"  longalign evaluate SHARD… --merge --out FOLDER\n"
            "or, where they share one --out, by the same command without --shard"
        )
        return
    if not first:
        return  # the first process writes
    found = job.result(measuring, passes, kept)
    if job.judges:
        with progress("asking the judge", job.pairs_to_judge) as advance:
            found = job.judge(found, run.path, advance)
    if words:
        found = replace(found, facts={**found.facts, "attention maps": "attention.html, beside this page"})
    cases = len(measuring.blocks.keys)
    with progress("writing pages", cases) as advance:
        tables = write_evaluation(
            found, run, command_line=command_line(), show=job.config.show, on_case=lambda case: advance(1)
        )
    if words:
        from longalign.evaluation.attention import write_attention

        write_attention(job.plans(), words, run, command_line=command_line())
    for name, reason in found.dropped.items():
        print(f"longalign: {name} was not computed: {reason}", file=sys.stderr)
    if as_json:
        print_json({"folder": run.path, "report": run.report, **found.to_json()})
        return
    show_tables(tables, str(run.report))
    for name, value in found.facts.items():
        print(f"{name}: {value}")
    if words:
        print(f"attention: {run.path / 'attention.html'}")
    print(f"report: {run.report}")


def open_folder(out: Path | None, settings: dict[str, Any], overwrite: bool) -> Any:
    """The run folder: a new one, or the one that the same evaluation began."""
    from longalign.evaluation.processes import processes
    from longalign.paths import need_local
    from longalign.runs import RunFolder

    need_local(out, "pictures and their pages")
    told = {"command": "evaluate", **settings}
    if out is None:
        if processes() > 1:
            raise LongalignError("several processes need one folder: --out FOLDER")
        return RunFolder.new("evaluate", told)
    if overwrite and out.is_dir() and any(out.iterdir()):
        return RunFolder(out, told, overwrite=True)
    return RunFolder.resume(
        out, told, free=("metrics", "options", "drawing", "show", "samples", "baseline", "device")
    )


def _shard(text: str) -> tuple[int, int]:
    """``2/8`` → (1, 8)."""
    index, slash, count = text.partition("/")
    try:
        i, n = int(index), int(count)
    except ValueError:
        i, n = 0, 0
    if not slash or not 1 <= i <= n:
        raise LongalignError(f"--shard {text!r} should be I/N with I from 1 to N, such as 2/8")
    return i - 1, n


def _tell(rows: Any, as_json: bool) -> None:
    if as_json:
        print_json(rows.to_json())
        return
    show_tables([rows.table()])
