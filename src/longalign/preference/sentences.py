"""Scores of a preference model beside the sentences of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from longalign.preference.model import PreferenceModel
from longalign.report.data import SentenceRow

if TYPE_CHECKING:
    from PIL.Image import Image


def score_rows(
    model: PreferenceModel, rows: Sequence[SentenceRow], images: Mapping[str, Image], text: str
) -> list[SentenceRow]:
    """The sentences of a text with their scores against each picture.

    Args:
        model: the preference model.
        rows: the sentences.
        images: column → picture.
        text: the whole text that the rows are from.

    Returns:
        The rows with `SentenceRow.scores`; a sentence that the model cuts in another way has none.
    """
    scores: dict[str, dict[str, float]] = {}
    if images:
        scored = model.score(list(images.values()), [text] * len(images))
        for column, segments in zip(images, scored.segments, strict=True):
            for segment in segments:
                scores.setdefault(segment.text, {})[column] = segment.best
    return [replace(row, scores=scores.get(row.text, {})) for row in rows]


def words_of_scores(name: str, probable: bool = False) -> str:
    """What these scores are, for a legend.

    Args:
        name: of the preference model.
        probable: the numbers are P(true) in place of scores.
    """
    if probable:
        return f"P(true) by {name}, in %"
    return f"score by {name}: cosine × 100, higher fits better"
