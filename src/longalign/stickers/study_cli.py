"""`longalign stickers study`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from longalign.errors import LongalignError
from longalign.terminal import Device, Json, Model, Out, Overwrite, print_table, progress

if TYPE_CHECKING:
    from longalign.columns import Column


def study(
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="A column after plain and segments: LABEL=LORA, or LABEL=LORA+LORA for a stack in order of training, "
            "with @STRATEGY behind it for another encoding than clip-cat (LABEL=LORA@t5-mlp, LABEL=@clip+t5). "
            "Again for each; else what the package ships."
        ),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Only these labels, with commas between; plain and segments are two.")
    ] = None,
    captions: Annotated[str, typer.Option(help="self-contained, referring or both.")] = "both",
    scenes: Annotated[int, typer.Option(min=2, help="Held-out scenes.")] = 500,
    objects: Annotated[str, typer.Option(help="Least and greatest number of stickers.")] = "7-9",
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps (UniPC).")] = 25,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene's noise.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Most pictures at once.")] = 50,
    keep_pictures: Annotated[int, typer.Option(min=0, help="Keep the pictures of so many scenes.")] = 8,
    model: Model = "stickers",
    device: Device = "cpu",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw many held-out scenes in several ways and let the oracle judge: shares with intervals, differences, looks.

    Interrupted, the same command with the same --out goes on, and another --stage adds a column to what is there.
    500 scenes take about three minutes a column and sort of captions on one core. Examples:

        longalign stickers study --out runs/study

        longalign stickers study --stage SFT=runs/sft --stage SFT+RFT=runs/reward --out runs/study
    """
    from longalign.stickers.files import parse_range
    from longalign.stickers.study import study as run
    from longalign.stickers.study import study_steps
    from longalign.stickers.study_folder import CAPTIONS, StudyConfig
    from longalign.stickers.study_page import tables_json, write_study

    chosen = choose_columns(stage, columns)
    config = StudyConfig(
        scenes=scenes,
        objects=parse_range(objects),
        captions=tuple(CAPTIONS) if captions == "both" else (captions,),
        steps=steps,
        seed=seed,
        model=model,
    )
    with progress("drawing", study_steps(chosen, config)) as advance:
        found = run(
            chosen,
            config,
            out=out,
            overwrite=overwrite,
            batch_size=batch_size,
            keep_pictures=keep_pictures,
            device=device,
            on_step=advance,
        )
    tables = write_study(found)
    if as_json:
        from longalign.runs import json_line

        result = {"folder": found.run.path, "report": found.run.report, "tables": tables_json(tables)}
        print(json_line(result), end="")
        return
    for table in tables:
        print_table(table)
    print(f"report: {found.run.report}")


def choose_columns(stages: list[str] | None, labels: str | None) -> dict[str, Column]:
    """The columns of `--stage` and `--columns`.

    Raises:
        LongalignError: a stage without a label, an unknown strategy, a label that no column has.
    """
    from longalign.columns import PLAIN, SEGMENTS, base_columns, shipped_columns

    there = shipped_columns() if stages is None else base_columns() | dict(map(parse_stage, stages))
    if labels is None:
        return there
    short = {"plain": PLAIN, "segments": SEGMENTS} | {label.lower(): label for label in there}
    wanted = [label.strip() for label in labels.split(",")]
    if unknown := [label for label in wanted if short.get(label.lower()) not in there]:
        raise LongalignError(
            f"no column {unknown[0]!r}; there are plain, segments{''.join(f', {x}' for x in list(there)[2:])}"
        )
    return {short[label.lower()]: there[short[label.lower()]] for label in wanted}


def parse_stage(text: str) -> tuple[str, Column]:
    """``"SFT+RFT=stickers/sft+stickers/reward"`` → label and column.

    A path with a plus sign in it can be given alone, not in a stack.
    """
    from pathlib import Path

    from longalign.columns import Column
    from longalign.encoding.strategy import Strategy

    label, equals, rest = text.partition("=")
    loras, at, strategy = rest.rpartition("@")
    if not at or "/" in strategy:
        loras, strategy = rest, "clip-cat"
    Strategy.of(strategy)
    names = (loras,) if Path(loras).exists() and loras else tuple(loras.split("+")) if loras else ()
    if not equals or not label.strip() or not all(names) or not (names or at):
        raise LongalignError(
            f"--stage {text!r}: should be LABEL=LORA, LABEL=LORA+LORA or LABEL=LORA@STRATEGY"
        )
    return label.strip(), Column(strategy, names)
