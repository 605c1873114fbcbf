"""Shares of true sentences before and beyond the window, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from longalign.metrics.intervals import percentile, resample
from longalign.report import CLUSTERED, Estimate, Table, clustered_wilson
from longalign.report.sentences import Sentences, judge

Scenes = Sequence[np.ndarray]  # (sentences of the scene,) bool, one array a scene
CHANCE = "chance"
PARTS = ("before token 77", "beyond token 77", "all sentences")


def judged_true(
    sentences: Sequence[Sentences], images: Sequence[Image.Image], oracle: str | None
) -> list[np.ndarray]:
    """For each scene (sentences,), True where the oracle calls the sentence true of the scene's picture."""
    return [
        np.array([mark == "true" for mark in judge([x.text for x in s.segments], image, oracle)], bool)
        for s, image in zip(sentences, images, strict=True)
    ]


def shuffled(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Each scene gets the picture of the next scene, as from a model that ignores its prompt. This measures chance."""
    return [*images[1:], *images[:1]]


def parts_of(beyond: Scenes) -> dict[str, Scenes]:
    """Name of a row → for each scene a mask of the sentences that the row counts."""
    before = [~b for b in beyond]
    return dict(zip(PARTS, (before, list(beyond), [np.ones_like(b) for b in beyond]), strict=True))


def counts_in(true: Scenes, chosen: Scenes) -> tuple[np.ndarray, np.ndarray]:
    """(S,) numbers of true sentences and (S,) numbers of all sentences, among the chosen ones of each scene."""
    successes = np.array([int(t[c].sum()) for t, c in zip(true, chosen, strict=True)])
    return successes, np.array([int(c.sum()) for c in chosen])


def share_table(
    true: Mapping[str, Scenes], beyond: Scenes, caption: str = "Sentences that are true of the picture"
) -> Table:
    """Share of true sentences before and beyond the window and of all, with 95 % intervals of `clustered_wilson`.

    Args:
        true: column → what `judged_true` says, the last one being chance.
        beyond: which sentences lie past the window.
    """
    rows: list[list[str | Estimate]] = [
        [label, *(clustered_wilson(*counts_in(of_column, chosen)) for of_column in true.values())]
        for label, chosen in parts_of(beyond).items()
    ]
    return Table(
        caption,
        ["", *true],
        rows,
        plot=True,
        baseline=CHANCE,
        note="Share of the sentences that the oracle calls true of the picture (unclear counts as not true); "
        f"95 % {CLUSTERED.format('scene')}. Chance: the same sentences judged on another scene's picture.",
    )


def accuracy_table(
    sentences: Sequence[Sentences], images: Mapping[str, Sequence[Image.Image]], oracle: str | None
) -> Table:
    """`share_table` of pictures; chance is measured on the pictures of the last column."""
    with_chance = {**images, CHANCE: shuffled(list(images.values())[-1])}
    true = {label: judged_true(sentences, column, oracle) for label, column in with_chance.items()}
    return share_table(true, [np.array(s.beyond, bool) for s in sentences])


def ratio_difference(
    a: tuple[np.ndarray, np.ndarray],
    b: tuple[np.ndarray, np.ndarray],
    *,
    samples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Σ s_a / Σ n_a − Σ s_b / Σ n_b with a 95 % interval. Each bootstrap sample takes the same scenes for both.

    So a scene that is hard for both does not widen the interval.

    Args:
        a, b: (S,) successes and (S,) counts each, as `counts_in` gives them.
    """
    table = np.stack([*a, *b], axis=1).astype(np.float64)  # (S, 4)
    draws = np.concatenate([w @ table for w in resample(len(table), samples, seed)])  # (samples, 4)
    n = int(a[1].sum() + b[1].sum())
    value, spread = float(_difference(table.sum(0, keepdims=True))[0]), _difference(draws)
    if len(table) < 2:
        return Estimate(value, math.nan, math.nan, n, "+.1%")
    found = percentile(value, spread, n, format="+.1%")
    if not np.isfinite(value) or found.high - found.low > 1e-12:
        return found
    room = 1 - clustered_wilson(b[1], b[1]).low  # nothing varies: with few scenes this is weak evidence
    return Estimate(value, max(-1.0, value - room), min(1.0, value + room), n, "+.1%")


def mean_estimate(values: np.ndarray, *, format: str = ".2f", samples: int = 2000, seed: int = 0) -> Estimate:
    """The mean of (S,) values, one a scene, with a 95 % bootstrap interval."""
    if len(values) == 1:  # a single scene shows no spread
        return Estimate(float(values[0]), math.nan, math.nan, 1, format)
    draws = np.concatenate([w @ values / len(values) for w in resample(len(values), samples, seed)])
    return percentile(float(values.mean()), draws, len(values), format=format)


def table_json(table: Table, head: str = "row") -> list[dict[str, Any]]:
    """A table for machines: one object for each row, with its name under `head` and an object for each column."""
    return [
        {
            name or head: cell
            if isinstance(cell, str)
            else {"value": cell.value, "low": cell.low, "high": cell.high, "n": cell.n}
            for name, cell in zip(table.columns, row, strict=True)
        }
        for row in table.rows
    ]


def tables_json(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Tables for machines: caption and `table_json` of each."""
    return [{"caption": t.caption, "rows": table_json(t)} for t in tables]


def _difference(sums: np.ndarray) -> np.ndarray:
    """(R, 4) successes and counts of a and of b → (R,); NaN where one has no sentence at all."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
