"""The ways of repair, and their settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from longalign.errors import LongalignError
from longalign.plugins import unknown
from longalign.repairing.redraw import steps_taken
from longalign.repairing.verdicts import Choice, check_choice

PARTS = ("region", "weights", "gradient")
DEFAULT = "region+weights"
REDRAW = "redraw"


@dataclass(frozen=True)
class RepairSettings:
    """How a picture is repaired.

    Attributes:
        rounds: how often at most.
        best_of: pictures that are drawn before, of which the best is repaired.
        method: parts joined by ``+``. ``region``: only where attention looks for the doubtful sentences is drawn
            again; else the whole picture. ``weights``: the doubtful sentences get more weight. ``gradient``: guidance
            by the preference model (`longalign.repairing.guide`). ``redraw`` has none of them: each round draws a new
            picture, which is best-of-N.
        weight: of a doubtful sentence in the first round; w − 1 is added in each further one.
        start: share of the steps that a round takes; 1 draws the region from noise alone.
        level: of the region, from 0 (all) to 1: `longalign.repairing.regions.region_of`.
        strength: of the gradient, η.
        choice: which picture is best: by the ``mean`` of P(true) over sentences, or by the ``lowest`` one.

    Raises:
        LongalignError: a setting is unknown or out of range.
    """

    rounds: int = 2
    best_of: int = 1
    method: str = DEFAULT
    weight: float = 1.25
    start: float = 1.0
    level: float = 0.7
    strength: float = 0.1
    choice: Choice = "mean"

    def __post_init__(self) -> None:
        if self.best_of < 1:
            raise LongalignError(f"the best of at least 1 picture is taken, not of {self.best_of}")
        if self.rounds < 0:
            raise LongalignError(f"rounds of repair are 0 or more, not {self.rounds}")
        for part in self.parts:
            if part not in PARTS:
                raise LongalignError(unknown("method of repair", part, [*PARTS, REDRAW, DEFAULT]))
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise LongalignError(f"a weight must be a number from 0 on, not {self.weight}")
        if not 0 <= self.level <= 1:
            raise LongalignError(f"the level of a region is from 0 to 1, not {self.level}")
        check_choice(self.choice)
        steps_taken(1, self.start)

    @property
    def parts(self) -> tuple[str, ...]:
        """Of the method; none of ``redraw``."""
        return () if self.method == REDRAW else tuple(self.method.split("+"))

    def weight_in(self, turn: int) -> float:
        """The weight of a doubtful sentence in a round.

        Args:
            turn: the number of the round, from 1.
        """
        return 1 + turn * (self.weight - 1) if "weights" in self.parts else 1.0
