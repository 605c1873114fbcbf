"""`longalign score` and `longalign decompose` from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longalign.errors import LongalignError
from longalign.terminal import Device, Dtype, Json, Out, Overwrite, print_table, progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longalign.decomposition import Decomposition
    from longalign.scoring.calibrate import Asked
    from longalign.scoring.data import Failure, Pair
    from longalign.scoring.stream import Scored

Judge = Annotated[
    str,
    typer.Option(
        "--model",
        help="Preference model: 'stickers' (embedded), a CLIPModel folder, a hub name, or an open_clip file (HPSv2).",
    ),
]
Tokenizer = Annotated[
    str | None, typer.Option(help="Folder or hub name of the tokenizer, where the model has none.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures at once.")]


def score(
    images: Annotated[list[Path] | None, typer.Argument(help="Picture files.", show_default=False)] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text, @file, or -: one prompt, or one a line for each image.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="JSONL of {image, caption}, or a folder with metadata.jsonl or with .txt beside pictures."
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
    model: Judge = "stickers",
    decomposition: Annotated[
        str | None, typer.Option(help="File of `longalign decompose`; else the model's own, if any.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="File of `longalign calibrate`; else the model's own, if any.")
    ] = None,
    tokenizer: Tokenizer = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Run folder with metrics.jsonl and a page; else nothing is written.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Judge how well pictures fit a prompt, sentence by sentence.

    One picture: every sentence with its score. Several for one prompt: which is
    best for each sentence. A data set: its lowest sentences, to clean captions.
    Some sentences score higher than others on any picture: --relative takes
    that off. Examples:

        longalign score fox.png --prompt "A fox is in the top left. The background is navy."

        longalign score a.png b.png c.png --prompt @prompt.txt --out runs/which

        longalign score --data captions.jsonl --worst 50 --relative --out runs/clean

    Exit code 1: some pictures could not be read and were skipped; 2: nothing could be scored.
    """
    from longalign.prompts import read_prompts
    from longalign.scoring.data import count_pairs, pairs_of, read_pairs

    pairs: Iterable[Pair | Failure]
    if data is not None:
        if images or prompt is not None:
            raise LongalignError("--data brings its own pictures and captions: leave IMAGES and --prompt out")
        pairs, total = read_pairs(data), count_pairs(data)
    elif prompt is None:
        raise LongalignError("no prompt: say what the picture should show with --prompt, or score --data")
    else:
        pairs = pairs_of(images or [], read_prompts([prompt]))
        total = len(pairs)
    from longalign.scoring.score import ScoreConfig
    from longalign.scoring.score import score as run

    config = ScoreConfig(
        model=model,
        tokenizer=tokenizer,
        decomposition=decomposition,
        calibration=None if calibration is None else str(calibration),
        relative=relative,
        worst=(10 if data is not None else 0) if worst is None else worst,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )
    rows = _Rows() if as_json and data is not None else None
    with progress("scoring", total) as advance:

        def on_result(result: Scored | Failure) -> None:
            if rows is not None:
                rows.add(result)
            advance(1)

        done = run(pairs, config, keep=data is None, out=out, overwrite=overwrite, on_result=on_result)
    from longalign.scoring.show import failure_lines, show_outcome

    if rows is not None:
        rows.end(done.to_json())
    elif as_json:
        print(json.dumps(done.to_json(), ensure_ascii=False))
    else:
        from rich.console import Console

        console = Console()
        show_outcome(done, console)
        if done.folder is not None:
            console.print(f"report: {done.folder / 'report.html'}", soft_wrap=True)
    for line in failure_lines(done.failures, done.summary.failed):
        print(line, file=sys.stderr)
    if done.summary.failed:
        raise typer.Exit(1)


class _Rows:
    """One JSON document on standard output, written pair by pair, so that its length does not matter."""

    def __init__(self) -> None:
        self._started = False

    def add(self, result: Scored | Failure) -> None:
        from longalign.scoring.data import Failure

        if isinstance(result, Failure):
            return  # they stand in the document's end
        line = json.dumps(result.to_json(), ensure_ascii=False)
        print("," if self._started else '{"pairs": [', line, sep="\n", end="")
        self._started = True

    def end(self, rest: dict[str, object]) -> None:
        print("],", json.dumps(rest, ensure_ascii=False)[1:], sep="\n")


