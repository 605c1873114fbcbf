"""Localisation: how often the one false sentence of a caption has the lowest score.

A score of the whole text says that something is wrong. Scores of sentences (LongAlign, §3.2, Fig. 16) should say what
is wrong. Some sentences score higher than others on any picture. So there are four kinds of scores: C_P as it is, C⊥
(without V), and both *calibrated*: minus the sentence's mean score over other pictures. Scores are linear in the image
embedding, so this mean is the score of the mean embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.metrics.embedding import Advance, Embedder, decomposition_of, embed_images
from longalign.preference import PreferenceModel
from longalign.preference.late import late_scores
from longalign.report import Estimate, Table, wilson
from longalign.stickers.scene_pairs import (
    sticker_prompts,
    to_tensor,
)
from longalign.stickers.world import render_array
from longalign.studies.renders import OneFalse, one_false, other_scenes

SCORES = ("C_P", "C⊥", "C_P, calibrated", "C⊥, calibrated", "S, late")
CHANCE = "chance"
KINDS = ("kind", "position", "disc", "background")


@dataclass(frozen=True)
class Localisation:
    """The result of `localise`.

    Attributes:
        hits: label → bool (N, 5), for the scores of `SCORES`: whether the false sentence has the lowest score. (N, 4)
            of a model without late interaction.
        v_source: label → source of the model's V.
        sentences: (N,) how many sentences each caption has.
        kinds: (N,) what is wrong in the false sentence.
        others: number of pictures for the calibration.
    """

    hits: Mapping[str, np.ndarray]
    sentences: np.ndarray
    kinds: np.ndarray
    others: int
    v_source: Mapping[str, str]

    def estimates(self, label: str, chosen: np.ndarray | None = None) -> list[Estimate]:
        """The shares, over all renders or the chosen ones, with Wilson intervals."""
        found = self.hits[label] if chosen is None else self.hits[label][chosen]
        return [wilson(int(column.sum()), len(found)) for column in found.T]

    def _cells(self, label: str, chosen: np.ndarray | None = None) -> list[str | Estimate]:
        found: list[str | Estimate] = [*self.estimates(label, chosen)]
        return found + ["–"] * (len(SCORES) - len(found))

    def chance(self, chosen: np.ndarray | None = None) -> Estimate:
        """The mean of 1 / number of sentences: an exact value, without an interval."""
        counts = self.sentences if chosen is None else self.sentences[chosen]
        value = float((1 / counts).mean()) if len(counts) else float("nan")
        return Estimate(value, value, value, len(counts))

    def tables(self) -> list[Table]:
        """Over all renders (drawn), by number of sentences, and by what is wrong."""
        columns = ["", *SCORES, CHANCE]
        overall = Table(
            "The false sentence is the lowest-scored",
            columns,
            [[label, *self._cells(label), self.chance()] for label in self.hits],
            plot=True,
            baseline=CHANCE,
            note=f"{len(self.sentences):,} held-out renders with one false sentence; 95 % Wilson intervals. "
            f"Calibrated: less the sentence's mean score over {self.others} other pictures. A tie counts as a miss.",
        )
        groups = {
            "By number of sentences": [
                (f"{n} sentences", self.sentences == n) for n in sorted(set(self.sentences.tolist()))
            ],
            "By what is wrong": [(k, self.kinds == k) for k in KINDS if (self.kinds == k).any()],
        }
        return [
            overall,
            *(
                Table(
                    caption,
                    columns,
                    [
                        [f"{label} · {name}", *self._cells(label, chosen), self.chance(chosen)]
                        for label in self.hits
                        for name, chosen in parts
                    ],
                )
                for caption, parts in groups.items()
            ),
        ]

    def to_json(self) -> dict[str, Any]:
        def plain(table: Table) -> list[dict[str, Any]]:
            return [
                {
                    "name": row[0],
                    **{
                        name: {"value": c.value, "low": c.low, "high": c.high, "n": c.n}
                        for name, c in zip(table.columns[1:], row[1:], strict=True)
                        if isinstance(c, Estimate)
                    },
                }
                for row in table.rows
            ]

        names = ("overall", "by_sentences", "by_kind")
        tables = dict(zip(names, map(plain, self.tables()), strict=True))
        return {"renders": len(self.sentences), **tables, "v_source": dict(self.v_source)}


def localisation_steps(models: int, renders: int, others: int = 500) -> int:
    """The sum of the numbers that `localise` passes to `on_step`: pictures that the models read."""
    return models * (renders + others)


def localise(
    models: Mapping[str, Embedder],
    renders: int = 2000,
    *,
    objects: tuple[int, int] = (2, 9),
    others: int = 500,
    v_prompts: Sequence[str] | None = None,
    seed: int = 0,
    on_step: Advance = lambda pictures: None,
) -> Localisation:
    """How often the one false sentence of a caption has the lowest score, for every model and each kind of score.

    Args:
        models: label → model, see `Models`.
        renders: how many held-out scenes.
        objects: least and greatest number of stickers; a caption has one sentence more.
        others: pictures for the calibrated scores.
        v_prompts: to fit V on where a model has none stored; else sticker captions of the training split.

    Raises:
        LongalignError: no model, no renders.
    """
    if not models:
        raise LongalignError("no model to measure")
    if renders < 1 or others < 1:
        raise LongalignError("localisation needs renders, and other pictures to calibrate on")
    v_prompts = sticker_prompts() if v_prompts is None else v_prompts
    asked = [one_false(i, objects=objects, seed=seed) for i in range(renders)]
    rest = other_scenes(others)
    texts = [s.text for one in asked for s in one.said]
    counts = np.array([len(one.said) for one in asked])
    hits: dict[str, np.ndarray] = {}
    v_source: dict[str, str] = {}
    for label in models:
        model = models[label]
        decomposition, v_source[label] = decomposition_of(label, model, v_prompts)
        c_x = embed_images(model, lambda i: to_tensor(render_array(asked[i].shown)), renders, on_step)
        mean = embed_images(model, lambda i: to_tensor(render_array(rest[i])), others, on_step).mean(0)
        with torch.no_grad():
            c_p = model.text(texts)  # (Σ K, D)
        c_perp, _ = decomposition.split(c_p)
        scores = _scores(c_x, mean, c_p, c_perp, counts)
        if isinstance(model, PreferenceModel) and model.late is not None:
            late = _late(model, asked, [[s.text for s in one.said] for one in asked])
            scores = np.concatenate([scores, late[:, None]], axis=1)
        hits[label] = lowest_is_false(scores, asked)
    return Localisation(hits, counts, np.array([one.kind for one in asked]), others, v_source)


def _scores(c_x: Tensor, mean: Tensor, c_p: Tensor, c_perp: Tensor, counts: np.ndarray) -> np.ndarray:
    """(Σ K, 4) pooled scores of `SCORES`, sentence after sentence."""
    image = c_x.repeat_interleave(torch.from_numpy(counts).to(c_x.device), dim=0)  # (Σ K, D)
    columns = [(x * c).sum(-1) for x in (image, image - mean) for c in (c_p, c_perp)]
    return torch.stack(columns, dim=-1).double().cpu().numpy()


@torch.no_grad()
def _late(model: PreferenceModel, asked: Sequence[OneFalse], texts: Sequence[Sequence[str]]) -> np.ndarray:
    """(Σ K,) S of every sentence."""
    distinct = list(dict.fromkeys(text for of_caption in texts for text in of_caption))
    row_of = {text: row for row, text in enumerate(distinct)}
    tokens = model.tokens(distinct)
    found = []
    for one, of_caption in zip(asked, texts, strict=True):
        rows = torch.tensor([row_of[text] for text in of_caption], device=tokens.weights.device)
        patches = model.patches(to_tensor(render_array(one.shown))[None])
        found.append(late_scores(patches, tokens.rows(rows), [len(of_caption)]))
    return torch.cat(found).double().cpu().numpy()


def lowest_is_false(scores: np.ndarray, asked: Sequence[OneFalse]) -> np.ndarray:
    """(Σ K, J) scores → bool (N, J): is the false sentence's score below all others of its caption? Ties are misses."""
    bounds = np.cumsum([0, *(len(one.said) for one in asked)])
    rows = []
    for one, (start, stop) in zip(asked, pairwise(bounds), strict=True):
        of_caption = scores[start:stop]
        rows.append((np.delete(of_caption, one.false, axis=0) > of_caption[one.false]).all(0))
    return np.array(rows)
