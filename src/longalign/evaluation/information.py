"""How much captions tell of pictures, by a denoiser's errors: the contrastive bound of SoftREPA's theory.

For B pairs of picture and caption at one time t and with one noise ε, with the logits that soft tokens are trained by,

    I(x; y) ≥ log B − L,    L = −(1/B) Σ_i log softmax_j(logit_ij)_i,    logit_ij = s exp(−E_ij/τ)          (InfoNCE)

holds whatever the logits are, for every t and ε, and so for their mean. The bound is in nats. It cannot exceed log B,
nor, since the logits lie in (0, s], log B − log(1 + (B − 1) e^−s): 2.53 of 2.77 for B = 16. How far below I it lies
depends on the denoiser and on s and τ, so compare it with other models' at the same B, s and τ, and mistrust it alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longalign.data.captioned import CaptionedPictures
from longalign.data.text_states import TextSide
from longalign.diffusion.denoiser import Denoiser
from longalign.encoding import T5Branch
from longalign.errors import LongalignError
from longalign.metrics.intervals import percentile, resample
from longalign.objectives.contrastive.pairs import (
    Caption,
    Matching,
    batches_of,
    fixed_noise,
    fixed_place,
    row_figures,
    same_captions,
)
from longalign.report import Estimate, Table
from longalign.soft_tokens import SoftTokens

FIGURES = {  # of `row_figures` → heading and format
    "information": ("information, nats ↑", ".3f"),
    "contrast": ("contrastive loss ↓", ".3f"),
    "accuracy": ("own caption found ↑", ".1%"),
    "matched": ("error under it ↓", ".4f"),
}
WITHOUT, WITH = "without tokens", "with tokens"
_THIRDS = ("least noise", "middle", "most noise")


# log B − log(1 + (B − 1) e^−s)
def ceiling(batch: int, scale: float) -> float:
    """The most that the bound can be, in nats: the own caption's error 0, the others' infinite."""
    return math.log(batch) - math.log1p((batch - 1) * math.exp(-scale))


@dataclass(frozen=True)
class Information:
    """The bound and what goes with it.

    Attributes:
        batch: B. ceiling: the most that the bound can be there.
        times: (G,) of the batches.
        means: side → figure → (G,) means over each batch.
        samples: bootstrap draws.
    """

    batch: int
    ceiling: float
    times: Sequence[float]
    means: dict[str, dict[str, np.ndarray]]
    samples: int = 2000

    def estimate(self, side: str, figure: str, chosen: np.ndarray | None = None) -> Estimate:
        """A mean over batches with its 95 % interval: batches, not pictures, are drawn, for those of one batch share
        time, noise and captions."""
        return self._percentile(self.means[side][figure], FIGURES[figure][1], chosen)

    def difference(self, figure: str, chosen: np.ndarray | None = None) -> Estimate:
        """With tokens minus without, on the same batches."""
        delta = self.means[WITH][figure] - self.means[WITHOUT][figure]
        return self._percentile(delta, "+" + FIGURES[figure][1], chosen)

    def _percentile(self, values: np.ndarray, format: str, chosen: np.ndarray | None) -> Estimate:
        values = values if chosen is None else values[chosen]
        n = len(values)
        draws = np.concatenate([w @ values / n for w in resample(n, self.samples, 0)]) if n else values
        return percentile(float(values.mean()) if n else math.nan, draws, n * self.batch, format=format)

    def rows(self) -> list[tuple[str, dict[str, Estimate]]]:
        """Name → figures: each side, and their difference."""
        found = [(side, {f: self.estimate(side, f) for f in FIGURES}) for side in self.means]
        if WITH in self.means:
            found.append(("difference", {f: self.difference(f) for f in FIGURES}))
        return found

    def tables(self) -> list[Table]:
        names = [title for title, _ in FIGURES.values()]
        whole = Table(
            f"What captions tell of pictures, of {self.batch} at a time",
            ["", *names],
            [[name, *[row[f] for f in FIGURES]] for name, row in self.rows()],
            note=f"Mutual information by the contrastive bound, which cannot exceed {self.ceiling:.2f} nats here; 95 % "
            "intervals over batches.",
        )
        order = np.argsort(self.times)
        parts = list(np.array_split(order, 3)) if len(order) >= 6 else []
        if not parts:
            return [whole]
        rows: list[list[str | Estimate]] = []
        for name, part in zip(_THIRDS, parts, strict=True):
            low, high = self.times[part[0]], self.times[part[-1]]
            cells = [self.estimate(side, "information", part) for side in self.means]
            cells += [self.difference("information", part)] if WITH in self.means else []
            rows.append([f"{name}, t = {low:.0f} … {high:.0f}", *cells])
        columns = ["", *self.means, *(["difference"] if WITH in self.means else [])]
        return [whole, Table("Information by time, nats", columns, rows)]

    def to_json(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "batches": len(self.times),
            "ceiling": self.ceiling,
            "figures": {
                name: {f: {"value": e.value, "low": e.low, "high": e.high} for f, e in row.items()}
                for name, row in self.rows()
            },
        }


@dataclass(frozen=True)
class InformationConfig:
    """What is measured, and how. `rows` pictures in batches of `batch`; `scale`, `temperature`: s and τ."""

    strategy: str = "clip-cat"
    length: int = 240
    rows: int = 256
    batch: int = 16
    scale: float = 4.0
    temperature: float = 0.07
    pairs_at_once: int = 32
    samples: int = 2000
    t5: T5Branch | None = field(default=None, repr=False)

    def denoisings(self, sides: int) -> int:
        """Pairs that the denoiser sees in all, for a progress bar."""
        return sides * self.batch**2 * (self.rows // self.batch)


@torch.no_grad()
def information(
    pipe: Any,
    data: CaptionedPictures,
    config: InformationConfig | None = None,
    *,
    tokens: SoftTokens | None = None,
    on_pairs: Callable[[int], None] = lambda pairs: None,
) -> Information:
    """The bound on a model, and with soft tokens on it, on the same pictures, times and noises.

    Args:
        pipe: a diffusers pipeline.
        data: captioned pictures of a size that it takes; the first `rows` of them are used.
        tokens: attached here, and taken off again.
        on_pairs: called with the number of pairs that were looked at.

    Raises:
        LongalignError: not two batches of pictures; a batch of one picture; tokens for another backbone.
    """
    config = config or InformationConfig()
    batches = batches_of([range(min(config.rows, len(data)))], config.batch)
    if config.batch < 2 or len(batches) < 2:
        raise LongalignError(
            f"the contrastive bound needs two batches or more of at least 2 pictures; there are {len(data)} pictures, "
            f"and {config.rows} were asked for in batches of {config.batch}"
        )
    denoiser = Denoiser.of(pipe)
    denoiser.module.eval()
    texts = TextSide(pipe, config.strategy, config.length, config.t5)
    attachment = None if tokens is None else tokens.attach(denoiser.module)
    sides = {WITHOUT: 0.0} if tokens is None else {WITHOUT: 0.0, WITH: tokens.scale}
    means: dict[str, dict[str, list[float]]] = {side: {f: [] for f in FIGURES} for side in sides}
    times = []
    try:
        for g, numbers in enumerate(batches):
            rows = [data[i] for i in numbers]
            x0 = denoiser.encode_pixels(torch.stack([row.image for row in rows]))
            captions = [row.text for row in rows]
            states = [Caption.of(s, c) for s, c in zip(texts.encode(captions), captions, strict=True)]
            t = _time(denoiser, fixed_place(g, len(batches)))
            times.append(float(t))
            matching = Matching(
                denoiser,
                x0,
                t,
                fixed_noise(g, x0),
                states,
                texts.padding,
                None if config.t5 is None else config.t5.adapter,
                config.pairs_at_once,
            )
            same = same_captions(captions).to(x0.device)
            for side, scale in sides.items():
                if tokens is not None:
                    tokens.scale = scale
                found = row_figures(
                    matching.matrix(), same, scale=config.scale, temperature=config.temperature
                )
                for name in FIGURES:
                    means[side][name].append(float(found[name].mean()))
                on_pairs(len(rows) ** 2)
    finally:
        if attachment is not None and tokens is not None:
            tokens.scale = sides[WITH]
            tokens.detach()
    arrays = {side: {f: np.array(v) for f, v in figures.items()} for side, figures in means.items()}
    batch = len(batches[0])
    return Information(batch, ceiling(batch, config.scale), times, arrays, config.samples)


def _time(denoiser: Denoiser, place: float) -> Tensor:
    """() the time at a place in [0, 1); whole steps where the schedule has such."""
    if denoiser.alphas_cumprod is None:
        return torch.tensor(1000 * place, device=denoiser.device)
    return torch.tensor(int(place * len(denoiser.alphas_cumprod)), device=denoiser.device)
