"""Denscore-O: the part of the Denscore that depends on what the text says (LongAlign, §4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from longalign.errors import LongalignError
from longalign.metrics.denscore import Denscore, score_rows
from longalign.metrics.metric import SENTENCES, MetricColumn, PictureBatch, Tools


class DenscoreO(Denscore):
    """C_X·C⊥ as the paper defines it, and its cosine, which fits the numbers of the paper's tables.

    Raises:
        LongalignError: no V is stored beside the preference model.
    """

    name = "denscore_o"
    columns = (
        MetricColumn("aligned", "Denscore-O, C_X·C⊥", ".2f", "higher"),
        MetricColumn("aligned_cosine", "Denscore-O, cosine", ".2f", "higher"),
    )

    def __init__(self, tools: Tools, options: Any = None) -> None:
        super().__init__(tools, options)
        if self._memory.model.decomposition is None:
            raise LongalignError(
                f"denscore_o: {self.options.model} has no stored V; store one beside it by `longalign decompose`"
            )

    def measure(self, batch: PictureBatch) -> Sequence[Mapping[str, Any]]:
        rows = score_rows(self._memory, batch, self.options.model)
        found: list[Mapping[str, Any]] = []
        for row, sentences in zip(rows, batch.sentences, strict=True):
            alike = len(row["segments"]) == len(sentences)
            of_sentences = {SENTENCES: [s["aligned"] for s in row["segments"]]} if alike else {}
            found.append({key: row[key] for key in ("aligned", "aligned_cosine")} | of_sentences)
        return found
