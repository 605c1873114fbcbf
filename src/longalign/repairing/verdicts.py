"""What a preference model says of the sentences of a picture, and which of two pictures is better by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image

from longalign.errors import LongalignError
from longalign.plugins import unknown
from longalign.preference import PreferenceModel

Choice = Literal["mean", "lowest"]
CHOICES = get_args(Choice)
_HALF = 0.5
# Without probabilities a score says whether a sentence got worse only up to its noise, here one hundredth of a cosine.
_NOISE = 1.0


@dataclass(frozen=True)
class Verdicts:
    """The sentences of one picture by a preference model.

    Attributes:
        values: P(true) of each sentence; of a model without calibration the score, aligned with the text where the
            model knows its V, × 100.
        probable: whether the values are P(true).
        sure: from which P(true) on a sentence counts as true.
    """

    values: tuple[float, ...]
    probable: bool
    sure: float = 0.95

    @property
    def doubtful(self) -> tuple[int, ...]:
        """The sentences that may be false, the lowest first. Of plain scores it is the lowest alone."""
        order = sorted(range(len(self.values)), key=self.values.__getitem__)
        if not self.probable:
            return tuple(order[:1])
        return tuple(i for i in order if self.values[i] < self.sure)

    def rank(self, choice: Choice) -> tuple[float, float]:
        """More is better.

        Args:
            choice: ``mean``: by the mean over sentences, which for P(true) is the expected share of true ones;
                ``lowest``: by the lowest sentence. The other one decides between equals.
        """
        mean, lowest = sum(self.values) / len(self.values), min(self.values)
        return (mean, lowest) if choice == "mean" else (lowest, mean)

    def spoils(self, before: Verdicts) -> tuple[int, ...]:
        """The sentences that were true before and are not now. (Of plain scores: that lost more than 1 point.)

        Args:
            before: of the picture that was repaired.
        """
        pairs = list(enumerate(zip(before.values, self.values, strict=True)))
        if self.probable:
            return tuple(i for i, (a, b) in pairs if a >= _HALF > b)
        wanted = before.doubtful
        return tuple(i for i, (a, b) in pairs if i not in wanted and b < a - _NOISE)


def judge_pictures(
    scorer: PreferenceModel, images: Sequence[Image.Image], text: str, sentences: Sequence[str]
) -> list[Verdicts]:
    """What a preference model says of pictures of one text.

    Args:
        scorer: the preference model.
        images: the pictures.
        text: what they should show.
        sentences: the text's, as the model cuts it.

    Raises:
        LongalignError: as of `PreferenceModel.score`.
    """
    found = []
    for segments in scorer.score(list(images), [text] * len(images)).segments:
        assert [s.text for s in segments] == list(sentences)
        probabilities = [s.probability for s in segments]
        told = [p for p in probabilities if p is not None]
        probable = len(told) == len(segments)
        values = told if probable else [s.best for s in segments]
        sure = 1 - scorer.calibration.error if scorer.calibration is not None else 1.0
        found.append(Verdicts(tuple(values), probable, sure))
    return found


def check_choice(choice: str) -> Choice:
    """The choice.

    Args:
        choice: its name.

    Raises:
        LongalignError: there is none of this name.
    """
    for known in CHOICES:
        if choice == known:
            return known
    raise LongalignError(unknown("choice", choice, CHOICES))
