"""Prompts by number: all that reward fine-tuning learns from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from longalign.prompts import read_prompt_file
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import scene

STICKERS = "stickers"


class ListedPrompts(Dataset[str]):
    """Prompts that are at hand."""

    def __init__(self, prompts: Sequence[str]) -> None:
        self.prompts = list(prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> str:
        return self.prompts[index]


class StickerCaptions(Dataset[str]):
    """Captions of random scenes that state everything, written when they are asked for.

    Args:
        count: how many.
        split, seed: which series of scenes; those of different splits never meet.
        objects: least and most stickers of a scene.
        referring: with sentences that refer to the one before ("It stands on a red disc.").
    """

    def __init__(
        self,
        count: int,
        split: str = "train",
        seed: int = 0,
        objects: tuple[int, int] = (1, 9),
        referring: bool = False,
    ) -> None:
        self.count, self.split, self.seed = count, split, seed
        self.objects, self.referring = objects, referring

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < self.count:
            raise IndexError(index)
        drawn = scene(index, objects=self.objects, split=self.split, seed=self.seed)
        rng = np.random.default_rng([self.seed, index])
        return text_of(caption(drawn, rng, referring=self.referring))


def load_prompts(
    source: str,
    *,
    split: str = "train",
    seed: int = 0,
    count: int = 100_000,
    objects: tuple[int, int] = (1, 9),
    referring: bool = False,
) -> Dataset[str]:
    """Prompts by the name of their source: ``stickers``, or a text or JSONL file (`longalign.prompts`).

    Raises:
        LongalignError: no such file, or no prompts in it.
    """
    if source == STICKERS:
        return StickerCaptions(count, split, seed, objects, referring)
    return ListedPrompts(read_prompt_file(Path(source)))
