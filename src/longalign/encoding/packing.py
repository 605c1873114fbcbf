"""Several texts in one row of an encoder, what they begin with alike only once.

A causal encoder's state of a token depends on the tokens ahead of it in its text and on nothing else. So a
row may hold a tree of tokens in place of one text, if each token has the position that it has in its text and
sees its own ancestors only:

    ids     <sot> a  red cat  dog  blue bird      "a red cat", "a red dog", "a blue bird"
    places    0   1   2   3    3    2    3

Rows are filled to the window, so hardly anything is padded, and every sentence shares its start token and
often its article with others.
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
        ids: of its tokens.
        places: where each stands in its text.
        at: for each text, where its tokens stand in the row.
    """

    ids: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    at: dict[Ids, list[int]] = field(default_factory=dict)

    @property
    def is_one_text(self) -> bool:
        """Whether it is a single text, with or without others that it begins with."""
        return self.places == list(range(len(self.places)))


def pack(texts: Collection[Ids], window: int, alone: Container[Ids] = ()) -> list[Row]:
    """Puts every text into a row: few rows, and then of like length, so that one call takes them unpadded.

    Args:
        window: most tokens of a row. A text that is longer has a row of its own; with 0, so has every text
            that no other begins with.
        alone: texts that begin a row, into which nothing comes but what they begin with.
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
    """Each text into the row of the text before it if there is room, else into a new one."""
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
    """How many tokens two texts begin with alike."""
    for n, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return n
    return min(len(a), len(b))


def row_tensors(rows: Sequence[Row], length: int, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, length) ids and places. What fills a row up continues its last text, as pads do."""
    ids, places = [], []
    for row in rows:
        empty = length - len(row.ids)
        ids.append([*row.ids, *[pad_id] * empty])
        after = row.places[-1] + 1
        places.append([*row.places, *range(after, after + empty)])
    return torch.tensor(ids), torch.tensor(places)


def visible(places: torch.Tensor) -> torch.Tensor:
    """(B, T) places → (B, T, T), true where a token (first T) sees another (second T): an ancestor or itself.

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
