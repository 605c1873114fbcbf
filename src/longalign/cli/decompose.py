"""`longalign decompose`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longalign.cli.options import (
    Device,
    Dtype,
    Json,
    On,
    Out,
    Overwrite,
    PreferenceModelName,
    ScoreBatchSize,
    Tokenizer,
    Workers,
    engine_of,
)
from longalign.cli.terminal import command_line, print_json, print_table, progress
from longalign.errors import LongalignError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longalign.preference.decomposition import Decomposition
    from longalign.scoring.data import Failure, Pair
    from longalign.scoring.prompt_blocks import Texts


def decompose(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Prompt sets: text, .jsonl, .parquet, WebDataset .tar, folders of these or of a Hugging Face dataset, "
            "- for standard input; or .safetensors files of earlier calls, to merge. None: captions of sticker scenes.",
            show_default=False,
        ),
    ] = None,
    model: PreferenceModelName = "stickers",
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
    batch_size: ScoreBatchSize = 32,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    on: On = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Find V, the common direction of all text embeddings of a model, in one pass over a prompt set of any size.

    The score along V does not depend on the text; the rest of the score is alignment.
    The run folder has decomposition.safetensors (for --decomposition and for
    training) and a page: how strong V is, scores of pictures with their own and
    with other captions, and the pictures with the lowest and highest score along V.
    The same command goes on where it was stopped. Examples:

        longalign decompose prompts.jsonl --model openai/clip-vit-large-patch14 --out runs/v

        longalign decompose runs/v0/decomposition.safetensors runs/v1/decomposition.safetensors --out runs/v
    """
    from functools import partial
    from itertools import islice

    from longalign.data.prompt_sets import count_texts, read_texts
    from longalign.scoring.data import count_pairs, read_pairs
    from longalign.stickers.scene_pairs import captions_of_scenes, scored_pairs

    sources = sources or []
    saved = [source.endswith(".safetensors") for source in sources]
    merging = any(saved)
    if merging and not all(saved):
        raise LongalignError("either prompt sets, or .safetensors files to merge: not both at once")
    engine = engine_of(on, workers)
    once = "-" in sources
    if engine.on != "local" and (once or merging):
        raise LongalignError(f"--on {on} needs prompt sets that every worker can read: files or folders")
    from longalign.preference import PreferenceModel
    from longalign.scoring.decompose import decompose as run
    from longalign.scoring.decompose import merge_files
    from longalign.scoring.prompt_blocks import Texts, shard_of

    load = partial(PreferenceModel.from_pretrained, model, device=device, dtype=dtype, tokenizer=tokenizer)
    judge = load()
    texts: Iterable[str] | Texts | Decomposition
    if merging:
        texts = merge_files(sources, judge.width)
        of_texts: int | None = 0
    else:
        default = 20_000 if limit is None else limit
        read = partial(read_texts, sources, column) if sources else partial(captions_of_scenes, default)
        of_texts = count_texts(sources) if sources else default
        if limit is not None:
            of_texts = min(limit, of_texts or limit)
        # Standard input cannot be read twice, so it is no set that a killed command could go on with.
        texts = shard_of(islice(read(), limit), shard) if once else Texts(read, limit, shard)
        if shard is not None and of_texts:
            of_texts //= int(shard.partition("/")[2])
    pairs: Iterable[Pair | Failure] | None = None
    of_pairs = pictures
    if pictures:
        of_pairs = min(pictures, count_pairs(data)) if data is not None else pictures
        pairs = islice(read_pairs(data), pictures) if data is not None else scored_pairs(pictures)
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
            load=load,
            engine=engine,
            command_line=command_line(),
            on_text=advance,
            on_pair=advance,
        )
    if as_json:
        print_json(done.to_json())
        return
    found = done.decomposition
    print(f"V of {found.count:,} prompts; mean η {found.mean_length:.3f}")
    if done.table is not None:
        print_table(done.table)
    print(f"decomposition: {done.folder / 'decomposition.safetensors'}")
    print(f"report: {done.folder / 'report.html'}")
