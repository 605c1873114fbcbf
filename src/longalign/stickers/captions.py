"""Captions of the sticker world: one sentence a fact, in several phrasings, and back again.

A sentence and its `Fact` always travel together, so that the oracle can be asked whether it is true. `parse`
recovers the fact from text alone; it reads every phrasing that `caption` writes, and small variations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from longalign.stickers.world import (
    BACKGROUND_NAMES,
    DISC_NAMES,
    KIND_NAMES,
    POSITIONS,
    Scene,
)


@dataclass(frozen=True, slots=True)
class Fact:
    """What one sentence says. Fields that it does not speak of are None.

    A sentence about a sticker has `cell` and at least one of `kind` and `disc`; one about the background has
    `background` alone.
    """

    kind: str | None = None
    cell: int | None = None
    disc: str | None = None
    background: str | None = None


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    fact: Fact


PLAIN = (
    "{A} {kind} is in the {place}.",
    "In the {place} there is {a} {kind}.",
    "The {place} shows {a} {kind}.",
    "There is {a} {kind} in the {place}.",
    "You can see {a} {kind} in the {place}.",
)
ON_DISC = (
    "{A} {kind} on a {disc} disc is in the {place}.",
    "In the {place} there is {a} {kind} on a {disc} disc.",
    "The {place} shows {a} {kind} on a {disc} disc.",
    "There is {a} {kind} on a {disc} disc in the {place}.",
    "You can see {a} {kind} on a {disc} disc in the {place}.",
)
# The second split refers across sentences: these stand after a PLAIN sentence about the same sticker.
REFERRING = (
    "It stands on a {disc} disc.",
    "It is on a {disc} disc.",
    "A {disc} disc is behind it.",
)
BACKGROUND = (
    "The background is {background}.",
    "Everything is on a {background} background.",
    "Behind it all the ground is {background}.",
)


def _choose(rng: np.random.Generator, phrasings: tuple[str, ...]) -> str:
    return phrasings[rng.integers(len(phrasings))]


def sentence(fact: Fact, rng: np.random.Generator) -> Sentence:
    """A self-contained sentence that states a fact, in a phrasing drawn from `rng`."""
    if fact.background is not None:
        return Sentence(_choose(rng, BACKGROUND).format(background=fact.background), fact)
    assert fact.kind is not None and fact.cell is not None
    article = "an" if fact.kind[0] in "aeiou" else "a"
    text = _choose(rng, ON_DISC if fact.disc else PLAIN).format(
        a=article, A=article.capitalize(), kind=fact.kind, place=POSITIONS[fact.cell], disc=fact.disc
    )
    return Sentence(text, fact)


def facts(scene: Scene) -> list[Fact]:
    """All that a full caption says: each sticker (with its disc, if any), and the background."""
    stickers = [Fact(kind=s.kind, cell=s.cell, disc=s.disc) for s in scene.stickers]
    return [*stickers, Fact(background=scene.background)]


def caption(
    scene: Scene, rng: np.random.Generator | int, *, referring: bool = False, most: int | None = None
) -> list[Sentence]:
    """The sentences of a scene's caption, in random order and phrasing.

    Args:
        scene: what to describe.
        rng: a generator or a seed.
        referring: say a sticker's disc in a second sentence that refers back to it ("It stands on …").
        most: at most so many facts, drawn at random (None: all).
    """
    rng = np.random.default_rng(rng)
    stated = facts(scene)
    order = rng.permutation(len(stated))[:most]
    sentences: list[Sentence] = []
    for fact in (stated[i] for i in order):
        if referring and fact.disc:
            sentences.append(sentence(replace(fact, disc=None), rng))
            text = _choose(rng, REFERRING).format(disc=fact.disc)
            sentences.append(Sentence(text, Fact(cell=fact.cell, disc=fact.disc)))
        else:
            sentences.append(sentence(fact, rng))
    return sentences


def text_of(sentences: list[Sentence]) -> str:
    """The caption as one string."""
    return " ".join(s.text for s in sentences)


def _other(rng: np.random.Generator, names: tuple[str, ...], name: str) -> str:
    return names[(names.index(name) + int(rng.integers(1, len(names)))) % len(names)]


def lie(scene: Scene, fact: Fact, rng: np.random.Generator) -> Fact:
    """A fact that differs from a true one in one word and is false of the scene.

    The kind, the position, the disc's colour or the background is changed; half of the changed kinds are taken
    from elsewhere in the scene (a swap), which is the harder lie.
    """
    if fact.background is not None:
        return Fact(background=_other(rng, BACKGROUND_NAMES, fact.background))
    assert fact.cell is not None
    changes = [c for c in ("kind", "cell", "disc") if c == "cell" or getattr(fact, c) is not None]
    change = changes[rng.integers(len(changes))]
    if change == "disc":
        assert fact.disc is not None
        return replace(fact, disc=_other(rng, DISC_NAMES, fact.disc))
    if change == "cell":
        return replace(fact, cell=(fact.cell + int(rng.integers(1, len(POSITIONS)))) % len(POSITIONS))
    assert fact.kind is not None
    present = tuple(s.kind for s in scene.stickers if s.kind != fact.kind)
    if present and rng.random() < 0.5:
        return replace(fact, kind=present[rng.integers(len(present))])
    return replace(fact, kind=_other(rng, KIND_NAMES, fact.kind))


def is_true(fact: Fact, scene: Scene) -> bool:
    """The truth of a fact by the scene itself (the oracle has only pixels)."""
    if fact.background is not None:
        return fact.background == scene.background
    assert fact.cell is not None
    sticker = scene.at(fact.cell)
    return (
        sticker is not None
        and fact.kind in (None, sticker.kind)
        and (fact.disc is None or fact.disc == sticker.disc)
    )


def _word(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)


_KIND = _word(KIND_NAMES)
# What people call the places beside the names of `POSITIONS`. Captions are written with those alone.
_ROWS = {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
_MIDDLE = r"(?:middle|centre|center)"
_PLACE = re.compile(
    rf"\b(?:(?P<row>top|upper|bottom|lower|{_MIDDLE})[- ](?P<column>left|right|{_MIDDLE})"
    # "the centre of the top row" is another place than the centre
    rf"|(?P<alone>{_MIDDLE})(?! of (?!the (?:picture|image|scene|grid)\b)))\b",
    re.IGNORECASE,
)
_DISC = re.compile(rf"\b({'|'.join(DISC_NAMES)}) disc\b", re.IGNORECASE)
_BACKGROUND = re.compile(
    rf"\b({'|'.join(BACKGROUND_NAMES)}) (?:back)?ground\b|"
    rf"\b(?:back)?ground is ({'|'.join(BACKGROUND_NAMES)})\b",
    re.IGNORECASE,
)


def _cell(text: str) -> int | None:
    """The cell that a sentence names, by any of its usual names."""
    found = _PLACE.search(text)
    if found is None:
        return None
    if found["alone"]:
        return POSITIONS.index("middle")
    row = _ROWS.get(found["row"].lower(), "middle")
    column = found["column"].lower()
    if column not in ("left", "right"):
        return POSITIONS.index("middle" if row == "middle" else f"{row} centre")
    return POSITIONS.index(f"{row} {column}")


def parse(text: str, before: Fact | None = None) -> Fact | None:
    """The fact that a sentence states, or None where it states nothing about the sticker world.

    Args:
        text: one sentence.
        before: the fact of the sentence before it, to which "it" refers.
    """
    if found := _BACKGROUND.search(text):
        return Fact(background=(found[1] or found[2]).lower())
    kind, disc, cell = _KIND.search(text), _DISC.search(text), _cell(text)
    if cell is None and kind is None and disc and before is not None:
        cell = before.cell
    if cell is None or not (kind or disc):
        return None
    return Fact(kind=kind[1].lower() if kind else None, cell=cell, disc=disc[1].lower() if disc else None)


def parse_all(texts: list[str]) -> list[Fact | None]:
    """`parse` over consecutive sentences, with "it" resolved to the last sticker spoken of."""
    found: list[Fact | None] = []
    last: Fact | None = None
    for text in texts:
        fact = parse(text, last)
        found.append(fact)
        if fact is not None and fact.cell is not None:
            last = fact
    return found
