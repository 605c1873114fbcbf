"""Random numbers of a step that do not depend on how many processes share it, nor on the size of its micro-batches.

Every number is a function of the run's seed, the step, and either nothing else (what all rows have in common, such as
where a crop lies) or a row's place in the step's whole batch (its noise). What layers draw themselves (dropout) is no
such function: it comes from torch's random state, which each process has of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_COMMON, _ROW = 3, 4  # the loop's own random states have 0, 1 and 2 in this place


@dataclass(frozen=True)
class Draws:
    """The random numbers of one micro-batch.

    Attributes:
        seed: the run's.
        first: the place of its first row in the step's whole batch.
        batch_size: rows of the step's whole batch, over all processes and micro-batches.
    """

    seed: int
    step: int
    first: int
    batch_size: int

    @classmethod
    def now(cls, rows: int) -> Draws:
        """From torch's random state, for ``rows`` rows that are a batch of their own."""
        return cls(int(torch.randint(2**62, ())), 0, 0, rows)

    def common(self) -> torch.Generator:
        """From its beginning, the same for all rows of the step."""
        return _generator(self.seed, _COMMON, self.step)

    def rows(self, count: int) -> list[torch.Generator]:
        """Of each of this micro-batch's ``count`` rows its own, from its beginning."""
        return [_generator(self.seed, _ROW, self.step, self.first + row) for row in range(count)]

    # u_k = (π(k) + v_k) / n for a permutation π of 0 … n − 1 and v_k uniform in [0, 1)
    def stratified(self, count: int, copies: int, generator: torch.Generator) -> Tensor:
        """(count · copies,) in [0, 1): the step's whole batch has one in each of n = batch_size · copies equal parts.

        Less noise in the gradient than with independent ones. In random order, since rows that have something in common
        (a padded length) may come together.

        Args:
            count: rows of this micro-batch; row i has places i · copies … (i + 1) · copies − 1.
            generator: `common`.
        """
        n = self.batch_size * copies
        u = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
        return u[self.first * copies : (self.first + count) * copies]


def normal(generators: Sequence[torch.Generator], *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """(len(generators), *shape), each row from its own, on the CPU so that it is the same for every device."""
    return torch.stack([torch.randn(shape, generator=g, dtype=dtype) for g in generators])


def uniform(generators: Sequence[torch.Generator]) -> Tensor:
    """(len(generators),) in [0, 1), each from its own."""
    return torch.stack([torch.rand((), generator=g) for g in generators])


class Drawing:
    """What objectives that draw random numbers share."""

    _draws: Draws | None = None

    def reseed(self, draws: Draws) -> None:
        """The loop calls this before `backward`, with the random numbers of the micro-batch that comes."""
        self._draws = draws

    def draws_of(self, rows: int) -> Draws:
        """Those that `reseed` was given, once; without it, ones from torch's random state."""
        draws, self._draws = self._draws or Draws.now(rows), None
        return draws


def _generator(*key: int) -> torch.Generator:
    words = np.random.SeedSequence(key).generate_state(2)
    return torch.Generator().manual_seed((int(words[0]) << 31) + int(words[1]))
