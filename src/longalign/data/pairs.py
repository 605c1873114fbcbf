"""Pairs of pictures and which of them is preferred: what preference models learn from (LongAlign, §2.2, §3.2)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from longalign.errors import LongalignError


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two pictures made for one prompt.

    Attributes:
        image_a, image_b: uint8 (H, W, 3), each of its own size.
        prompt: what was asked for.
        preferred: 1 where a is preferred, 0 where b is, ½ for a tie.
        caption_a, caption_b: long captions of what each picture shows; None where there are none.
        true_a, false_a, true_b, false_b: sentences known to be true, or false, of each picture, if any. False ones
            that differ from true ones in one word teach the most.
    """

    image_a: np.ndarray
    image_b: np.ndarray
    prompt: str
    preferred: float
    caption_a: str | None = None
    caption_b: str | None = None
    true_a: tuple[str, ...] = ()
    false_a: tuple[str, ...] = ()
    true_b: tuple[str, ...] = ()
    false_b: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RatedPair(Pair):
    """A pair with its known factors: truth from 0 to 1, looks from −1 (worst) to 0 (clean)."""

    truth_a: float
    truth_b: float
    looks_a: float
    looks_b: float


class PreferenceData(Dataset[Pair]):
    """Pairs by number, read or drawn when they are asked for."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Pair: ...

    @abstractmethod
    def texts(self, index: int) -> list[str]:
        """The long captions of a pair, else its prompt, without its pictures."""
        ...

    def without_captions(self) -> str | None:
        """Where the first pair is that lacks a long caption, in words; None where all pairs have both."""
        return None


def check_labels(preferred: Sequence[float], name: str) -> None:
    """Raises `LongalignError` where there is nothing to learn from: no pair at all, or ties only."""
    if not len(preferred):
        raise LongalignError(f"{name}: holds no pair")
    if all(y == 0.5 for y in preferred):
        raise LongalignError(
            f"{name}: all {len(preferred)} pairs are ties, so there is no preference to learn: check the labels"
        )
