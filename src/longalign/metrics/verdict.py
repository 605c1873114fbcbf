"""P(true) of each sentence by a calibrated preference model with late interaction (docs/preference.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from longalign.errors import LongalignError
from longalign.metrics.denscore import Denscore
from longalign.metrics.metric import SENTENCES, MetricColumn, PictureBatch, Tools


class Verdict(Denscore):
    """Mean probability that a sentence is true of its picture, and that of each sentence.

    Raises:
        LongalignError: the preference model has no calibration.
    """

    name = "verdict"
    columns = (MetricColumn("p_true", "P(true)", ".1%", "higher"),)
    by_default = False

    def __init__(self, tools: Tools, options: Any = None) -> None:
        super().__init__(tools, options)
        if self._memory.model.calibration is None:
            raise LongalignError(
                f"verdict: {self.options.model} has no calibration; make one by `longalign calibrate`"
            )

    def measure(self, batch: PictureBatch) -> Sequence[Mapping[str, Any]]:
        scores = self._memory.model.score(list(batch.images), list(batch.prompts))
        found: list[Mapping[str, Any]] = []
        for segments, sentences in zip(scores.segments, batch.sentences, strict=True):
            sure = [s.probability for s in segments if s.probability is not None]
            of_sentences = {SENTENCES: sure} if len(sure) == len(sentences) else {}
            found.append({"p_true": sum(sure) / len(sure), **of_sentences})
        return found