def calibrate(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your captioned pictures, as for `longalign score`.", show_default="held-out sticker scenes"
        ),
    ] = None,
    model: Judge = "stickers",
    tokenizer: Tokenizer = None,
    late: Annotated[
        str, typer.Option(help="trained: by the model's late head, if any; zero-shot: by patches; none.")
    ] = "trained",
    error: Annotated[float, typer.Option(help="Share of wrong ones promised among firm verdicts.")] = 0.05,
    pictures: Annotated[int, typer.Option(min=2, help="Read so many at most.")] = 1000,
    beside: Annotated[
        bool,
        typer.Option("--beside", help="Save it beside the model's weights, where every command finds it."),
    ] = False,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Annotated[
        Path | None, typer.Option(help="File to save it in.", show_default="calibration.json")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find what a sentence's score means: P(true), and when to say true, doubtful or false.

    Sentences of a picture's own caption should be called true, those of
    another picture's false; no labels are needed. The file is for --calibration.
    Examples:

        longalign calibrate --data captions.jsonl --model openai/clip-vit-large-patch14 --late zero-shot

        longalign score --data captions.jsonl --calibration calibration.json --worst 50
    """
    from dataclasses import asdict
    from itertools import islice

    from longalign.preference import PreferenceModel
    from longalign.preference.calibration import FILE_NAME
    from longalign.scoring.calibrate import calibrate as run
    from longalign.scoring.calibrate import sticker_questions, swapped
    from longalign.scoring.data import count_pairs, read_pairs
    from longalign.scoring.decompose import beside as place

    if late not in ("trained", "zero-shot", "none"):
        raise LongalignError(f"--late is trained, zero-shot or none, not {late!r}")
    target = place(model).with_name(FILE_NAME) if beside else out or Path(FILE_NAME)
    judge = PreferenceModel.from_pretrained(
        model,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        late=late,  # type: ignore[arg-type]  # checked above
    )
    judge.calibration = None
    asked: Iterable[Asked | Failure]
    if data is None:
        asked, total = sticker_questions(pictures), pictures
        source = f"{pictures} sticker scenes of the validation split, each sentence and a lie in one word"
    else:
        asked, total = swapped(judge, islice(read_pairs(data), pictures)), min(pictures, count_pairs(data))
        source = f"own and swapped captions of {total} pictures of {data}"
    with progress("calibrating", total) as advance:
        found = run(
            judge, asked, source=source, error=error, batch_size=batch_size, save_to=target, on_step=advance
        )
    if as_json:
        print(json.dumps({**asdict(found), "file": str(target)}, ensure_ascii=False))
        return
    measured = found.measured
    print(
        f"{found.kind} score: P(true) is one half at {found.offset:.2f}, temperature {found.temperature:.2f}\n"
        f"held out: calibration error {measured['ece']:.3f}; wrong of those called true {measured['wrong_true']:.1%}, "
        f"false {measured['wrong_false']:.1%} (promised: {error:.0%}); doubtful {measured['doubtful']:.1%}\n"
        f"calibration: {target}"
    )


def decompose(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Prompt sets: text, .jsonl, .parquet, WebDataset .tar, folders of these or of a Hugging Face dataset, "
            "- for standard input; or .safetensors files of earlier calls, to merge. None: captions of sticker scenes.",
            show_default=False,
        ),
    ] = None,
    model: Judge = "stickers",
    tokenizer: Tokenizer = None,
    column: Annotated[
        str | None, typer.Option(help="Key or column of the text; else caption, prompt or text.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Read so many prompts at most.", show_default="all")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="0/4 … 3/4: this process's share; merge the files afterwards.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Pairs for the statistics, as for `longalign score`.", show_default="held-out sticker scenes"
        ),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="How many of these pairs; 0: no statistics on pictures.")
    ] = 1000,
    gallery: Annotated[
        int, typer.Option(min=0, help="Pictures of the lowest and of the highest irrelevant score.")
    ] = 12,
    beside: Annotated[
        bool,
        typer.Option(
            "--beside", help="Also save it beside the model's weights, where every command finds it."
        ),
    ] = False,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find what all text embeddings of a model have in common (V), in one pass over a prompt set of any size.

    A score along V has nothing to do with the text; the rest is alignment.
    The run folder has decomposition.safetensors (for --decomposition and for
    training) and a page: how strong V is, scores of pictures with their own and
    with other captions, and the pictures that V likes least and most. Examples:

        longalign decompose prompts.jsonl --model openai/clip-vit-large-patch14 --out runs/v

        longalign decompose runs/v0/decomposition.safetensors runs/v1/decomposition.safetensors --out runs/v
    """
    from itertools import islice

    from longalign.scoring.data import count_pairs, read_pairs, sticker_captions, sticker_pairs
    from longalign.scoring.texts import count_texts, read_texts

    sources = sources or []
    saved = [source.endswith(".safetensors") for source in sources]
    merging = any(saved)
    if merging and not all(saved):
        raise LongalignError("either prompt sets, or .safetensors files to merge: not both at once")
    from longalign.preference import PreferenceModel
    from longalign.scoring.decompose import decompose as run
    from longalign.scoring.decompose import merge_files, shard_of

    judge = PreferenceModel.from_pretrained(model, device=device, dtype=dtype, tokenizer=tokenizer)
    texts: Iterable[str] | Decomposition
    if merging:
        texts = merge_files(sources, judge.width)
        of_texts: int | None = 0
    else:
        default = 20_000 if limit is None else limit
        stream = read_texts(sources, column) if sources else sticker_captions(default)
        of_texts = count_texts(sources) if sources else default
        if limit is not None:
            stream, of_texts = islice(stream, limit), min(limit, of_texts or limit)
        texts = shard_of(stream, shard)
        if shard is not None and of_texts:
            of_texts //= int(shard.partition("/")[2])
    pairs: Iterable[Pair | Failure] | None = None
    of_pairs = pictures
    if pictures:
        of_pairs = min(pictures, count_pairs(data)) if data is not None else pictures
        pairs = islice(read_pairs(data), pictures) if data is not None else sticker_pairs(pictures)
    config = {
        "sources": sources or ["stickers"],
        "column": column,
        "limit": limit,
        "shard": shard,
        "data": data or "stickers",
        "pictures": pictures,
    }
    # An unknown number of prompts (None) is a bar that only moves.
    total = None if of_texts is None else of_texts + of_pairs
    with progress("embedding", total) as advance:
        done = run(
            judge,
            texts,
            pairs,
            name=model,
            config=config,
            gallery=gallery,
            batch_size=batch_size,
            out=out,
            overwrite=overwrite,
            save_beside=beside,
            on_text=advance,
            on_pair=advance,
        )
    if as_json:
        print(json.dumps(done.to_json(), ensure_ascii=False))
        return
    found = done.decomposition
    print(f"V of {found.count:,} prompts; mean η {found.mean_length:.3f}")
    if done.table is not None:
        print_table(done.table)
    print(f"decomposition: {done.folder / 'decomposition.safetensors'}")
    print(f"report: {done.folder / 'report.html'}")
