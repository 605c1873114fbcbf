"""Which picture is best for each sentence, and which sentences of a data set are the lowest."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from longalign.errors import LongalignError

if TYPE_CHECKING:
    from longalign.scoring.stream import Scored


@dataclass(frozen=True)
class Ranking:
    """Several pictures of one prompt, compared (LongAlign, Fig. 16).

    Attributes:
        order: the pictures by their overall score, the best first.
        best: for each sentence the picture that fits it best.
    """

    order: Sequence[int]
    best: Sequence[int]

    def place(self, image: int) -> int:
        """1 for the best picture."""
        return list(self.order).index(image) + 1


def rank(scored: Sequence[Scored]) -> Ranking:
    """Ranks pictures of one prompt; at a draw the earlier picture comes first.

    Raises:
        LongalignError: they were scored against different prompts.
    """
    if len({item.pair.text for item in scored}) > 1:
        raise LongalignError("only pictures that were scored against the same prompt can be ranked")
    order = sorted(range(len(scored)), key=lambda i: -scored[i].scores["overall"])
    values = [item.values for item in scored]  # (pictures, sentences)
    best = [
        max(range(len(scored)), key=lambda i: values[i][k]) for k in range(len(values[0]) if values else 0)
    ]
    return Ranking(order, best)


class Lowest:
    """Keeps, of any number of scored pairs, the ``size`` whose worst sentence is the lowest."""

    def __init__(self, size: int) -> None:
        self.size = size
        # of negative values: the highest kept is on top
        self._heap: list[tuple[float, int, Scored, tuple[int, int]]] = []
        self._count = count()

    def add(self, item: Scored, place: tuple[int, int] = (0, 0)) -> None:
        """Keeps a pair if it is one of the lowest.

        Args:
            item: the pair.
            place: where it is, which `numbered` gives back.
        """
        entry = (-item.values[item.worst], -next(self._count), item, place)  # at a draw the earlier one stays
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        elif self.size:
            heapq.heappushpop(self._heap, entry)

    def sorted(self) -> list[Scored]:
        """The lowest first."""
        return [item for item, _ in self.numbered()]

    def numbered(self) -> list[tuple[Scored, tuple[int, int]]]:
        """The lowest first, each with its place."""
        return [(item, place) for _, _, item, place in sorted(self._heap, key=lambda e: (-e[0], -e[1]))]


def worst_row(item: Scored) -> dict[str, Any]:
    """A pair by its worst sentence, for JSON: with the mean of its other sentences, to see how far it stands out."""
    values = item.values
    others = [value for k, value in enumerate(values) if k != item.worst]
    return {
        "image": item.pair.name,
        "sentence": item.segments[item.worst].text,
        "index": item.worst,
        "sentences": len(values),
        "score": values[item.worst],
        **({"verdict": verdict} if (verdict := item.segments[item.worst].verdict) is not None else {}),
        "others": sum(others) / len(others) if others else None,
        "overall": item.scores["overall"],
    }


@dataclass
class Summary:
    """Running mean and deviation of the scores of a stream (Welford), and how much could not be read."""

    scored: int = 0
    failed: int = 0
    mean: dict[str, float] = field(default_factory=dict)
    _squares: dict[str, float] = field(default_factory=dict)

    def add(self, item: Scored) -> None:
        self.scored += 1
        for name, value in {**item.scores, "worst sentence": item.values[item.worst]}.items():
            before = self.mean.get(name, 0.0)
            self.mean[name] = before + (value - before) / self.scored
            squares = self._squares.get(name, 0.0)
            self._squares[name] = squares + (value - before) * (value - self.mean[name])

    def deviation(self, name: str) -> float:
        """Standard deviation of the sample; 0 for a single pair."""
        return math.sqrt(self._squares[name] / (self.scored - 1)) if self.scored > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "scored": self.scored,
            "failed": self.failed,
            "mean": self.mean,
            "deviation": {name: self.deviation(name) for name in self.mean},
        }
