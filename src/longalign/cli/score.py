"""`longalign score`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longalign.cli.options import (
    Device,
    Dtype,
    Json,
    On,
    Overwrite,
    PreferenceModelName,
    ScoreBatchSize,
    Tokenizer,
    Workers,
    engine_of,
    settings_of,
)
from longalign.cli.terminal import command_line, print_json, print_line, progress
from longalign.errors import LongalignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longalign.scoring.data import Failure, Pair
    from longalign.scoring.stream import Scored


def score(
    images: Annotated[list[Path] | None, typer.Argument(help="Picture files.", show_default=False)] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Text, @file, or -: one prompt, or one a line for each image; else the one that each picture file has "
            "in it (longalign, A1111, ComfyUI)."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="JSONL of {image, caption}, a folder with metadata.jsonl or with .txt beside pictures, or a world: "
            "stickers, stickers:20000."
        ),
    ] = None,
    worst: Annotated[
        int | None,
        typer.Option(
            min=0, help="List so many pictures by their lowest sentence.", show_default="10 of --data"
        ),
    ] = None,
    relative: Annotated[
        bool,
        typer.Option("--relative", help="Score less the mean of the same sentence over the other pictures."),
    ] = False,
    model: PreferenceModelName = "stickers",
    decomposition: Annotated[
        str | None, typer.Option(help="File of `longalign decompose`; else the model's own, if any.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="File of `longalign calibrate`; else the model's own, if any.")
    ] = None,
    tokenizer: Tokenizer = None,
    batch_size: ScoreBatchSize = 32,
    rows: Annotated[
        int, typer.Option(min=1, help="Rows of a block of --data, and what an interruption loses at most.")
    ] = 256,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder with the scores and a page; else nothing is kept. The command goes on with --data there."
        ),
    ] = None,
    overwrite: Overwrite = False,
    on: On = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Judge how well pictures fit a prompt, sentence by sentence.

    One picture: every sentence with its score. Several for one prompt: which is
    best for each sentence. A data set: its lowest sentences, to clean captions.
    Some sentences score higher than others on any picture: --relative subtracts
    this difference. Examples:

        longalign score fox.png --prompt "A fox is in the top left. The background is navy."

        longalign score runs/first/images/0000-0.png

        longalign score a.png b.png c.png --prompt @prompt.txt --out runs/which

        longalign score --data captions.jsonl --worst 50 --relative --out runs/clean

        longalign score --data s3://bucket/shards --on ray --out runs/all

    Exit code 1: some pictures could not be read and were skipped; 2: nothing could be scored.
    """
    given = locals()
    from longalign.data.prompts import caption_of, read_prompts
    from longalign.scoring.data import count_pairs, pairs_of

    if data is not None and (images or prompt is not None):
        raise LongalignError("--data brings its own pictures and captions: leave IMAGES and --prompt out")
    if data is None and prompt is None and not images:
        raise LongalignError("no prompt: say what the picture should show with --prompt, or score --data")
    engine = engine_of(on, workers)
    if data is None and engine.on != "local":
        raise LongalignError(f"--on {on} is for --data: a few pictures are scored in this process")
    pairs: Sequence[Pair] = ()
    if data is None:
        texts = [caption_of(path) for path in images or []] if prompt is None else read_prompts([prompt])
        pairs = pairs_of(images or [], texts)
    from longalign.scoring.data_set import score_data
    from longalign.scoring.outcome import ScoreConfig
    from longalign.scoring.score import score as run

    config = settings_of(
        ScoreConfig, given, worst=(10 if data is not None else 0) if worst is None else worst
    )
    printed = _Rows() if as_json and data is not None else None
    if data is not None:
        with progress("scoring", count_pairs(data) * (2 if relative else 1)) as advance:
            done = score_data(
                str(data),
                config,
                engine=engine,
                out=out,
                overwrite=overwrite,
                command_line=command_line(),
                on_rows=advance,
                block_rows=rows,
                on_result=printed.add if printed is not None else lambda result: None,
            )
    else:
        with progress("scoring", len(pairs)) as advance:
            done = run(
                pairs,
                config,
                out=out,
                overwrite=overwrite,
                command_line=command_line(),
                on_result=lambda result: advance(1),
            )
    from longalign.cli.show_scores import failure_lines, show_outcome

    if printed is not None:
        printed.end(done.to_json())
    elif as_json:
        print_json(done.to_json())
    else:
        from rich.console import Console

        console = Console()
        show_outcome(done, console)
        if done.folder is not None:
            print_line(f"report: {done.folder / 'report.html'}")
    for line in failure_lines(done.failures, done.summary.failed):
        print(line, file=sys.stderr)
    if done.summary.failed:
        raise typer.Exit(1)


class _Rows:
    """One JSON document on standard output, written pair by pair: a long data set needs no memory."""

    def __init__(self) -> None:
        self._started = False

    def add(self, result: Scored | Failure) -> None:
        from longalign.scoring.data import Failure

        if isinstance(result, Failure):
            return  # failures are in the last part of the document
        line = json.dumps(result.to_json(), ensure_ascii=False)
        print("," if self._started else '{"pairs": [', line, sep="\n", end="")
        self._started = True

    def end(self, rest: dict[str, object]) -> None:
        print("],", json.dumps(rest, ensure_ascii=False)[1:], sep="\n")
