"""Denscore: how well a preference model finds that a picture fits its whole prompt (LongAlign, §3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from longalign.metrics.metric import SENTENCES, Metric, MetricColumn, PictureBatch, Tools
from longalign.preference.memory import EmbeddingMemory
from longalign.worlds import DEFAULT


@dataclass(frozen=True)
class DenscoreOptions:
    """Options of denscore and denscore_o.

    Attributes:
        model: the preference model, as of `PreferenceModel.from_pretrained`.
    """

    model: str = DEFAULT


class Denscore(Metric):
    """Mean score of a picture against all sentences of its prompt, and of each sentence on its own."""

    name = "denscore"
    columns: ClassVar[tuple[MetricColumn, ...]] = (MetricColumn("denscore", "Denscore", ".2f", "higher"),)
    level = "sentence"
    by_default = True
    Options = DenscoreOptions

    def __init__(self, tools: Tools, options: Any = None) -> None:
        super().__init__(tools, options)
        self._memory = tools.preference(self.options.model)

    @classmethod
    def weights(cls, tools: Tools, options: Any) -> Sequence[str]:
        return (options.model,)

    def measure(self, batch: PictureBatch) -> Sequence[Mapping[str, Any]]:
        rows = score_rows(self._memory, batch, self.options.model)
        found: list[Mapping[str, Any]] = []
        for row, sentences in zip(rows, batch.sentences, strict=True):
            # A sentence longer than the window is several segments: then no segment is a sentence's own.
            alike = len(row["segments"]) == len(sentences)
            of_sentences = {SENTENCES: [s["score"] for s in row["segments"]]} if alike else {}
            found.append({"denscore": row["overall"], **of_sentences})
        return found

    @property
    def reads(self) -> str:
        """Names the window of the preference model."""
        return f"every sentence on its own, each in {self._memory.model.window_tokens} tokens"

    @property
    def what(self) -> str:
        """Names the preference model."""
        return self.options.model

    def share_read(self, prompts: Sequence[str]) -> str:
        read = whole = 0
        for prompt in dict.fromkeys(prompts):
            read += sum(len("".join(s.text.split())) for s in self._memory.model.segments(prompt))
            whole += len("".join(prompt.split()))
        return f"{read / whole:.1%} of the characters" if whole else "—"


def score_rows(memory: EmbeddingMemory, batch: PictureBatch, name: str) -> list[dict[str, Any]]:
    """The scores of each picture as of `longalign.preference.scores.Scores.rows`, once for all metrics of a batch.

    Args:
        memory: of the preference model.
        batch: the pictures.
        name: by which the tools know the model.
    """
    return batch.shared(("scores", name), lambda: memory.score(batch.embeddings(name), batch.prompts).rows())
