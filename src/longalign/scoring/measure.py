"""The three scores of §4.1 on paired and unpaired data: numbers, table and plots (LongAlign, Fig. 2b, 14, 15)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.preference import PreferenceModel
from longalign.preference.decomposition import Decomposition
from longalign.preference.scores import SCALE, segment_mean
from longalign.report import Estimate, Table
from longalign.scoring.data import (
    Failure,
    Pair,
)
from longalign.scoring.histogram import Histogram, histogram
from longalign.scoring.stream import Embedder, embed_images

# name → what it is, in words
SCORES = {
    "C_X·C_P": "The whole score",
    "C_X·C⊥": "Its text-relevant part",
    "C_X·ηV": "Its text-irrelevant part",
}


@dataclass(frozen=True)
class Measured:
    """The three scores (× 100, (N,) each) of pairs, and of the same pictures with captions of other pictures.

    Attributes:
        paired, unpaired: name of the score → (N,).
        irrelevant: (N,) 100 · C_X·V, which depends on the picture alone.
        eta: (N,) of the captions.
        pairs: the N that could be read.
        failed: how many could not.
    """

    paired: dict[str, Tensor]
    unpaired: dict[str, Tensor]
    irrelevant: Tensor
    eta: Tensor
    pairs: Sequence[Pair]
    failed: int


def measure(
    model: PreferenceModel,
    decomposition: Decomposition,
    pairs: Iterable[Pair | Failure],
    *,
    batch_size: int = 32,
    on_step: Callable[[int], None] = lambda pairs: None,
) -> Measured:
    """The scores of Fig. 14 and 15. Unpaired: each picture with the caption of a picture half the set away.

    Keeps 8·D bytes a pair. A caption that is equal to the picture's own is no unpaired one and left out there.

    Raises:
        LongalignError: fewer than two pairs that can be read.
    """
    embedder = Embedder(model)
    found: list[Pair] = []
    images, texts = [], []
    failed = 0
    for batch in embed_images(embedder, pairs, batch_size):
        good = [item for item in batch if not isinstance(item, Failure)]
        failed += len(batch) - len(good)
        if good:
            pieces = [[s.text for s in model.segments(pair.text)] for pair, _ in good]
            embedded = embedder.texts([text for of_pair in pieces for text in of_pair])
            texts.append(segment_mean(embedded, [len(p) for p in pieces]))
            images.append(torch.stack([x.pooled for _, x in good]))
            found += [pair for pair, _ in good]
        on_step(len(batch))
    if len(found) < 2:
        raise LongalignError(
            f"statistics need at least two pairs; {len(found)} could be read, {failed} could not"
        )
    x, c = torch.cat(images), torch.cat(texts)  # (N, D) each
    shift = max(1, len(found) // 2)
    other = [(i + shift) % len(found) for i in range(len(found))]
    differs = torch.tensor([found[i].text != found[j].text for i, j in enumerate(other)])
    unpaired = three_scores(decomposition, x, c[torch.tensor(other)])
    return Measured(
        paired=three_scores(decomposition, x, c),
        unpaired={name: values[differs] for name, values in unpaired.items()},
        irrelevant=SCALE * (x @ decomposition.v_like(x)),
        eta=decomposition.split(c)[1],
        pairs=found,
        failed=failed,
    )


# C_X·C_P = C_X·C⊥ + C_X·ηV
def three_scores(decomposition: Decomposition, x: Tensor, c: Tensor) -> dict[str, Tensor]:
    """(N, D) pictures and texts → name → (N,), × 100."""
    c_perp, eta = decomposition.split(c)
    values = ((x * c).sum(-1), (x * c_perp).sum(-1), eta * (x @ decomposition.v_like(x)))
    return {name: SCALE * value for name, value in zip(SCORES, values, strict=True)}


def separation(paired: Tensor, unpaired: Tensor) -> float:
    """How often a paired score is above an unpaired one (a draw counts half): 0.5 knows nothing, 1 all."""
    if not len(paired) or not len(unpaired):
        return math.nan
    ordered = unpaired.sort().values
    below = torch.searchsorted(ordered, paired)
    not_above = torch.searchsorted(ordered, paired, right=True)
    return float((below + not_above).double().mean() / 2 / len(unpaired))


def score_table(measured: Measured) -> Table:
    """Means of the three scores with 95 % intervals, paired and unpaired."""
    rows: list[list[str | Estimate]] = [
        [
            name,
            _mean(measured.paired[name]),
            _mean(measured.unpaired[name]),
            f"{separation(measured.paired[name], measured.unpaired[name]):.1%}",
        ]
        for name in SCORES
    ]
    return Table(
        "The three scores, × 100",
        ["", "paired", "unpaired", "paired above unpaired"],
        rows,
        note="Means with 95 % intervals (1.96 standard errors). Last column: how often the score of a random pair "
        "is above that of a random picture with another picture's caption; 50 % tells nothing apart.",
    )


def _mean(values: Tensor) -> Estimate:
    n = len(values)
    if not n:
        return Estimate(math.nan, math.nan, math.nan, 0, ".2f")
    mean = float(values.double().mean())
    half = 1.96 * float(values.double().std()) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(mean, mean - half, mean + half, n, ".2f")


def plots_of(eta: Tensor, measured: Measured | None) -> list[Histogram]:
    """Fig. 2b, 14 and 15."""
    plots = [
        histogram(
            "How much of a text embedding is common to all texts",
            {"prompts": eta.tolist()},
            x_label="η = C_P·V",
            y_label="share of prompts",
            format=".2f",
        )
    ]
    if measured is None:
        return [plot for plot in plots if plot is not None]
    for name, title in SCORES.items():
        plots.append(
            histogram(
                title,
                {
                    "picture with its own caption": measured.paired[name].tolist(),
                    "with another's": measured.unpaired[name].tolist(),
                },
                x_label=f"100 · {name}",
                y_label="share of pairs",
            )
        )
    return [plot for plot in plots if plot is not None]
