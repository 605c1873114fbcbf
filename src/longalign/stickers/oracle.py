"""The oracle: reads pixels and says of a sentence whether it is true, false or unclear.

It compares every cell with every possible cell (kind × disc × background) and trusts the nearest only when it is
near enough, and clearly nearer than the nearest cell that would contradict it. Cells are compared at half
size with their borders left out, which is what makes it bear blur, noise and recompression.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image

from longalign.stickers.captions import Fact
from longalign.stickers.world import (
    BACKGROUND_NAMES,
    DISC_NAMES,
    KIND_NAMES,
    POSITIONS,
    SCENE_PX,
    cell_table,
)

Verdict = Literal["true", "false", "unclear"]

COMPARED_PX = 16  # a cell is compared at half of its 32 px
NEAR = 0.030  # mean squared difference (pixels in [0, 1]) beyond which nothing is recognised
MARGIN = 0.70  # the nearest must be nearer than this share of the nearest contradiction


@dataclass(frozen=True)
class Reading:
    """What the oracle sees in one picture: squared distances to every possible cell.

    Attributes:
        distance: (9 cells, backgrounds, kinds + 1, discs + 1), mean squared difference; the last kind is
            "nothing" and the last disc "no disc".
    """

    distance: np.ndarray

    def judge(self, fact: Fact) -> Verdict:
        """Is the fact true of the picture?"""
        if fact.background is not None:
            by_background = np.median(self.distance.min(axis=(2, 3)), axis=0)  # (backgrounds,)
            return _decide(
                by_background, np.arange(len(BACKGROUND_NAMES)) == BACKGROUND_NAMES.index(fact.background)
            )
        cell = self.distance[fact.cell].min(axis=0)  # (kinds + 1, discs + 1)
        agrees = np.ones(cell.shape, bool)
        if fact.kind is not None:
            agrees &= (np.arange(cell.shape[0]) == KIND_NAMES.index(fact.kind))[:, None]
        if fact.disc is not None:
            agrees &= (np.arange(cell.shape[1]) == DISC_NAMES.index(fact.disc))[None]
        return _decide(cell, agrees)

    def kinds(self) -> list[str | None]:
        """The kind seen in each cell; None where nothing is, or nothing is clear."""
        best = self.distance.min(axis=(1, 3))  # (9, kinds + 1)
        names = (*KIND_NAMES, None)
        return [names[int(b.argmin())] if b.min() < NEAR else None for b in best]


def _decide(distance: np.ndarray, agrees: np.ndarray) -> Verdict:
    yes, no = float(distance[agrees].min()), float(distance[~agrees].min())
    if min(yes, no) > NEAR or min(yes, no) > MARGIN * max(yes, no):
        return "unclear"
    return "true" if yes < no else "false"


def _shrunk(cells: np.ndarray) -> np.ndarray:
    """uint8 or float cells (…, 32, 32, 3) → float32 (…, 16·16·3) in [0, 1], by 2 × 2 means."""
    lead, px = cells.shape[:-3], cells.shape[-2]
    step = px // COMPARED_PX
    blocks = cells.reshape(*lead, COMPARED_PX, step, COMPARED_PX, step, 3)
    small: np.ndarray = blocks.mean(axis=(-4, -2), dtype=np.float32)
    return small.reshape(*lead, -1) / 255


@lru_cache(maxsize=1)
def _templates() -> tuple[np.ndarray, np.ndarray]:
    table = _shrunk(cell_table())  # (B, K + 1, D + 1, 768)
    return table, (table**2).mean(-1)


def read(image: Image.Image | np.ndarray) -> Reading:
    """Look at one picture.

    Args:
        image: PIL image, or uint8 (H, W, 3). Other sizes than 96 × 96 are resized first.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image = image.convert("RGB")
    if image.size != (SCENE_PX, SCENE_PX):
        image = image.resize((SCENE_PX, SCENE_PX), Image.Resampling.BICUBIC)
    px = SCENE_PX // 3
    cells = np.asarray(image).reshape(3, px, 3, px, 3).swapaxes(1, 2).reshape(9, px, px, 3)
    seen = _shrunk(cells)  # (9, 768)
    templates, squares = _templates()
    products = np.tensordot(seen, templates, axes=(1, 3)) / seen.shape[1]  # (9, B, K + 1, D + 1)
    distance = (seen**2).mean(1)[:, None, None, None] - 2 * products + squares
    return Reading(np.maximum(distance, 0))


def judge(image: Image.Image | np.ndarray, facts: list[Fact]) -> list[Verdict]:
    """One verdict a fact."""
    reading = read(image)
    return [reading.judge(fact) for fact in facts]


def place_name(cell: int) -> str:
    """The name of a cell."""
    return POSITIONS[cell]
