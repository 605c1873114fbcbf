"""Sticker pictures with known truth (the share of a prompt that is true of them) and known image quality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longalign.stickers.captions import Fact, Sentence, caption, lie, sentence
from longalign.stickers.changes import alter
from longalign.stickers.looks import LOOKS, worsen
from longalign.stickers.raters import truth
from longalign.stickers.world import Scene, render_array, scene

_RENDER, _LIE = 0x1D, 0x10C  # keep the draws of the two studies apart from each other and from `scene`'s


@dataclass(frozen=True)
class Render:
    """A prompt, and a picture that may differ from it.

    Attributes:
        said: the full caption of the scene that was asked for.
        shown: what is drawn: that scene with some mistakes.
        truth: share of the prompt's sentences that are true of it.
        kind, strength: how the picture was degraded; looks are −strength.
        noise_seed: seed of the degradation.
    """

    said: list[Sentence]
    shown: Scene
    truth: float
    kind: str
    strength: float
    noise_seed: int

    @property
    def looks(self) -> float:
        return -self.strength

    def pixels(self) -> np.ndarray:
        """uint8 (96, 96, 3)."""
        return worsen(
            render_array(self.shown), self.kind, self.strength, np.random.default_rng(self.noise_seed)
        )


def known_render(
    prompt: int, version: int = 0, *, objects: tuple[int, int] = (2, 9), seed: int = 0
) -> Render:
    """One version of held-out scene number ``prompt``: with 0 to as many mistakes as it has stickers, and degraded.

    The number of mistakes and the strength are uniform and independent of each other.
    """
    asked = scene(prompt, objects=objects, split="test", seed=seed)
    said = caption(asked, np.random.default_rng([_RENDER, seed, prompt]))
    rng = np.random.default_rng([_RENDER, seed, prompt, version + 1])
    shown = asked
    for _ in range(int(rng.integers(len(asked.stickers) + 1))):
        shown = alter(shown, rng)
    return Render(
        said,
        shown,
        truth([s.fact for s in said], shown),
        LOOKS[rng.integers(len(LOOKS))],
        float(rng.random()),
        int(rng.integers(2**32)),
    )


@dataclass(frozen=True)
class OneFalse:
    """A scene and its caption, in which exactly one sentence is false.

    Attributes:
        false: index of that sentence.
        kind: what is wrong in it: ``kind``, ``position``, ``disc`` or ``background``.
    """

    shown: Scene
    said: list[Sentence]
    false: int
    kind: str


def one_false(index: int, *, objects: tuple[int, int] = (2, 9), seed: int = 0) -> OneFalse:
    """Held-out scene number ``index`` with its full caption, one sentence of which is turned into a lie by one word."""
    shown = scene(index, objects=objects, split="test", seed=seed)
    rng = np.random.default_rng([_LIE, seed, index])
    said = caption(shown, rng)
    false = int(rng.integers(len(said)))
    told = lie(shown, said[false].fact, rng)
    kind = kind_of_lie(said[false].fact, told)
    said[false] = sentence(told, rng)
    return OneFalse(shown, said, false, kind)


def kind_of_lie(fact: Fact, told: Fact) -> str:
    """The name of the word in which two facts differ."""
    names = {"kind": "kind", "cell": "position", "disc": "disc", "background": "background"}
    return next(name for field, name in names.items() if getattr(fact, field) != getattr(told, field))


def other_scenes(count: int = 500) -> list[Scene]:
    """Scenes of the `validation` split, which are not among those that are asked about."""
    return [scene(i, objects=(2, 9), split="validation") for i in range(count)]
