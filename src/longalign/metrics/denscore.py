"""Denscore: how well a preference model finds that a picture fits its whole prompt (LongAlign, §3.2, §4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from longalign.metrics.metric import Metric, MetricColumn, PictureBatch, Tools
from longalign.preference.memory import EmbeddingMemory


class Denscore(Metric):
    """Mean score of pictures against all sentences of their prompts, and its text-relevant part (Denscore-O).

    Denscore-O needs the direction V, which `longalign decompose` stores beside a preference model. It is printed as
    the paper defines it (C_X·C⊥) and as a cosine, which fits the numbers of the paper's tables.
    """

    name = "denscore"
    columns = (
        MetricColumn("overall", "Denscore", ".2f", "higher"),
        MetricColumn("aligned", "Denscore-O, C_X·C⊥", ".2f", "higher"),
        MetricColumn("aligned_cosine", "Denscore-O, cosine", ".2f", "higher"),
    )
    needs = frozenset(("preference",))
    by_default = True

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)
        assert tools.preference is not None
        self._memory = EmbeddingMemory(tools.preference)

    def measure(self, batch: PictureBatch) -> Sequence[Mapping[str, float]]:
        """Column key → score of each picture."""
        prepare = self._memory.model.preprocess.picture
        pictures = self._memory.images([prepare(image) for image in batch.images])
        return self._memory.score(pictures, batch.prompts).rows()

    @property
    def reads(self) -> str:
        """Names the window of the preference model."""
        return f"every sentence on its own, each in {self._memory.model.window_tokens} tokens"

    def share_read(self, prompts: Sequence[str], values: Sequence[Any]) -> str:
        read = whole = 0
        for prompt in dict.fromkeys(prompts):
            read += sum(len("".join(s.text.split())) for s in self._memory.model.segments(prompt))
            whole += len("".join(prompt.split()))
        return f"{read / whole:.1%} of the characters"
