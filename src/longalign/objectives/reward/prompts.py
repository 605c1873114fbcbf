"""Prompts by number: all that reward fine-tuning learns from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image
from torch.utils.data import Dataset

from longalign.data.prompts import read_prompt_file
from longalign.data.sources import (
    Objects,
)
from longalign.worlds import WORLDS, world


class Prompts(Dataset[str]):
    """Prompts that are at hand."""

    def __init__(self, prompts: Sequence[str]) -> None:
        self.prompts = list(prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> str:
        return self.prompts[index]

    def picture(self, index: int) -> Image.Image | None:
        """What the prompt is a caption of, where that is known."""
        return None


class SceneCaptions(Prompts):
    """Captions of the pictures of a world, written when they are asked for."""

    def __init__(self, scenes: Any) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> str:
        return cast("str", self.scenes.text(index))

    def picture(self, index: int) -> Image.Image:
        return cast("Image.Image", self.scenes.picture(index))


def load_prompts(
    source: str,
    *,
    split: str = "train",
    seed: int = 0,
    count: int = 100_000,
    objects: Objects | Sequence[Objects] = (1, 9),
    referring: float = 0.0,
) -> Prompts:
    """Prompts by the name of their source: a world such as ``stickers``, or a text or JSONL file (`data/prompts.py`).

    Args:
        split, seed, count, objects, referring: of `longalign.worlds.World.pictures`; one range of ``objects`` will do.

    Raises:
        LongalignError: no such file, or no prompts in it.
    """
    if source in WORLDS:
        ranges = [objects] if isinstance(objects[0], int) else objects
        return SceneCaptions(world(source).pictures(count, split, seed, tuple(ranges), referring))  # type: ignore[arg-type]
    return Prompts(read_prompt_file(Path(source)))
