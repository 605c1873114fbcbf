"""The scene that sentences describe, and sentences that are false of it."""

from __future__ import annotations

import numpy as np

from longalign.encoding.segments import Segmenter
from longalign.stickers.captions import is_true, lie, parse_all, sentence
from longalign.stickers.world import BACKGROUND_NAMES, Scene, Sticker


def described_scene(prompt: str) -> Scene | None:
    """The scene of which a prompt says everything: the background, and the kind in every place it speaks of.

    None where it says less, or speaks of something else.
    """
    background = None
    kinds: dict[int, str | None] = {}
    discs: dict[int, str] = {}
    for fact in parse_all([segment.text for segment in Segmenter()(prompt)]):
        if fact is None:
            return None
        background = fact.background or background
        if fact.cell is not None:
            kinds[fact.cell] = fact.kind or kinds.get(fact.cell)
            if fact.disc:
                discs[fact.cell] = fact.disc
    stickers = [Sticker(kind, cell, discs.get(cell)) for cell, kind in kinds.items() if kind]
    if background is None or len(stickers) < len(kinds):
        return None
    return Scene(background, tuple(stickers))


def lied(sentences: list[str], rng: np.random.Generator) -> list[str] | None:
    """One of the sentences that stand for themselves made false; None where there is none."""
    facts = parse_all(sentences)
    known = [f for f in facts if f is not None]
    whole = [i for i, f in enumerate(facts) if f is not None and (f.background or f.kind)]
    if not whole:
        return None
    ground = next((f.background for f in known if f.background), BACKGROUND_NAMES[0])
    discs = {f.cell: f.disc for f in known if f.disc}
    said = Scene(ground, tuple(Sticker(f.kind, f.cell, discs.get(f.cell)) for f in known if f.kind))  # type: ignore[arg-type]
    place = whole[rng.integers(len(whole))]
    fact = facts[place]
    assert fact is not None
    false = lie(said, fact, rng)
    while is_true(false, said):
        false = lie(said, fact, rng)
    return [*sentences[:place], sentence(false, rng).text, *sentences[place + 1 :]]
