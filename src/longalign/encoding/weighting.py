"""How the weights that a prompt gives to words act on token states, as the tools do it whose notation it is.

``z`` are the states of one row (a window, or a segment with its start token), ``w`` the weights of its tokens; special
tokens and pads have weight 1.

A1111 (`modules/sd_hijack_clip.py`, emphasis "Original"): the states are multiplied and then brought back to their mean,
taken over the whole row::

    z' = w z · mean(z) / mean(w z)

compel (`EmbeddingsProvider.get_embeddings_for_weighted_prompt_fragments`, downweighting by a mask): the states move
away from those of the empty prompt, z_0. Each phrase i with w_i < 1 moves the result towards the row in which that
phrase is masked out, z without i::

    z'       = z_0 + w (z − z_0)
    z''      = (z' + Σ_i λ_i z'_without_i) / (1 + Σ_i λ_i),   λ_i = tan((1 − w_i) π/2)

Both leave pooled vectors as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from longalign.encoding.source import Marks
from longalign.encoding.syntax import Syntax
from longalign.encoding.tokens import Ids

_LEAST = 1e-5  # of a weight in compel; tan(π/2) is infinite


@dataclass(frozen=True)
class Weights:
    """The weights of a row of tokens.

    Attributes:
        syntax: the notation, which decides how weights act.
        marks: of the text's tokens.
        first: the place of the first of them in the row.
    """

    syntax: Syntax
    marks: Marks
    first: int


class Encoder(Protocol):
    """What compel's rule asks of a text encoder."""

    def empty(self, length: int) -> Tensor:
        """(length, D) states of the empty prompt."""

    def masked(self, ids: Ids, length: int, hidden: Sequence[Sequence[int]]) -> Tensor:
        """(R, length, D) states of one row of tokens, with other places of it masked in each of R rows."""


def weigh(
    encoder: Encoder,
    ids: Ids,
    states: Tensor,
    weights: Weights,
    adapt: Callable[[Tensor], Tensor] = lambda states: states,
) -> Tensor:
    """(n, D) states of a row → the same with weights on them.

    Args:
        encoder: the one that gave the states.
        ids: the row; pads follow where there are more states than ids.
        adapt: what the encoder's states go through before they are weighted, (R, n, D') → (R, n, D).
    """
    marks = weights.marks[: len(states) - weights.first]
    w = states.new_ones(len(states), 1)
    w[weights.first : weights.first + len(marks), 0] = torch.tensor([weight for weight, _ in marks]).to(
        states
    )
    if weights.syntax == "a1111":
        # z' = w z · mean(z) / mean(w z)
        return states * w * (states.mean() / (states * w).mean())
    z_0 = adapt(encoder.empty(len(states))[None])[0]
    downweighted: dict[int, list[int]] = {}  # the places of each phrase with a weight below 1
    factors = [1.0]
    for place, (weight, run) in enumerate(marks, weights.first):
        if weight < 1:
            if run not in downweighted:
                factors.append(math.tan((1 - max(weight, _LEAST)) * math.pi / 2))  # λ_i
            downweighted.setdefault(run, []).append(place)
    rows = states[None]  # (1 + phrases, n, D)
    if downweighted:
        without = encoder.masked(ids[: len(states)], len(states), list(downweighted.values()))
        rows = torch.cat([rows, adapt(without)])
    rows = torch.where(w == 1, rows, z_0 + w * (rows - z_0))  # z itself to the bit where w is 1
    share = torch.tensor(factors).to(states) / sum(factors)
    return rows[0] if len(rows) == 1 else torch.einsum("r,rnd->nd", share, rows)
