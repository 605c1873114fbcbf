"""Packs several texts into one row of an encoder; common beginnings are encoded only once.

In a causal encoder, the state of a token depends only on the tokens before it. So a row may hold a tree of tokens in
place of one text, if each token keeps its position in its text and attends to its own ancestors only:

    ids     <sot> a  red cat  dog  blue bird      "a red cat", "a red dog", "a blue bird"
    places    0   1   2   3    3    2    3

Rows are filled to the window, so there is little padding. Every sentence shares its start token, and often its article,
with others.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.functional import pad

from longalign.encoding.tokens import Ids


@dataclass(eq=False)
class Row:
    """A tree of tokens, depth first.

    Attributes:
        ids: ids of its tokens.
        places: position of each token in its text.
        at: for each text, the places of its tokens in the row.
    """

    ids: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    at: dict[Ids, list[int]] = field(default_factory=dict)

    @property
    def is_one_text(self) -> bool:
        """Whether the row is a single text, possibly with texts that are beginnings of it."""
        return self.places == list(range(len(self.places)))


def pack(texts: Collection[Ids], window: int, alone: Container[Ids] = ()) -> list[Row]:
    """Puts every text into a row. The rows are few and of similar length, so that one call needs little padding.

    Args:
        window: most tokens of a row. A longer text gets a row of its own. With 0 every text that is not the beginning
            of another gets its own row.
        alone: texts that need a row of their own; only their own beginnings may be in it.
    """
    ordered = sorted(texts, reverse=True)  # neighbours share most, and a text comes before its beginnings
    rows = _fill(ordered, window, alone)
    while window > 0:
        window = min(window, max((len(row.ids) for row in rows), default=0)) - 1
        shorter = _fill(ordered, window, alone)
        if len(shorter) > len(rows):
            break
        rows = shorter
    return rows


def _fill(ordered: Sequence[Ids], window: int, alone: Container[Ids]) -> list[Row]:
    """Puts each text into the row of the text before it if there is room, else into a new row."""
    rows: list[Row] = []
    before: Ids = ()
    is_open = False
    for text in ordered:
        shared = _shared(before, text) if rows else 0
        fits = is_open and len(rows[-1].ids) + len(text) - shared <= window
        if not rows or text in alone or not (fits or shared == len(text)):
            rows.append(Row())
            is_open, shared = text not in alone, 0
        row = rows[-1]
        new = range(len(row.ids), len(row.ids) + len(text) - shared)
        row.at[text] = [*(row.at[before][:shared] if shared else ()), *new]
        row.ids += text[shared:]
        row.places += range(shared, len(text))
        before = text
    return rows


def _shared(a: Ids, b: Ids) -> int:
    """The number of tokens that two texts have in common at the beginning."""
    for n, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return n
    return min(len(a), len(b))


def row_tensors(rows: Sequence[Row], length: int, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, length) ids and places. Pads continue the last text of a row."""
    ids, places = [], []
    for row in rows:
        empty = length - len(row.ids)
        ids.append([*row.ids, *[pad_id] * empty])
        after = row.places[-1] + 1
        places.append([*row.places, *range(after, after + empty)])
    return torch.tensor(ids), torch.tensor(places)


def visible(places: torch.Tensor) -> torch.Tensor:
    """(B, T) places → (B, T, T), true where a token (first T) attends to another (second T): an ancestor or itself.

    In depth-first order, j is an ancestor of i when all tokens behind j up to i stand at later places than j.
    """
    n_tokens = places.shape[1]
    later = torch.ones(n_tokens, n_tokens, dtype=torch.bool).triu(1)  # (i, j), j behind i
    up_to_i = places[:, None].expand(-1, n_tokens, -1).masked_fill(later, n_tokens)  # (B, i, j)
    least_from_j = up_to_i.flip(-1).cummin(dim=-1).values.flip(-1)
    least_behind_j = pad(least_from_j[..., 1:], (0, 1), value=n_tokens)
    return (places[:, None] < least_behind_j) & ~later


def tree_mask(places: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, T) places → (B, 1, T, T), what to add to attention scores: 0 where `visible`, else the least number."""
    hidden = ~visible(places)[:, None]
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
