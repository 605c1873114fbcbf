"""Retrieval by preference models: Tables 1 and 4 of LongAlign, with intervals.

Texts are ranked for an image, and images for a text, by the score C_X·c, where c is C_P or C⊥ of the caption's first
77 tokens (*Single*) or of the mean of its sentences' embeddings (*Average*, which is not made a unit vector again).
Among the images of one text the length of c plays no role; among the texts of one image it does: a text with a long c
scores high and low more easily. The default is the paper's score; ``rank_by="cosine"`` divides by |c|.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from longalign.errors import LongalignError
from longalign.evaluation.pairs import (
    Pairs,
)
from longalign.metrics.embedding import (
    Advance,
    Embedder,
    decomposition_of,
    embed_captions,
    embed_images,
    embed_single,
)
from longalign.metrics.intervals import PairedBootstrap
from longalign.metrics.matching import hits, match, use_faiss
from longalign.plugins import unknown
from longalign.report import Estimate, Table

C_P, C_PERP = "C_P", "C⊥"
EMBEDDINGS = (C_P, C_PERP)
SINGLE, AVERAGE = "Single", "Average"
ENCODINGS = (SINGLE, AVERAGE)
TO_IMAGE, TO_TEXT = "text → image", "image → text"
DIRECTIONS = (TO_IMAGE, TO_TEXT)
KS = (1, 5, 10)
LIMITS = (1, 2, 3, 4, 6, 8)  # sentences, Table 4
RANKINGS = ("score", "cosine")


class Cell(NamedTuple):
    """One number of the tables: R@k of a model. ``sentences``: at most so many of each caption (None: all)."""

    model: str
    embedding: str = C_PERP
    encoding: str = AVERAGE
    direction: str = TO_IMAGE
    k: int = 1
    sentences: int | None = None


@dataclass(frozen=True)
class Retrieval:
    """R@k of every cell over the same N queries.

    Attributes:
        models: labels, in the order given.
        bootstrap: over queries, shared by all cells.
        limits: the numbers of sentences of Table 4.
        v_source: label → where its V is from.
        searched: how the ranks were found.
    """

    models: tuple[str, ...]
    bootstrap: PairedBootstrap
    limits: tuple[int, ...]
    v_source: Mapping[str, str]
    source: str
    rank_by: str
    searched: str

    @property
    def n(self) -> int:
        return self.bootstrap.n

    def estimate(self, cell: Cell) -> Estimate:
        return self.bootstrap.estimate(cell)

    def difference(self, a: Cell, b: Cell) -> Estimate:
        """R@k of a minus that of b, with its interval over the same queries."""
        return self.bootstrap.difference(a, b)

    def tables(self) -> list[Table]:
        """Table 1 for text → image; Table 4, if asked for; R@1, 5 and 10 in both directions."""
        grid: list[list[str | Estimate]] = [
            [f"{model} · {embedding}", *(self.estimate(Cell(model, embedding, e)) for e in ENCODINGS)]
            for model in self.models
            for embedding in EMBEDDINGS
        ]
        note = (
            f"{self.source}; ties count as broken at random; {100 * self.bootstrap.level:.0f} % Wilson intervals. "
            "Single: the first 77 tokens; Average: the mean of the sentences' embeddings."
        )
        found = [Table("R@1, text → image (Table 1)", ["", *ENCODINGS], grid, note=note)]
        if self.limits:
            rows: list[list[str | Estimate]] = [
                [
                    "1 sentence" if n == 1 else f"at most {n} sentences",
                    *(self.estimate(Cell(model, sentences=n)) for model in self.models),
                ]
                for n in self.limits
            ]
            found.append(
                Table(
                    "R@1, text → image, by number of sentences (Table 4)",
                    ["", *self.models],
                    rows,
                    plot=True,
                    note="C⊥, Average, of the first sentences of each caption.",
                )
            )
        ranked = " by cosine" if self.rank_by == "cosine" else ""
        for direction in DIRECTIONS:
            full: list[list[str | Estimate]] = [
                [
                    f"{model} · {embedding} · {encoding}",
                    *(self.estimate(Cell(model, embedding, encoding, direction, k)) for k in KS),
                ]
                for model in self.models
                for embedding in EMBEDDINGS
                for encoding in ENCODINGS
            ]
            found.append(Table(f"Retrieval, {direction}{ranked}", ["", *(f"R@{k}" for k in KS)], full))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a cell, for JSON."""
        cells = [(cell, self.estimate(cell)) for cell in self.bootstrap.column if isinstance(cell, Cell)]
        return [{**c._asdict(), "value": e.value, "low": e.low, "high": e.high, "n": e.n} for c, e in cells]


