"""`longalign retrieve`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

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
    Referring,
    ScenesSeed,
    Split,
    VPrompts,
)
from longalign.cli.terminal import check_out, progress
from longalign.errors import LongalignError


def retrieve(
    model: PreferenceModels = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help='JSONL of {"image": …, "caption": …}, or a folder with such a metadata.jsonl; else sticker scenes.'
        ),
    ] = None,
    scenes: Annotated[int, typer.Option(min=2, help="How many sticker scenes.")] = 5000,
    objects: Objects = "1-9",
    family: Annotated[
        int,
        typer.Option(
            min=1, help="Sticker scenes in families of so many, which differ from one another by one sticker."
        ),
    ] = 1,
    split: Split = "test",
    referring: Referring = False,
    sentences: Annotated[
        str, typer.Option(help="Numbers of sentences of Table 4, comma between; 'none' leaves it out.")
    ] = "1,2,3,4,6,8",
    rank_by: Annotated[
        str, typer.Option(help="score: C_X·c, as in the paper; cosine: C_X·c/|c|. Matters for image → text.")
    ] = "score",
    search: Annotated[
        str,
        typer.Option(help="auto, count (exact, no index) or faiss (exact, too; the numbers are the same)."),
    ] = "auto",
    plain: Annotated[
        list[str] | None,
        typer.Option(help="Label of a model without preference training; else the first one's."),
    ] = None,
    segment: Annotated[
        list[str] | None,
        typer.Option("--segment-trained", help="Label of a segment-trained model; else the last one's."),
    ] = None,
    v_prompts: VPrompts = None,
    samples: BootstrapSamples = 2000,
    seed: ScenesSeed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure preference models by retrieval: R@1, R@5, R@10, with and without V, first 77 tokens or all sentences.

    Prints Tables 1 and 4 of the LongAlign paper for the given models, with 95 % intervals, and whether the paper's
    three claims hold. Examples:

        longalign retrieve

        longalign retrieve --model openai/clip-vit-large-patch14 --model runs/mine --data photos.jsonl
    """
    from longalign.evaluation.pairs import read_pairs
    from longalign.evaluation.retrieval import retrieval_steps
    from longalign.evaluation.retrieval import retrieve as run
    from longalign.metrics.matching import use_faiss
    from longalign.stickers.scene_pairs import sticker_pairs
    from longalign.studies.claims import claims_table, paper_claims

    check_out(out, overwrite)
    limits = _numbers(sentences)
    models = open_models(model, device, dtype)
    _check_labels((*(plain or ()), *(segment or ())), models)
    use_faiss(search, 0)  # says at once what is wrong with it
    fit_on = read_v_prompts(v_prompts)
    if data is not None:
        pairs = read_pairs(data)
    else:
        pairs = sticker_pairs(scenes, objects, family=family, split=split, seed=seed, referring=referring)
    with progress("reading", retrieval_steps(len(models), len(pairs), len(limits))) as advance:
        found = run(
            models,
            pairs,
            v_prompts=fit_on,
            limits=limits,
            rank_by=rank_by,
            search=search,
            samples=samples,
            on_step=advance,
        )
    claims = paper_claims(found, plain=plain or None, segment=segment or None)
    tables = [*found.tables(), claims_table(claims)]
    finish(
        "retrieve",
        {
            "models": models.names,
            "data": data or pairs.source,
            "rank_by": rank_by,
            "search": found.searched,
            "sentences": limits,
            "samples": samples,
            "v_prompts": v_prompts,
            "v": dict(found.v_source),
        },
        tables,
        {"n": found.n, "cells": found.rows(), "claims": [c.to_json() for c in claims]},
        title="Retrieval by preference models",
        intro="Each caption has one right picture among all, and each picture one right caption. C⊥ is the caption's "
        "embedding without the direction V that all captions share.",
        facts={"data": pairs.source, "ranks": found.searched, **v_facts(found.v_source)},
        out=out,
        overwrite=overwrite,
        as_json=as_json,
    )


def _check_labels(labels: Sequence[str], models: Mapping[str, Any]) -> None:
    for label in labels:
        if label not in models:
            raise LongalignError(f"no model is called {label!r}; there are: {', '.join(models)}")


def _numbers(text: str) -> tuple[int, ...]:
    """``"1,2,4"`` → (1, 2, 4); ``"none"`` → ()."""
    if text.strip() == "none":
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise LongalignError(f"--sentences are numbers from 1 on with commas between, or none, not {text!r}")
    return tuple(sorted({int(part) for part in parts}))
