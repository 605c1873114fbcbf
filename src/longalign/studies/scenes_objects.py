"""Surplus, repeated and missing objects: how a study counts them in pictures, and its tables.

Soft tokens can make a model repeat objects. The truth of single sentences does not show this, because no sentence says
what is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from longalign.report import Estimate, Table, wilson
from longalign.studies.accuracy import CHANCE, mean_estimate

# What is counted, and how it is said in a table.
COUNTS = {
    "surplus": "surplus, where the scene is empty",
    "repeated": "of these, of a kind that the scene has elsewhere",
    "copies": "copies, beyond the first of a kind",
    "missing": "missing, of the kinds of the scene",
}
CHANCE_COUNTS = "chance_objects"


def objects_tables(result: Any) -> list[Table]:
    """Objects per picture that are surplus, repeated or missing, for each sort of captions, and paired differences."""
    found = []
    empty = float(np.mean([9 - len(s.stickers) for s in result.scenes]))
    for sort, series in result.series.items():
        labels = list(series.rows)
        rows: list[list[str | Estimate]] = []
        for count, said in COUNTS.items():
            values = {
                label: np.array([row["objects"][count] for row in of_column])
                for label, of_column in series.rows.items()
            }
            chance = np.array([row[CHANCE_COUNTS][count] for row in series.rows[labels[-1]]])
            rows.append([said, *(_mean(values[label]) for label in labels), _mean(chance)])
            if len(labels) > 1:
                rows.append([f"{count}, − the column to the left", *_to_the_left(values), "—"])
        found.append(
            Table(
                f"Objects per picture, {sort} captions",
                ["", *labels, CHANCE],
                rows,
                note="Means over scenes with 95 % bootstrap intervals, paired for the differences. A clean render has "
                f"0 everywhere. These scenes leave {empty:.1f} of nine cells empty on average, and no kind is in them "
                "twice. A sticker that moved into an empty cell is surplus and repeated, but no copy. Chance: another "
                "scene's picture.",
            )
        )
    return found


def _to_the_left(values: Mapping[str, np.ndarray]) -> list[str | Estimate]:
    pairs = pairwise(values.values())
    return ["—", *(_mean(right - left, format="+.2f") for left, right in pairs)]


def _mean(values: np.ndarray, format: str = ".2f") -> Estimate:
    """The mean of (S,) numbers, one a scene.

    Where all are equal, resampling shows no spread: what Wilson allows S of S scenes to miss is added, one object each.
    """
    found = mean_estimate(values.astype(np.float64), format=format)
    if not found.bounded or found.high - found.low > 1e-12:
        return found
    room = 1 - wilson(found.n, found.n).low
    low = found.value - room
    return Estimate(
        found.value, low if format.startswith("+") else max(0.0, low), found.value + room, found.n, format
    )
