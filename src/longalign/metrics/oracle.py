"""Oracle: the share of a prompt's sentences that are true of its picture, judged by the world of the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from longalign.diffusion.pipelines import load_tokenizer
from longalign.metrics.metric import Metric, MetricColumn, Number, PictureBatch
from longalign.metrics.prompt_bootstrap import PromptBootstrap
from longalign.report import Mark, clustered_wilson
from longalign.report.sentences import Sentences, sentences_of

_tokenizer = cache(load_tokenizer)


class JudgedSentences(NamedTuple):
    """The oracle's mark of each sentence, and whether the sentence lies past the 77 tokens that CLIP reads."""

    marks: Sequence[Mark]
    beyond: Sequence[bool]


class Oracle(Metric):
    """Share of true sentences, of those that state something the world knows. An unclear sentence is not true."""

    name = "oracle"
    columns = (
        MetricColumn("true", "true sentences", ".1%", "higher"),
        MetricColumn("true_beyond", "true past token 77", ".1%", "higher"),
    )
    needs = frozenset(("world",))
    level = "sentence"
    by_default = True

    def measure(self, batch: PictureBatch) -> Sequence[JudgedSentences]:
        """The marks of each picture's sentences."""
        assert self.tools.world is not None
        sentences = sentences_by_prompt(batch.prompts)
        found = []
        for image, prompt in zip(batch.images, batch.prompts, strict=True):
            of_prompt = sentences[prompt]
            marks = self.tools.world.judge(image, [s.text for s in of_prompt.segments])
            found.append(JudgedSentences(marks, of_prompt.beyond))
        return found

    def cells(
        self, values: Sequence[Any], bootstrap: PromptBootstrap, reference: Sequence[Any] | None
    ) -> dict[str, Number]:
        found = {}
        for column in self.columns:
            true, judged = np.zeros((2, len(values)))
            for i, (marks, beyond) in enumerate(values):
                chosen = [
                    mark
                    for mark, late in zip(marks, beyond, strict=True)
                    if mark != "unjudged" and (late or column.key == "true")
                ]
                true[i], judged[i] = chosen.count("true"), len(chosen)
            hits, tries = (bootstrap.per_prompt(x).astype(np.int64) for x in (true, judged))
            estimate = clustered_wilson(hits, tries)
            found[column.key] = Number(estimate.value, estimate)
        return found

    @property
    def reads(self) -> str:
        """Names the world whose facts the oracle knows."""
        assert self.tools.world is not None
        return f"sentences that state a fact about {self.tools.world.name}"

    def share_read(self, prompts: Sequence[str], values: Sequence[Any]) -> str:
        marks = [mark for of_picture in values for mark in of_picture.marks]
        if not marks:
            return "—"
        known = len(marks) - marks.count("unjudged")
        said = f"{known / len(marks):.1%} of the sentences"
        return said + f"; {marks.count('unclear') / known:.1%} of these it called unclear" if known else said


def sentences_by_prompt(prompts: Sequence[str]) -> dict[str, Sentences]:
    """The sentences of each different prompt; sentences past CLIP's 77 tokens are `beyond`.

    Args:
        prompts: may repeat.
    """
    different = list(dict.fromkeys(prompts))
    return dict(zip(different, sentences_of(_tokenizer(), different), strict=True))
