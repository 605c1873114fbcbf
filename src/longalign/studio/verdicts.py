"""Which sentences are true of a picture, by the preference model, and by the world's judge where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from longalign.preference import PreferenceModel
from longalign.report import SentenceRow
from longalign.worlds import Mark, owner_of_texts, world


@dataclass(frozen=True)
class Judged:
    """A sentence and what is known of it for one picture.

    Attributes:
        text: the sentence.
        verdict: ``true``, ``false``, ``unclear`` or ``unjudged``: of a calibrated preference model, else the judge's.
        probability: P(true) of a calibrated preference model.
        score: of any preference model, × 100.
        oracle: what the world's judge says; ``unjudged`` where there is none.
        beyond: past what the plain encoding reads.
    """

    text: str
    verdict: Mark
    probability: float | None = None
    score: float | None = None
    oracle: Mark = "unjudged"
    beyond: bool = False

    def to_json(self) -> dict[str, Any]:
        """For programs; what is not known is left out."""
        return {k: v for k, v in asdict(self).items() if v is not None}


_OF_VERDICT: Mapping[str, Mark] = {"true": "true", "false": "false", "doubtful": "unclear"}


def judge_pictures(
    scorer: PreferenceModel | None,
    images: Sequence[Image.Image],
    prompt: str,
    sentences: Sequence[str],
    beyond: Sequence[bool] | None = None,
) -> list[list[Judged]]:
    """The sentences of a prompt, judged for each of its pictures.

    Args:
        scorer: the preference model; None: the judge alone.
        images: pictures of the prompt.
        prompt: the whole text.
        sentences: of it.
        beyond: of each sentence, whether the plain encoding does not read all of it.
    """
    of_world = owner_of_texts(sentences)
    scores = (
        scorer.score(list(images), prompt).segments if scorer is not None and images else [[]] * len(images)
    )
    past = [False] * len(sentences) if beyond is None else beyond
    found = []
    for image, segments in zip(images, scores, strict=True):
        by_text = {segment.text: segment for segment in segments}
        marks = world(of_world.name).judge(image, sentences) if of_world else ["unjudged"] * len(sentences)
        rows = []
        for text, mark, is_past in zip(sentences, marks, past, strict=True):
            segment = by_text.get(text)
            verdict: Mark = mark  # type: ignore[assignment]
            if segment is not None and segment.verdict is not None:
                verdict = _OF_VERDICT[segment.verdict]
            rows.append(
                Judged(
                    text,
                    verdict,
                    segment.probability if segment is not None else None,
                    segment.best if segment is not None else None,
                    mark,  # type: ignore[arg-type]
                    is_past,
                )
            )
        found.append(rows)
    return found


def lowest(rows: Sequence[Judged]) -> float:
    """How well the worst sentence fits: P(true), or its score; infinite where nothing is known.

    Args:
        rows: of one picture.
    """
    known = [row.probability if row.probability is not None else row.score for row in rows]
    numbers = [value for value in known if value is not None]
    return min(numbers, default=float("inf"))


def report_rows(columns: Mapping[str, Sequence[Judged]], by_oracle: bool) -> list[SentenceRow]:
    """The rows of a report's table of sentences.

    Args:
        columns: name of a picture → its sentences, the same ones for all.
        by_oracle: take the judge's marks where it has some.
    """
    found = []
    for rows in zip(*columns.values(), strict=True):
        marks: dict[str, Mark] = {}
        scores: dict[str, float] = {}
        for column, row in zip(columns, rows, strict=True):
            marks[column] = row.oracle if by_oracle and row.oracle != "unjudged" else row.verdict
            if row.score is not None:
                scores[column] = row.score
        found.append(SentenceRow(rows[0].text, rows[0].beyond, marks, scores))
    return found
