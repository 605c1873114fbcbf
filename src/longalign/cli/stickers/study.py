"""`longalign stickers study`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from longalign.cli.options import (
    BatchSize,
    Device,
    Json,
    KeepPictures,
    Model,
    NoiseSeed,
    Objects,
    Out,
    Overwrite,
    SamplingSteps,
)
from longalign.cli.terminal import command_line, progress, show_run
from longalign.errors import Interrupted, LongalignError

if TYPE_CHECKING:
    from longalign.studies.compare import Column


def study(
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="A column after plain and segments, as 'LABEL=LORA+LORA~TOKENS*SCALE@STRATEGY' in which any part may "
            "be left out: LoRAs in order of their training, soft tokens and how much of their effect (0 to 1), and "
            "another encoding than the LoRAs' own or clip-cat. Repeat for each; else the stages that the package ships."
        ),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Only these labels, with commas between; plain and segments are two.")
    ] = None,
    captions: Annotated[str, typer.Option(help="self-contained, referring or both.")] = "both",
    scenes: Annotated[int, typer.Option(min=2, help="Held-out scenes.")] = 500,
    objects: Objects = "7-9",
    steps: SamplingSteps = 25,
    seed: NoiseSeed = 0,
    batch_size: BatchSize = 50,
    keep_pictures: KeepPictures = 8,
    model: Model = "stickers",
    device: Device = "cpu",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw many held-out scenes in several ways; the oracle judges. Tables: shares of true sentences with intervals,
    differences, surplus and missing objects, image quality.

    After an interruption the same command with the same --out continues, and a further --stage adds a column. 500
    scenes take about three minutes for each column and sort of captions on one core. Examples:

        longalign stickers study --out runs/study

        longalign stickers study --stage SFT=runs/sft --stage SFT+RFT=runs/reward --out runs/study

        longalign stickers study --stage 'T5=runs/t5@t5-mlp' --stage 'both encoders=@clip+t5' --out runs/t5-study

        longalign stickers study --stage 'SoftREPA=~runs/softrepa' --stage 'both=stickers/sft~runs/both' --objects 1-5

    Quote what has a ~ in it: after LABEL= some shells take it for a home folder.
    """
    from longalign.stickers.files import parse_range
    from longalign.studies.accuracy import tables_json
    from longalign.studies.scenes import StudyInterrupted, study_steps
    from longalign.studies.scenes import study as run
    from longalign.studies.scenes_folder import CAPTIONS, StudyConfig
    from longalign.studies.scenes_page import write_study

    chosen = choose_columns(stage, columns, model)
    config = StudyConfig(
        scenes=scenes,
        objects=parse_range(objects),
        captions=tuple(CAPTIONS) if captions == "both" else (captions,),
        steps=steps,
        seed=seed,
        model=model,
    )
    try:
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
    except StudyInterrupted as stop:
        if stop.result is None:
            raise
        write_study(stop.result, command_line())
        done = " · ".join(stop.result.columns)
        raise Interrupted(f"{stop}. A report of {done}: {stop.result.run.report}") from None
    tables = write_study(found, command_line())
    show_run(tables, found.run.report, {"tables": tables_json(tables)}, as_json=as_json)


def choose_columns(
    stages: list[str] | None, labels: str | None, model: str = "stickers"
) -> dict[str, Column]:
    """The columns of `--stage` and `--columns`; without stages those that are shipped for the model.

    Raises:
        LongalignError: a stage without a label, an unknown strategy, a label that no column has.
    """
    from longalign.studies.compare import PLAIN, SEGMENTS, base_columns, shipped_columns

    there = shipped_columns(model) if stages is None else base_columns() | dict(map(parse_stage, stages))
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
    """``"both=stickers/sft+stickers/reward~stickers/softrepa*0.5@clip-cat"`` → label and column.

    ``LABEL=[LORA[+LORA]…][~TOKENS[*SCALE]][@STRATEGY]``, not all of it left out. A path with a plus sign or a tilde can
    be given alone, not in a stack.

    Raises:
        LongalignError: the text has another form, an unknown strategy, or a scale that is no number from 0 to 1.
    """
    from pathlib import Path

    from longalign.encoding.strategy import Strategy
    from longalign.studies.compare import Column
    from longalign.weights.stack import strategy_for

    label, equals, rest = text.partition("=")
    made, at, strategy = rest.rpartition("@")
    if not at or "/" in strategy:
        made, strategy = rest, "auto"
    alone = bool(made) and Path(made).exists()
    loras, tilde, tokens = (made, "", "") if alone else made.partition("~")
    names = (loras,) if alone else tuple(loras.split("+")) if loras else ()
    _, early, word = loras.rpartition("@")
    if "~" in strategy or (tilde and early and "/" not in word):
        raise LongalignError(f"--stage {text!r}: @STRATEGY comes last, after ~TOKENS")
    strategy = strategy_for(strategy, names, "clip-cat")
    Strategy.of(strategy)
    tokens, scale = _scaled(tokens, text)
    said = names or tilde or at
    if not equals or not label.strip() or not all(names) or bool(tilde) != bool(tokens) or not said:
        raise LongalignError(
            f"--stage {text!r}: should be LABEL=LORA, LABEL=LORA+LORA, LABEL=~TOKENS, LABEL=LORA~TOKENS, or one of "
            "these with @STRATEGY behind it"
        )
    return label.strip(), Column(strategy, names, tokens or None, scale)


def _scaled(tokens: str, text: str) -> tuple[str, float]:
    """``"stickers/softrepa*0.5"`` → name and scale."""
    name, star, scale = tokens.rpartition("*")
    if not star:
        return tokens, 1.0
    try:
        found = float(scale)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise LongalignError(
            f"--stage {text!r}: the scale of soft tokens lies between 0 and 1, not at {scale!r}"
        )
    return name, found
