"""From a score to P(true) and a verdict.

Which score a sentence needs to be true differs from model to model, and nothing in training fixes it. It is
measured: sentences of pictures' own captions should be called true, those of other pictures' captions false, and

    P(true) = σ((s − offset) / temperature)

is fitted to tell them apart (logistic regression, either side with the same weight).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from longalign.errors import LongalignError
from longalign.runs import atomic_write_text
from longalign.worlds import resolve_beside

FILE_NAME = "calibration.json"  # beside the weights of the preference model
Kind = Literal["late", "zero-shot", "aligned", "score"]
KINDS: tuple[Kind, ...] = ("late", "zero-shot", "aligned", "score")
Verdict = Literal["true", "doubtful", "false"]
_BINS = 15


@dataclass(frozen=True)
class Calibration:
    """What a sentence's score means.

    Attributes:
        kind: which score: ``late`` or ``zero-shot`` (`SegmentScore.late`), ``aligned`` or ``score``.
        temperature, offset: in units of the scores, which are × 100.
        error: the share of wrong ones that is promised among the sentences that are called true, and among those
            that are called false: true is P ≥ 1 − error, false P ≤ error, what is between is doubtful.
        measured: figures on held-out sentences: ``sentences``, ``ece``, ``wrong_true`` and ``wrong_false`` (shares of
            those with that verdict), ``doubtful`` (share of all). Empty if it was not measured.
        source: what it was fitted on, in words.
    """

    kind: Kind
    temperature: float
    offset: float
    error: float = 0.05
    measured: Mapping[str, float] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise LongalignError(
                f"a calibration is of one of the scores {', '.join(KINDS)}, not {self.kind!r}"
            )
        if not (self.temperature > 0 and math.isfinite(self.temperature) and math.isfinite(self.offset)):
            raise LongalignError(
                f"a temperature is above 0 and an offset finite, not {self.temperature} and {self.offset}"
            )
        if not 0 < self.error < 0.5:
            raise LongalignError(f"the promised error is between 0 and 0.5, not {self.error}")

    # P(true) = σ((s − offset) / temperature)
    def probability(self, score: float) -> float:
        """P(true) of a sentence with this score."""
        x = (score - self.offset) / self.temperature
        return 1 / (1 + math.exp(-x)) if x > -700 else 0.0

    def verdict(self, probability: float) -> Verdict:
        """True, false, or doubtful, where neither promise can be kept."""
        if probability >= 1 - self.error:
            return "true"
        return "false" if probability <= self.error else "doubtful"

    @classmethod
    def fit(
        cls,
        true: Sequence[float] | np.ndarray,
        false: Sequence[float] | np.ndarray,
        kind: Kind,
        *,
        error: float = 0.05,
        source: str = "",
    ) -> Calibration:
        """Fits temperature and offset, and measures them: on every second sentence what the others gave.

        Args:
            true, false: scores (× 100) of sentences that are true of their picture, and of those that are not.

        Raises:
            LongalignError: fewer than four of either, or the true ones do not score higher.
        """
        t, f = (np.asarray(x, np.float64) for x in (true, false))
        if min(len(t), len(f)) < 4:
            raise LongalignError(
                f"a calibration needs at least 4 true and 4 false sentences, not {len(t)} and {len(f)}"
            )
        halves = [cls(kind, *_logistic(t[i::2], f[i::2]), error) for i in (0, 1)]
        tried = [
            (half.probability(float(s)), truth, 0.5 / len(scores))
            for truth, scores in ((True, t), (False, f))
            for i, half in enumerate(halves)
            for s in scores[1 - i :: 2]
        ]
        return cls(kind, *_logistic(t, f), error, measure(tried, error), source)

    def save(self, path: str | os.PathLike[str]) -> None:
        """As JSON."""
        atomic_write_text(Path(path), json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """What `save` wrote.

        Args:
            path: the file, the folder that holds it, or an embedded preference model such as ``stickers/denscore``.

        Raises:
            LongalignError: no such file, or it is no calibration.
        """
        path = resolve_beside(path, FILE_NAME)
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise LongalignError(f"{path}: no such calibration file") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
            raise LongalignError(f"{path}: is no calibration: {error}") from None


def _logistic(true: np.ndarray, false: np.ndarray) -> tuple[float, float]:
    """Temperature and offset by Newton's method; either side weighs ½.

    Targets are not quite 1 and 0 (Platt, 1999): sides that do not overlap would make the temperature 0.
    """
    s = np.concatenate([true, false])
    target = np.concatenate(
        [np.full(len(true), 1 - 1 / (len(true) + 2)), np.full(len(false), 1 / (len(false) + 2))]
    )
    weight = np.concatenate([np.full(len(true), 0.5 / len(true)), np.full(len(false), 0.5 / len(false))])
    middle, spread = float(np.average(s, weights=weight)), float(s.std())
    if spread == 0 or true.mean() <= false.mean():
        raise LongalignError("true sentences do not score higher than false ones: nothing can be calibrated")
    x = np.stack([(s - middle) / spread, np.ones_like(s)], 1)
    w = np.zeros(2)

    def nll(w: np.ndarray) -> float:
        z = x @ w
        return float((weight * (np.logaddexp(0, z) - target * z)).sum())

    for _ in range(100):
        p = 1 / (1 + np.exp(-(x @ w).clip(-500, 500)))
        gradient = x.T @ (weight * (p - target))
        curvature = (x.T * (weight * p * (1 - p))) @ x + 1e-9 * np.eye(2)
        step, share = np.linalg.solve(curvature, gradient), 1.0
        while nll(w - share * step) > nll(w) and share > 1e-6:
            share /= 2
        w = w - share * step
        if np.abs(gradient).max() < 1e-10:
            break
    slope = max(float(w[0]), 1e-6)
    return spread / slope, middle - spread * float(w[1]) / slope


def measure(tried: Sequence[tuple[float, bool, float]], error: float) -> dict[str, float]:
    """How far probabilities and verdicts can be trusted.

    Args:
        tried: for each sentence P(true), whether it is true, and its weight.
        error: of the verdicts, see `Calibration`.
    """
    p, truth, weight = (np.array(column, np.float64) for column in zip(*tried, strict=True))

    def wrong(called: np.ndarray, is_wrong: np.ndarray) -> float:
        total = (weight * called).sum()
        return float((weight * called * is_wrong).sum() / total) if total else 0.0

    said_true, said_false = p >= 1 - error, p <= error
    return {
        "sentences": float(len(p)),
        "ece": expected_calibration_error(p, truth, weight),
        "wrong_true": wrong(said_true, 1 - truth),
        "wrong_false": wrong(said_false, truth),
        "doubtful": float((weight * ~(said_true | said_false)).sum() / weight.sum()),
    }


# ECE = Σ_b (n_b / n) |mean P in bin b − share of true ones in bin b|
def expected_calibration_error(
    probability: np.ndarray, truth: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """Over fifteen bins of equal width."""
    weight = np.ones_like(probability) if weight is None else weight
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    gap = np.zeros(_BINS)
    np.add.at(gap, bins, weight * (probability - truth))
    return float(np.abs(gap).sum() / weight.sum())
