"""Sticker scenes with their captions, drawn as they are needed: for retrieval, scoring and fitting V."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from longalign.errors import LongalignError
from longalign.evaluation.pairs import Pairs
from longalign.plugins import unknown
from longalign.scoring.calibrate import Asked
from longalign.scoring.data import Pair as ScoredPair
from longalign.stickers.captions import caption, facts, lie, sentence, text_of
from longalign.stickers.changes import alter
from longalign.stickers.files import parse_range
from longalign.stickers.looks import LOOKS, worsen
from longalign.stickers.world import SPLITS, Scene, render, render_array, scene

_FAMILY = 0xFA  # keeps the draws of relatives apart from `scene`'s


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) → (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float().div_(255)


def sticker_prompts(count: int = 2000, *, seed: int = 1) -> list[str]:
    """Captions of scenes of the `train` split, to fit V on: disjoint by seed from what is evaluated."""
    return [text_of(caption(scene(i, objects=(1, 9), split="train", seed=seed), i)) for i in range(count)]


def families(
    count: int, size: int, objects: str = "1-9", *, split: str = "test", seed: int = 0
) -> list[Scene]:
    """Scenes in families of ``size``: one, and others that differ from it by one mistake each, all different."""
    scenes: list[Scene] = []
    for family in range(-(-count // size)):
        first = scene(family, objects=parse_range(objects), split=split, seed=seed)
        rng = np.random.default_rng([_FAMILY, seed, family])
        members = {
            (first.background, frozenset(first.stickers)): first
        }  # the order of stickers does not show
        while len(members) < size:
            relative = alter(first, rng)
            members.setdefault((relative.background, frozenset(relative.stickers)), relative)
        scenes += members.values()
    return scenes[:count]


def sticker_pairs(
    count: int = 5000,
    objects: str = "1-9",
    *,
    family: int = 1,
    split: str = "test",
    seed: int = 0,
    referring: bool = False,
) -> Pairs:
    """Sticker scenes with their full captions.

    Args:
        objects: least and greatest number of stickers. Among thousands of scenes of one sticker some look the same.
        family: 1: every scene is drawn by itself. More: families of so many scenes, which differ by one mistake from
            their first (`families`), so that every sentence counts.
        referring: captions that refer across sentences.

    Raises:
        LongalignError: no such split, or a range outside 0-9.
    """
    if split not in SPLITS:
        raise LongalignError(unknown("split", split, SPLITS))
    scenes = families(count, family, objects, split=split, seed=seed)
    kin = f" in families of {family}" if family > 1 else ""
    return Pairs(
        captions=[text_of(caption(s, i, referring=referring)) for i, s in enumerate(scenes)],
        picture=lambda i: to_tensor(render_array(scenes[i])),
        source=f"{count:,} sticker scenes of {objects} stickers{kin}, split {split}, seed {seed}",
        v_prompts=sticker_prompts(),
    )


def scored_pairs(count: int, split: str = "test", objects: tuple[int, int] = (1, 9)) -> Iterator[ScoredPair]:
    """Scenes of the sticker world, drawn as they are needed, with their captions."""
    for i in range(count):
        drawn = scene(i, objects=objects, split=split)
        yield ScoredPair(render(drawn), text_of(caption(drawn, i)), f"scene {i}")


def captions_of_scenes(count: int, split: str = "train", objects: tuple[int, int] = (1, 9)) -> Iterator[str]:
    """Captions of scenes, without drawing them."""
    for i in range(count):
        yield text_of(caption(scene(i, objects=objects, split=split), i))


def sticker_questions(
    count: int, *, split: str = "validation", seed: int = 0, objects: tuple[int, int] = (2, 9)
) -> Iterator[Asked]:
    """Sticker scenes, a third of them clean, with their sentences and a lie in one word for each.

    Every second caption does not speak of discs.
    """
    for i in range(count):
        rng = np.random.default_rng([0xCA1, SPLITS[split], seed, i])
        shown = scene(i, objects=objects, split=split, seed=seed)
        strength = 0.0 if rng.random() < 1 / 3 else float(rng.random())
        pixels = worsen(render_array(shown), LOOKS[rng.integers(len(LOOKS))], strength, rng)
        stated = [replace(fact, disc=None) if i % 2 else fact for fact in facts(shown)]
        true = [sentence(fact, rng).text for fact in stated]
        false = [sentence(lie(shown, fact, rng), rng).text for fact in stated]
        yield Asked(ScoredPair(Image.fromarray(pixels), " ".join(true), f"scene {i}"), true, false)