def retrieval_steps(models: int, pairs: int, limits: int) -> int:
    """How far `retrieve` counts in all: images and captions read, texts ranked."""
    return models * pairs * (3 + len(EMBEDDINGS) * len(ENCODINGS) + limits)


def retrieve(
    models: Mapping[str, Embedder],
    pairs: Pairs,
    *,
    v_prompts: Sequence[str] | None = None,
    limits: Sequence[int] = LIMITS,
    rank_by: str = "score",
    search: str = "auto",
    samples: int = 2000,
    seed: int = 0,
    on_step: Advance = lambda steps: None,
) -> Retrieval:
    """R@1, R@5 and R@10 in both directions, of every model × {C_P, C⊥} × {Single, Average}.

    Args:
        models: label → model, see `Models`.
        pairs: what is retrieved. Each caption has one right image, its own.
        v_prompts: to fit V on for models that have none stored; else ``pairs.v_prompts``.
        limits: numbers of sentences of Table 4 (C⊥, Average, text → image); none leaves it out.
        rank_by: ``score`` (C_X·c, the paper's) or ``cosine``, which makes a difference for image → text.
        search: see `matching.match`.
        samples, seed: of the bootstrap.

    Raises:
        LongalignError: no model, fewer than two pairs, a model without V and nothing to fit it on, bad arguments.
    """
    if not models:
        raise LongalignError("no model to measure")
    if len(pairs) < 2:
        raise LongalignError("retrieval needs at least two pairs")
    if rank_by not in RANKINGS:
        raise LongalignError(unknown("ranking by", rank_by, RANKINGS))
    if any(n < 1 for n in limits):
        raise LongalignError("numbers of sentences start at 1")
    fit_on = v_prompts if v_prompts is not None else pairs.v_prompts
    v_source: dict[str, str] = {}
    found: dict[Cell, np.ndarray] = {}
    device = "cpu"

    def rank(label: str, embedding: str, encoding: str, n: int | None, c: Tensor, c_x: Tensor) -> None:
        text = normalize(c, dim=-1) if rank_by == "cosine" else c
        ranks = match(text, c_x, search=search, on_step=on_step)
        for direction, counts in zip(DIRECTIONS, ranks, strict=True):
            for k in KS if n is None else (1,):
                if n is None or direction == TO_IMAGE:
                    found[Cell(label, embedding, encoding, direction, k, n)] = hits(counts, k)

    for label in models:
        model = models[label]
        decomposition, v_source[label] = decomposition_of(label, model, fit_on)
        c_x = embed_images(model, pairs.picture, len(pairs), on_step)
        device = c_x.device.type
        average = embed_captions(model, pairs.captions, (None, *limits), on_step)
        for encoding, c in ((SINGLE, embed_single(model, pairs.captions, on_step)), (AVERAGE, average[None])):
            rank(label, C_P, encoding, None, c, c_x)
            rank(label, C_PERP, encoding, None, decomposition.split(c)[0], c_x)
        for n in limits:
            rank(label, C_PERP, AVERAGE, n, decomposition.split(average[n])[0], c_x)
        del model, c_x, average
    searched = "FAISS, exact" if use_faiss(search, len(pairs), device) else "all scores counted"
    bootstrap = PairedBootstrap(found, samples, seed)
    return Retrieval(tuple(models), bootstrap, tuple(limits), v_source, pairs.source, rank_by, searched)
