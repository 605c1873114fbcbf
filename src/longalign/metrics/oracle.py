"""Oracle: the share of a prompt's sentences that are true of its picture, judged by the world of the prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from longalign.diffusion.pipelines import load_tokenizer
from longalign.metrics.metric import SENTENCES, Metric, MetricColumn, Number, PictureBatch
from longalign.metrics.prompt_bootstrap import PromptBootstrap
from longalign.report import clustered_wilson
from longalign.report.sentences import Sentences, sentences_of

_tokenizer = cache(load_tokenizer)


class Oracle(Metric):
    """Share of true sentences, of those that state something the world knows. An unclear sentence is not true."""

    name = "oracle"
    columns = (
        MetricColumn("true", "true sentences", ".1%", "higher"),
        MetricColumn("true_beyond", "true past token 77", ".1%", "higher"),
        MetricColumn("unclear", "unclear sentences", ".1%", "lower"),
    )
    needs = frozenset(("world",))
    level = "sentence"
    by_default = True

    def measure(self, batch: PictureBatch) -> Sequence[Mapping[str, Any]]:
        """The shares of each picture, how many sentences they are of, and under ``marks`` the mark of each sentence."""
        assert self.tools.world is not None
        sentences = sentences_by_prompt(batch.prompts)
        found: list[Mapping[str, Any]] = []
        for image, prompt, texts in zip(batch.images, batch.prompts, batch.sentences, strict=True):
            of_prompt = sentences[prompt]
            marks = self.tools.world.judge(image, [s.text for s in of_prompt.segments])
            known = [m for m in marks if m != "unjudged"]
            late = [
                m for m, beyond in zip(marks, of_prompt.beyond, strict=True) if beyond and m != "unjudged"
            ]
            value: dict[str, Any] = {
                "true": _share(known, "true"),
                "true_beyond": _share(late, "true"),
                "unclear": _share(known, "unclear"),
                "judged": len(known),
                "judged_beyond": len(late),
                "marks": list(marks),
                "beyond": list(of_prompt.beyond),
            }
            if len(marks) == len(texts):
                value[SENTENCES] = [None if m == "unjudged" else float(m == "true") for m in marks]
            found.append(value)
        return found

    def cells(self, numbers: Mapping[str, np.ndarray], bootstrap: PromptBootstrap) -> dict[str, Number]:
        found = {}
        for column in self.columns:
            tries = numbers["judged_beyond" if column.key == "true_beyond" else "judged"]
            hits = np.nan_to_num(numbers[column.key]) * tries
            true, judged = (bootstrap.per_prompt(x).round().astype(np.int64) for x in (hits, tries))
            estimate = clustered_wilson(true, judged)
            found[column.key] = Number(estimate.value, estimate)
        return found

    @property
    def reads(self) -> str:
        """Names the world whose facts the oracle knows."""
        assert self.tools.world is not None
        return f"sentences that state a fact about {self.tools.world.name}"

    def share_read(self, prompts: Sequence[str]) -> str:
        assert self.tools.world is not None
        different = sentences_by_prompt(prompts).values()
        known = self.tools.world.knows([s.text for of_prompt in different for s in of_prompt.segments])
        return f"{sum(known) / len(known):.1%} of the sentences" if known else "—"


def _share(marks: Sequence[str], of: str) -> float:
    return marks.count(of) / len(marks) if marks else float("nan")


def sentences_by_prompt(prompts: Sequence[str]) -> dict[str, Sentences]:
    """The sentences of each different prompt; sentences past CLIP's 77 tokens are `beyond`.

    Args:
        prompts: may repeat.
    """
    different = list(dict.fromkeys(prompts))
    return dict(zip(different, sentences_of(_tokenizer(), different), strict=True))
