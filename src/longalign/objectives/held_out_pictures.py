"""Pictures that a model under training draws of held-out captions: their seeds, and what the oracle says of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from PIL import Image

from longalign.worlds import World

_SEED = 20_000  # picture i has the seed _SEED + i, in every evaluation and run


def picture_seeds(numbers: Iterable[int]) -> list[int]:
    """The seeds of the pictures of some held-out captions, the same in every evaluation and run."""
    return [_SEED + number for number in numbers]


def picture_generators(numbers: Iterable[int]) -> list[torch.Generator]:
    """A new generator for each of these pictures, with its seed of `picture_seeds`."""
    return [torch.Generator().manual_seed(seed) for seed in picture_seeds(numbers)]


def oracle_counts(oracle: World, image: Image.Image, sentences: Sequence[str]) -> list[float]:
    """How many sentences the oracle can judge, how many of these are true, and the score of the picture's looks.

    A sentence that the oracle finds unclear counts as judged and not as true.
    """
    marks = [mark for mark in oracle.judge(image, list(sentences)) if mark != "unjudged"]
    return [float(len(marks)), float(marks.count("true")), float(oracle.looks(image))]
