"""Captioned pictures of the sticker world, as a source of training data."""

from __future__ import annotations

import numpy as np
from PIL import Image

from longalign.data.entries import CaptionedPicture, Source
from longalign.data.sources import Objects
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import Scene, render, scene


class StickerScenes(Source):
    """Random scenes with captions that state everything, drawn when they are asked for.

    Args:
        count: how many.
        split, seed: which series of scenes; those of different splits never meet.
        objects: least and most stickers of a scene; of several such ranges scenes take one after the other.
        referring: share of captions with sentences that refer to the one before ("It stands on a red disc.").
        retold: how often a caption says everything, each time in other words: for texts longer than a scene has facts.
    """

    square = True

    def __init__(
        self,
        count: int,
        split: str = "train",
        seed: int = 0,
        objects: tuple[Objects, ...] = ((1, 9),),
        referring: float = 0.0,
        retold: int = 1,
    ) -> None:
        self.count, self.split, self.seed = count, split, seed
        self.objects, self.referring, self.retold = objects, referring, retold

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> CaptionedPicture:
        return CaptionedPicture(self.picture(index), self.text(index), f"scene {index}")

    def picture(self, index: int) -> Image.Image:
        """The scene, drawn."""
        return render(self._scene(index))

    def text(self, index: int) -> str:
        """Its caption; nothing is drawn for it."""
        rng = np.random.default_rng([self.seed, index])
        refers = bool(rng.random() < self.referring)
        told = [caption(self._scene(index), rng, referring=refers) for _ in range(self.retold)]
        return " ".join(map(text_of, told))

    def _scene(self, index: int) -> Scene:
        if not 0 <= index < self.count:
            raise IndexError(index)
        objects = self.objects[index % len(self.objects)]
        return scene(index, objects=objects, split=self.split, seed=self.seed)
