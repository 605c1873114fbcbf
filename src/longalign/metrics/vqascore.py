"""VQAScore: how probable "Yes" is when a vision-language model is asked whether a picture shows a text.

It is asked about the whole prompt, and about each sentence (Lin et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longalign.metrics.metric import SENTENCES, MetricColumn, PictureBatch, Tools
from longalign.metrics.vlm import VlmMetric, VlmOptions, filled

TEMPLATE = 'Does this figure show "{text}"? Please answer yes or no.'


@dataclass(frozen=True)
class VqaScoreOptions(VlmOptions):
    """Options of `VqaScore`.

    Attributes:
        model: folder or hub name of an image-text-to-text model of transformers.
        batch_size: questions that the model reads at once.
        template: the question; ``{text}`` is the prompt or a sentence.
        answer: whose first token counts.
        sentences: whether to ask about each sentence, too.
    """

    template: str = TEMPLATE
    answer: str = "Yes"
    sentences: bool = True


class VqaScore(VlmMetric):
    """P(answer) of the whole prompt, and of each sentence.

    Args:
        tools: what the evaluation has loaded.
        options: a `VqaScoreOptions`.

    Raises:
        LongalignError: no model is given or it cannot be loaded; the template has no place for the text, or the
            answer has no token.
    """

    name = "vqascore"
    columns = (MetricColumn("vqascore", "VQAScore", ".1%", "higher"),)
    Options = VqaScoreOptions

    def __init__(self, tools: Tools, options: Any = None) -> None:
        super().__init__(tools, options)
        self._question("")
        self.vlm.first_token(self.options.answer)

    def measure(self, batch: PictureBatch) -> Sequence[Mapping[str, Any]]:
        """One value a picture: ``vqascore``, and under ``sentences`` one number a sentence.

        Args:
            batch: decoded pictures with their prompts.

        Raises:
            LongalignError: the model cannot read the questions.
        """
        asked: dict[tuple[int, str], int] = {}  # a prompt of one sentence is asked about once
        for i, (prompt, sentences) in enumerate(zip(batch.prompts, batch.sentences, strict=True)):
            for text in (prompt, *(sentences if self.options.sentences else ())):
                asked.setdefault((i, text), len(asked))
        found = self.vlm.probability_of(
            [batch.images[i] for i, _ in asked],
            [self._question(text) for _, text in asked],
            self.options.answer,
            self.options.batch_size,
        )
        values: list[Mapping[str, Any]] = []
        for i, (prompt, sentences) in enumerate(zip(batch.prompts, batch.sentences, strict=True)):
            value: dict[str, Any] = {"vqascore": found[asked[i, prompt]]}
            if self.options.sentences:
                value[SENTENCES] = [found[asked[i, text]] for text in sentences]
            values.append(value)
        return values

    def _question(self, text: str) -> str:
        return filled(self.options.template, self.name, text=text)

    @property
    def what(self) -> str:
        """Names the model, the template and the answer."""
        return f"{super().what}, template {self.options.template!r}, P({self.options.answer!r})"
