"""The figures that training logs, in words: what each is, and which values are better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from longalign.report import signed


@dataclass(frozen=True)
class Figure:
    """A figure of a line of metrics.

    Attributes:
        words: its name.
        better: which values are better; empty where neither is.
        meaning: what it is, in a sentence without its name.
        format: format specification.
    """

    words: str
    better: Literal["higher", "lower", ""] = ""
    meaning: str = ""
    format: str = ".4g"

    @property
    def title(self) -> str:
        """``"True sentences (higher is better)"``, for a heading."""
        name = self.words[:1].upper() + self.words[1:]
        return f"{name} ({self.better} is better)" if self.better else name

    def number(self, value: Any) -> str:
        """A value as a page shows it; "—" where there is none."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "—"
        return signed(value, self.format) if isinstance(value, float) else signed(value, "")


_ORACLE = "of the sentences of held-out captions, those that the oracle calls true of the picture that the model draws"
FIGURES: dict[str, Figure] = {
    "loss": Figure("loss", "lower", "what the optimiser makes small"),
    "high_noise": Figure("loss at high noise", "lower", "the loss on the noisiest third of the times"),
    "true": Figure("true sentences", "higher", _ORACLE, ".1%"),
    "looks": Figure("looks", "higher", "0 for a clean picture, about −1 for a spoilt one, whatever it shows"),
    "reward": Figure(
        "reward", "higher", "the score that is trained for; it can rise while pictures get worse by other judges"
    ),
    "diversity": Figure("diversity", "higher", "how much the pictures of different captions differ"),
    "fid": Figure("FID", "lower", "distance of the pictures from those of the untrained model"),
    "cmmd": Figure("CMMD", "lower", "distance of the pictures from those of the untrained model"),
    "contrast": Figure("contrastive loss", "lower", "how badly the right captions are told from the wrong ones"),
    "accuracy": Figure(
        "accuracy", "higher", "how often the right one wins: the true caption, or the preferred picture", ".1%"
    ),
    "accuracy_caption": Figure("accuracy by caption", "higher", "accuracy with the pictures' own captions", ".1%"),
    "accuracy_truth": Figure(
        "accuracy on truth", "higher", "how often more true sentences win among pairs of equal looks", ".1%"
    ),
    "accuracy_looks": Figure(
        "accuracy on looks", "", "how often better looks win among pairs with equally many true sentences", ".1%"
    ),
    "matched": Figure("error with the right caption", "lower", "denoising error with a picture's own caption"),
    "information": Figure("information, nats", "higher", "what captions tell of pictures, by the contrastive bound"),
    "logit_scale": Figure("logit scale", "", "the factor on cosines in the loss"),
    "cut": Figure("texts cut", "lower", "share of the texts that did not fit", ".1%"),
    "rows_skipped": Figure("rows left out", "lower", "rows that could not be used so far"),
    "grad_norm": Figure("gradient norm", "", "before clipping"),
    "lr": Figure("learning rate"),
}  # fmt: skip


def figure(name: str) -> Figure:
    """The figure of a key; a key that is not in `FIGURES` (an objective of another package) in its own words."""
    if name in FIGURES:
        return FIGURES[name]
    if name.startswith("score_"):
        judge = name.removeprefix("score_")
        return Figure(f"score by {judge}", "higher", "by a preference model that is not the reward")
    return Figure(name.replace("_", " "))
