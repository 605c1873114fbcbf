"""A preference model whose opinion is written down."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from longalign.encoding.segments import Segment, Segmenter
from longalign.preference.calibration import Calibration
from longalign.preference.scores import SegmentScore


class ScriptedScorer:
    """Gives the lines of a script, one a picture.

    Args:
        script: P(true) of each sentence, or scores.
        calibrated: whether they are P(true).
    """

    def __init__(self, *script: Sequence[float], calibrated: bool = True) -> None:
        self.script = list(script)
        self.calibration = Calibration("late", 1.0, 0.0) if calibrated else None

    def segments(self, text: str) -> list[Segment]:
        return Segmenter("sentence")(text)

    def score(self, images: Sequence[Any], prompts: Sequence[str]) -> Any:
        found = []
        for _, prompt in zip(images, prompts, strict=True):
            texts = [segment.text for segment in self.segments(prompt)]
            values = self.script.pop(0)
            found.append(
                [
                    SegmentScore(text, value, probability=value if self.calibration else None)
                    for text, value in zip(texts, values, strict=True)
                ]
            )
        return SimpleNamespace(segments=found)
