"""Scenes that differ in one fact: what can change about a sticker, and what the scene is then.

The raters' mistakes, edits and families of scenes all come from here. What is drawn from `rng`, and in which order,
must stay: the pairs that the shipped preference model learnt from depend on it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from longalign.stickers.world import (
    BACKGROUND_NAMES,
    DISC_NAMES,
    KIND_NAMES,
    MAX_OBJECTS,
    Scene,
    Sticker,
)

CHANGES = ("swap", "move", "remove", "recolour", "replace", "repaint")


def possible(shown: Scene, sticker: Sticker) -> list[str]:
    """What can change about a sticker of a scene: names in `CHANGES`, in their order. A ground can always change."""
    alone = len(shown.stickers) == 1
    impossible = {
        "swap": alone,
        "move": len(shown.stickers) == MAX_OBJECTS,
        "remove": alone,  # an empty scene has nothing to be wrong about
        "recolour": sticker.disc is None,
    }
    return [name for name in CHANGES if not impossible.get(name)]


def changed(shown: Scene, sticker: Sticker, change: str, rng: np.random.Generator) -> Scene:
    """A scene after one change.

    Args:
        sticker: that is swapped with another one, moved to an empty cell, removed, put on a disc of another colour, or
            replaced by one of a kind that is not there yet.
        change: one of `possible`; ``repaint`` gives the background another colour, whichever the sticker.
        rng: draws what `change` leaves open.
    """
    others = [s for s in shown.stickers if s != sticker]
    if change == "repaint":
        return replace(shown, background=_one_of([b for b in BACKGROUND_NAMES if b != shown.background], rng))
    if change == "swap":
        return swap(shown, sticker.cell, others[rng.integers(len(others))].cell)
    if change == "remove":
        return replace(shown, stickers=tuple(others))
    if change == "move":
        empty = [c for c in range(MAX_OBJECTS) if shown.at(c) is None]
        altered = replace(sticker, cell=empty[rng.integers(len(empty))])
    elif change == "recolour":
        altered = replace(sticker, disc=_one_of([d for d in DISC_NAMES if d != sticker.disc], rng))
    else:
        present = {s.kind for s in shown.stickers}
        altered = replace(sticker, kind=_one_of([k for k in KIND_NAMES if k not in present], rng))
    return replace(shown, stickers=(*others, altered))


def alter(shown: Scene, rng: np.random.Generator, places: set[int | None] | None = None) -> Scene:
    """A scene after one change, of which everything is drawn.

    Args:
        places: where to make it, if there is still a sticker in one of these cells; None among them is the
            background. None instead of a set is anywhere.
    """
    here = [s for s in shown.stickers if places is None or s.cell in places] or shown.stickers
    sticker = here[rng.integers(len(here))]
    ground = places is None or None in places
    return changed(
        shown, sticker, _one_of([c for c in possible(shown, sticker) if ground or c != "repaint"], rng), rng
    )


def swap(shown: Scene, first: int, second: int) -> Scene:
    """The scene with the contents of two cells exchanged."""
    exchange = {first: second, second: first}
    moved = tuple(replace(s, cell=exchange.get(s.cell, s.cell)) for s in shown.stickers)
    return replace(shown, stickers=moved)


def _one_of(names: list[str], rng: np.random.Generator) -> str:
    return names[rng.integers(len(names))]
