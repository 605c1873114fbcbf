"""Edits of held-out scenes with one change each, and the verdicts of the oracle.

A scene is rendered and described in full. One thing in it changes, and only the sentences about that thing change. An
edit *succeeded* if every cell that should change shows what it should: the new sentence is true of it, or it is empty.
*Collateral* damage is measured on the rest of the picture: sentences that are no longer true (unclear counts as not
true), empty cells in which a sticker appeared, and the difference of the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count as numbers

import numpy as np
from PIL import Image

from longalign.errors import LongalignError
from longalign.stickers.captions import Fact, Sentence, facts, sentence, text_of
from longalign.stickers.changes import changed, possible
from longalign.stickers.oracle import Reading, read
from longalign.stickers.world import (
    CELL_PX,
    KIND_NAMES,
    MAX_OBJECTS,
    SPLITS,
    Scene,
    Sticker,
    render_array,
    scene,
)

CHANGES = ("swap", "recolour", "move", "remove")  # of those in `changes.py`
_STREAM = 0xED17  # keeps these draws apart from `scene`'s


@dataclass(frozen=True)
class SceneEdit:
    """An edit to be made.

    Attributes:
        change: name in `CHANGES`.
        before, after: the scene as it is and as it should become.
        source, target: the sentences of the two captions. Those that both share are the same word by word, in the
            same order.
    """

    change: str
    before: Scene
    after: Scene
    source: str
    target: str

    @property
    def changed(self) -> list[int]:
        """Cells that should change."""
        return [c for c in range(MAX_OBJECTS) if self.before.at(c) != self.after.at(c)]

    @property
    def kept(self) -> list[Fact]:
        """The facts that both captions state."""
        return [fact for fact in facts(self.after) if fact in facts(self.before)]

    @property
    def empty(self) -> list[int]:
        """Cells that are empty and should stay so."""
        return [c for c in range(MAX_OBJECTS) if self.before.at(c) is None and self.after.at(c) is None]


@dataclass(frozen=True)
class EditVerdict:
    """The verdict of the oracle on one edited picture.

    Attributes:
        success: every cell that should change shows what it should.
        kept, lost: sentences about the rest, and how many of them are not true of the picture.
        empty, filled: cells that should stay empty, and in how many of them a sticker is seen.
        rmse_levels: root mean squared difference from the render over the cells that should not change, in
            grey levels of 255.
    """

    success: bool
    kept: int
    lost: int
    empty: int
    filled: int
    rmse_levels: float


def scene_edits(
    count: int, *, objects: tuple[int, int] = (2, 5), changes: Sequence[str] = CHANGES, seed: int = 0
) -> list[SceneEdit]:
    """Edits of scenes of the `test` split, with the changes in turn.

    Scenes in which the next change is impossible are left out.

    Args:
        objects: least and greatest number of stickers.
        changes: names in `CHANGES`.
        seed: another seed gives other scenes.

    Raises:
        LongalignError: an unknown change, or scenes too empty or too full for some change.
    """
    if unknown := set(changes) - set(CHANGES):
        raise LongalignError(f"change {min(unknown)!r} is unknown; there are {', '.join(CHANGES)}")
    if count < 1 or not changes:
        raise LongalignError("at least one edit is needed")
    if not 2 <= objects[0] <= objects[1] < MAX_OBJECTS:
        raise LongalignError(
            f"scenes for edits have 2 to {MAX_OBJECTS - 1} stickers (one to swap with, a cell to move to), not "
            f"{objects[0]}-{objects[1]}"
        )
    found: list[SceneEdit] = []
    for index in numbers():
        made = _edit_of(index, changes[len(found) % len(changes)], objects, seed)
        if made is not None:
            found.append(made)
        if len(found) == count:
            return found
    raise AssertionError("numbers do not end")


def _edit_of(index: int, change: str, objects: tuple[int, int], seed: int) -> SceneEdit | None:
    before = scene(index, objects=objects, split="test", seed=seed)
    rng = np.random.default_rng([SPLITS["test"], seed, index, _STREAM])
    after = _altered(before, change, rng)
    if after is None:
        return None
    order = rng.permutation(len(before.stickers) + 1)
    said = [_said(before.stickers, before.background, i, (seed, index)) for i in order]
    now = {s.kind: s for s in after.stickers}
    # Kinds do not repeat in a scene, so a kind is a sticker's name.
    stickers = [now.get(s.kind) for s in before.stickers]
    wanted = [_said(stickers, after.background, i, (seed, index)) for i in order]
    return SceneEdit(
        change,
        before,
        after,
        text_of([s for s in said if s is not None]),
        text_of([s for s in wanted if s is not None]),
    )


def _altered(before: Scene, change: str, rng: np.random.Generator) -> Scene | None:
    """The scene after the change of a random sticker; None if no sticker in it can change in this way."""
    able = [s for s in before.stickers if change in possible(before, s)]
    return changed(before, able[rng.integers(len(able))], change, rng) if able else None


def _said(
    stickers: Sequence[Sticker | None], background: str, which: int, key: tuple[int, int]
) -> Sentence | None:
    """The sentence about a sticker, or (the last one) about the background. The phrasing depends on the key alone."""
    rng = np.random.default_rng([SPLITS["test"], *key, _STREAM, which])
    if which == len(stickers):
        return sentence(Fact(background=background), rng)
    sticker = stickers[which]
    return None if sticker is None else sentence(_fact(sticker), rng)


def _fact(sticker: Sticker) -> Fact:
    return Fact(kind=sticker.kind, cell=sticker.cell, disc=sticker.disc)


def judge_edit(edit: SceneEdit, image: Image.Image) -> EditVerdict:
    """The verdict on an edit, from the pixels of a 96 × 96 picture."""
    reading = read(image)
    seen = reading.kinds()
    pixels = np.asarray(image.convert("RGB"), np.float64)
    still = np.ones((3, CELL_PX, 3, CELL_PX), bool)  # (row, y, column, x)
    for cell in edit.changed:
        still[cell // 3, :, cell % 3] = False
    error = (pixels - render_array(edit.before)) ** 2  # (H, W, 3)
    return EditVerdict(
        success=all(_shows(reading, cell, edit.after.at(cell)) for cell in edit.changed),
        kept=len(edit.kept),
        lost=sum(reading.judge(fact) != "true" for fact in edit.kept),
        empty=len(edit.empty),
        filled=sum(seen[cell] is not None for cell in edit.empty),
        rmse_levels=float(np.sqrt(error[still.reshape(pixels.shape[:2])].mean())),
    )


def _shows(reading: Reading, cell: int, sticker: Sticker | None) -> bool:
    if sticker is not None:
        return reading.judge(_fact(sticker)) == "true"
    # A cell is empty if the oracle is certain of every kind of sticker that it is not there.
    return all(reading.judge(Fact(kind=kind, cell=cell)) == "false" for kind in KIND_NAMES)
