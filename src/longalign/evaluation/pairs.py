"""Pictures with their captions: sticker scenes, which are drawn as they are needed, JSONL files and folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.preference.images import ImageLike, to_pixels
from longalign.scoring import data
from longalign.stickers.captions import caption, text_of
from longalign.stickers.changes import alter
from longalign.stickers.files import parse_range
from longalign.stickers.world import SPLITS, Scene, render_array, scene


@dataclass(frozen=True)
class Pairs:
    """N captions, and a function that gives the picture of each: (3, H, W) in [0, 1].

    Attributes:
        source: what they are, in words.
        v_prompts: prompts disjoint from the captions, to fit V on where a model has none; None: there are none.
    """

    captions: Sequence[str]
    picture: Callable[[int], Tensor]
    source: str
    v_prompts: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.captions)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) → (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float().div_(255)


def sticker_prompts(count: int = 2000, *, seed: int = 1) -> list[str]:
    """Captions of scenes of the `train` split, to fit V on: disjoint by seed from what is evaluated."""
    return [text_of(caption(scene(i, objects=(1, 9), split="train", seed=seed), i)) for i in range(count)]


_FAMILY = 0xFA  # keeps the draws of relatives apart from `scene`'s


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
        raise LongalignError(f"split {split!r} is unknown; one of {', '.join(SPLITS)}")
    scenes = families(count, family, objects, split=split, seed=seed)
    kin = f" in families of {family}" if family > 1 else ""
    return Pairs(
        captions=[text_of(caption(s, i, referring=referring)) for i, s in enumerate(scenes)],
        picture=lambda i: to_tensor(render_array(scenes[i])),
        source=f"{count:,} sticker scenes of {objects} stickers{kin}, split {split}, seed {seed}",
        v_prompts=sticker_prompts(),
    )


def read_pairs(path: Path) -> Pairs:
    """Pairs of a JSONL file of ``{"image": …, "caption": …}`` or a folder; see `longalign.scoring.data.read_pairs`.

    Pictures are read later, as they are needed.

    Raises:
        LongalignError: no such file, a line that is no such object (it is named), a picture that is not there, no
            pairs.
    """
    images: list[ImageLike] = []
    captions: list[str] = []
    for pair in data.read_pairs(path):
        if isinstance(pair, data.Failure):
            raise LongalignError(f"{pair.name}: {pair.reason}")
        if isinstance(pair.image, Path) and not pair.image.is_file():
            raise LongalignError(f"{path}: no such image file: {pair.image}")
        if not pair.text.strip():
            raise LongalignError(f"{path}: the caption of {pair.name} is blank")
        images.append(pair.image)
        captions.append(pair.text)
    if not captions:
        raise LongalignError(f"{path}: holds no pairs; give one a line")
    return Pairs(captions, lambda i: to_pixels(images[i]), f"{len(captions):,} pairs of {path.name}")
