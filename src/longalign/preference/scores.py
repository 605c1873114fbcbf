"""From unit embeddings to scores: the whole text, its sentences, and the two parts of the decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.preference.calibration import Calibration, Verdict
from longalign.preference.decomposition import Decomposition

SCALE = 100.0  # scores are reported × 100, as in the papers


class SegmentScore(NamedTuple):
    """One sentence and how well the image fits it.

    Attributes:
        score: 100 · C_X·C_P of the sentence.
        aligned: 100 · C_X·C⊥ of the sentence; None without a decomposition. Sentences differ in η, which has
            nothing to do with the image, so this compares the sentences of one text more fairly.
        late: 100 · S, by late interaction (`longalign.preference.late`); None of a model without.
        probability: P(true), from 0 to 1; None without a calibration, as is `verdict`.
        verdict: ``true``, ``doubtful`` or ``false``; how often the two firm ones may be wrong is `Calibration.error`.
    """

    text: str
    score: float
    aligned: float | None = None
    late: float | None = None
    probability: float | None = None
    verdict: Verdict | None = None

    @property
    def pooled(self) -> float:
        """`aligned` where there is one, else `score`."""
        return self.score if self.aligned is None else self.aligned

    @property
    def best(self) -> float:
        """`late` where there is one, else `pooled`."""
        return self.pooled if self.late is None else self.late

    def judged(self, calibration: Calibration) -> SegmentScore:
        """With probability and verdict.

        Raises:
            LongalignError: it has not the score that the calibration is of.
        """
        name = "late" if calibration.kind == "zero-shot" else calibration.kind
        value = getattr(self, name)
        if value is None:
            raise LongalignError(
                f"the calibration is of the {calibration.kind} score, which this model has not"
            )
        probability = calibration.probability(value)
        return self._replace(probability=probability, verdict=calibration.verdict(probability))


@dataclass(frozen=True)
class Scores:
    """Scores of B images, each against its own text. All but `eta` are × 100; on the CPU.

    With c = C_P^seg, the mean of the segments' unit embeddings (not made a unit vector again: its length says how
    far the segments agree)::

        overall = C_X·c      aligned = C_X·c⊥      irrelevant = C_X·V      overall = aligned + η·irrelevant

    Attributes:
        overall: (B,) C_X·c, the Denscore (§3.2).
        single: (B,) C_X·C_P of the text's first tokens, as many as the model reads (77).
        aligned: (B,) C_X·c⊥, what the paper defines as Denscore-O (§4.1). None without a decomposition, as
            are those below.
        aligned_cosine: (B,) C_X·c⊥ / |c⊥|, which fits the numbers that the paper prints (Table 2).
        irrelevant: (B,) C_X·V, which depends on the image alone. The paper's third score is η times it.
        eta: (B,) c·V, which depends on the text alone. Not × 100.
        segments: for each image the segments of its text, in order.
    """

    overall: Tensor
    single: Tensor
    segments: list[list[SegmentScore]]
    aligned: Tensor | None = None
    aligned_cosine: Tensor | None = None
    irrelevant: Tensor | None = None
    eta: Tensor | None = None

    def __len__(self) -> int:
        return len(self.overall)

    def worst(self) -> list[SegmentScore]:
        """The lowest-scored segment of each image, by `SegmentScore.best`."""
        return [min(of_image, key=lambda segment: segment.best) for of_image in self.segments]

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary of plain numbers an image, for JSON; without the scores that are None."""
        columns: dict[str, list[float]] = {
            name: value.tolist()
            for name in ("overall", "single", "aligned", "aligned_cosine", "irrelevant", "eta")
            if (value := getattr(self, name)) is not None
        }
        return [
            {
                **{name: column[i] for name, column in columns.items()},
                "segments": [
                    {key: value for key, value in segment._asdict().items() if value is not None}
                    for segment in of_image
                ],
            }
            for i, of_image in enumerate(self.segments)
        ]


# C_P^seg(p) = (1/K) Σ_k C_P(p̂_k)
def segment_mean(embeddings: Tensor, counts: Sequence[int]) -> Tensor:
    """The embedding of each text from those of its segments (§3.2).

    Args:
        embeddings: (Σ counts, D) unit embeddings, text after text.
        counts: how many segments each of the B texts has; at least one.

    Returns:
        (B, D), not of unit length.
    """
    sizes = torch.tensor(counts, dtype=torch.long, device=embeddings.device)
    owner = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)  # (Σ counts,)
    total = embeddings.new_zeros(len(sizes), embeddings.shape[-1]).index_add(0, owner, embeddings)
    return total / sizes.unsqueeze(-1)


def scores_of(
    image: Tensor,
    segments: Tensor,
    single: Tensor,
    texts: Sequence[Sequence[str]],
    decomposition: Decomposition | None = None,
    late: Tensor | None = None,
    calibration: Calibration | None = None,
) -> Scores:
    """Scores from embeddings.

    Args:
        image: (B, D) unit embeddings C_X.
        segments: (Σ K, D) unit embeddings of all segments, text after text.
        single: (B, D) unit embeddings of the texts' first tokens.
        texts: the K segments of each text.
        late: (Σ K,) S of each segment.
        calibration: for probabilities and verdicts.
    """
    counts = [len(of_text) for of_text in texts]
    bounds = [0, *accumulate(counts)]
    sizes = torch.tensor(counts, dtype=torch.long, device=image.device)
    of_segment = image.repeat_interleave(sizes, dim=0)  # (Σ K, D)

    def split(values: Tensor) -> list[list[float]]:
        flat = (SCALE * values).tolist()
        return [flat[a:b] for a, b in pairwise(bounds)]

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1)

    text = segment_mean(segments, counts)  # (B, D)
    by_segment = split(dot(of_segment, segments))
    nothing: list[list[None]] = [[None] * count for count in counts]
    aligned_by_segment: list[list[float]] | list[list[None]] = nothing
    late_by_segment = nothing if late is None else split(late)
    parts: dict[str, Tensor] = {}
    if decomposition is not None:
        c_perp, eta = decomposition.split(text)
        aligned = dot(image, c_perp)
        aligned_by_segment = split(dot(of_segment, decomposition.split(segments)[0]))
        parts = {
            "aligned": SCALE * aligned,
            # a text that is V itself has no C⊥: 0, not 0/0
            "aligned_cosine": SCALE * aligned / c_perp.norm(dim=-1).clamp_min(1e-12),
            "irrelevant": SCALE * (image @ decomposition.v_like(image)),
            "eta": eta,
        }

    def segment(i: int, k: int, piece: str) -> SegmentScore:
        found = SegmentScore(piece, by_segment[i][k], aligned_by_segment[i][k], late_by_segment[i][k])
        return found if calibration is None else found.judged(calibration)

    return Scores(
        overall=(SCALE * dot(image, text)).cpu(),
        single=(SCALE * dot(image, single)).cpu(),
        segments=[
            [segment(i, k, piece) for k, piece in enumerate(of_text)] for i, of_text in enumerate(texts)
        ],
        **{name: value.cpu() for name, value in parts.items()},
    )
