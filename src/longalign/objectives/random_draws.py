"""Random numbers of a training step, independent of the number of processes and of the size of micro-batches.

Each number is a function of the run's seed and the step. Numbers that all rows share (such as the place of a crop)
depend on nothing else; numbers of one row (such as its noise) also depend on the row's place in the step's batch.
Dropout is different: layers take it from torch's random state, which each process has of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_COMMON, _ROW, _FLIP, _CAPTION = 3, 4, 6, 7  # the loop's own random states have 0, 1, 2 and 5 in this place


@dataclass(frozen=True)
class Draws:
    """The random numbers of one micro-batch.

    Attributes:
        seed: the seed of the run.
        step: number of the step, from 0.
        first: place of the micro-batch's first row in the step's batch.
        batch_size: rows of the step's batch, over all processes and micro-batches.
    """

    seed: int
    step: int
    first: int
    batch_size: int

    @classmethod
    def now(cls, rows: int) -> Draws:
        """Random numbers from torch's random state, for a batch of ``rows`` rows."""
        return cls(int(torch.randint(2**62, ())), 0, 0, rows)

    def common(self) -> torch.Generator:
        """A new generator, the same for all rows of the step."""
        return _generator(self.seed, _COMMON, self.step)

    def rows(self, count: int) -> list[torch.Generator]:
        """New generators, one for each of this micro-batch's ``count`` rows."""
        return [_generator(self.seed, _ROW, self.step, self.first + row) for row in range(count)]

    def flips(self, count: int) -> Tensor:
        """(count,) bool, each true with probability ½: which rows are mirrored. Other numbers are as without it."""
        generators = [_generator(self.seed, _FLIP, self.step, self.first + row) for row in range(count)]
        return uniform(generators) < 0.5

    def captions(self, count: int) -> Tensor:
        """(count,) in [0, 1): which of a row's captions is taken. Other numbers are as without it."""
        return uniform([_generator(self.seed, _CAPTION, self.step, self.first + row) for row in range(count)])

    # u_k = (π(k) + v_k) / n for a permutation π of 0 … n − 1 and v_k uniform in [0, 1)
    def stratified(self, count: int, copies: int, generator: torch.Generator) -> Tensor:
        """Stratified uniform numbers: one in each of n = batch_size · copies equal parts of [0, 1).

        They give less noise in the gradient than independent numbers. Their order is random, since neighbouring rows
        may have something in common (such as a padded length).

        Args:
            count: rows of this micro-batch; row i has places i · copies … (i + 1) · copies − 1.
            generator: `common`.

        Returns:
            (count · copies,) numbers of this micro-batch.
        """
        n = self.batch_size * copies
        u = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
        return u[self.first * copies : (self.first + count) * copies]


def normal(generators: Sequence[torch.Generator], *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Standard normal (len(generators), *shape), one row a generator; on the CPU, so that devices do not differ."""
    return torch.stack([torch.randn(shape, generator=g, dtype=dtype) for g in generators])


def uniform(generators: Sequence[torch.Generator]) -> Tensor:
    """Uniform (len(generators),) in [0, 1), one number a generator."""
    return torch.stack([torch.rand((), generator=g) for g in generators])


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """numpy's generator with a seed drawn from torch's."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))


def _generator(*key: int) -> torch.Generator:
    words = np.random.SeedSequence(key).generate_state(2)
    return torch.Generator().manual_seed((int(words[0]) << 31) + int(words[1]))
