"""The result of `longalign.repair`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from longalign.encoding.segments import Segment
from longalign.repairing.verdicts import Verdicts


@dataclass(frozen=True, eq=False)
class Attempt:
    """One picture on the way.

    Attributes:
        image: the picture.
        turn: the round that drew it; 0 for the pictures before the repair.
        seed: of its noise.
        verdicts: what the preference model says of its sentences.
        calls: denoiser calls that it took: sampling steps, each of which is one call of the model (with guidance for
            two rows).
        accepted: whether it became the best picture so far.
        of: number of the attempt that it repairs; None for new pictures.
        doubtful: numbers of the sentences that it should mend.
        spoiled: numbers of the sentences that it made false, for which it was not accepted.
        region: (h, w) bool, the latents that were drawn again; None for new pictures.
    """

    image: Image.Image
    turn: int
    seed: int
    verdicts: Verdicts
    calls: int
    accepted: bool
    of: int | None = None
    doubtful: tuple[int, ...] = ()
    spoiled: tuple[int, ...] = ()
    region: Tensor | None = None

    def mask(self) -> Image.Image | None:
        """The region in the size of the picture: white is what was drawn again. None for new pictures."""
        if self.region is None:
            return None
        shown = Image.fromarray(self.region.cpu().numpy().astype(np.uint8) * 255)
        return shown.resize(self.image.size, Image.Resampling.NEAREST)


@dataclass(frozen=True, eq=False)
class Repaired:
    """A prompt's pictures: those of before, and one of each round.

    Attributes:
        prompt: the text.
        sentences: its sentences, as the preference model cuts it. Their places are in the text without marks.
        attempts: all pictures, in the order in which they were drawn.
        chosen: number of the attempt that is the result.
        first: number of the attempt that was repaired, the best of the pictures before the repair.
        maps: (S, h, w) densities of attention of the sentences, while the repaired picture was drawn, as of
            `longalign.attend`; None where no round asked for a region.
    """

    prompt: str
    sentences: tuple[Segment, ...]
    attempts: Sequence[Attempt]
    chosen: int
    first: int
    maps: Tensor | None = None

    @property
    def before(self) -> Attempt:
        """The best picture before the repair."""
        return self.attempts[self.first]

    @property
    def after(self) -> Attempt:
        """The result."""
        return self.attempts[self.chosen]

    @property
    def image(self) -> Image.Image:
        """The picture that is the result."""
        return self.after.image

    @property
    def calls(self) -> int:
        """Denoiser calls of all attempts."""
        return sum(attempt.calls for attempt in self.attempts)

    @property
    def probable(self) -> bool:
        """Whether values are P(true); else they are scores."""
        return self.after.verdicts.probable

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, without pictures."""
        return {
            "sentences": [s.text for s in self.sentences],
            "probability": self.probable,
            "calls": self.calls,
            "before": self.first,
            "chosen": self.chosen,
            "attempts": [
                {
                    "round": a.turn,
                    "seed": a.seed,
                    "of": a.of,
                    "calls": a.calls,
                    "accepted": a.accepted,
                    "values": [round(value, 6) for value in a.verdicts.values],
                    "doubtful": list(a.doubtful),
                    "spoiled": list(a.spoiled),
                    "region": None if a.region is None else round(float(a.region.float().mean()), 6),
                }
                for a in self.attempts
            ],
        }
