"""Text → token ids, with the place of each token in the text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from longalign.encoding.cleaning import clean
from longalign.errors import LongalignError

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token ids of one text of any length.

    Attributes:
        ids: ids of all tokens, with the special tokens around the text.
        starts: for each token between the special ones, its first character in the text.
        last: for each of them, its last character (the same one for the tokens within a character).
        before, after: number of special tokens before and after the text: 1 and 1 for CLIP, 0 and 1 for T5.
    """

    ids: Ids
    starts: tuple[int, ...]
    last: tuple[int, ...]
    before: int
    after: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def count(self) -> int:
        """Tokens between the special ones."""
        return len(self.starts)

    def fit(self, window: int) -> Tokens:
        """The first tokens, at most ``window`` with the special ones, as a tokenizer truncates."""
        if len(self) <= window:
            return self
        room = window - self.before - self.after
        ids = self.ids[: self.before + room] + self.ids[len(self) - self.after :]
        return Tokens(ids, self.starts[:room], self.last[:room], self.before, self.after)

    def cut_at(self, window: int) -> int | None:
        """The first character that `fit` does not keep; None if it keeps all."""
        return None if len(self) <= window else self.starts[window - self.before - self.after]


def tokenise(tokenizer: Any, texts: Iterable[str], before: int, *, repair: bool = False) -> dict[str, Tokens]:
    """Tokenises each different text once, without a limit or a warning about the length.

    Textual-inversion tokens of several vectors (``<toy>``, ``<toy>_1``, …) are expanded as in the pipelines.

    Args:
        before: number of special tokens before a text (1 for CLIP, 0 for T5).
        repair: tokenise the text as `longalign.encoding.cleaning.clean` repairs it. The places are those in the text as
            it was given.

    Raises:
        LongalignError: the tokenizer gives no character offsets.
    """
    if not tokenizer.is_fast:
        raise LongalignError(
            f"{type(tokenizer).__name__} gives no character offsets: load the tokenizer with "
            "AutoTokenizer.from_pretrained, from a folder with a tokenizer.json"
        )
    unique = list(dict.fromkeys(texts))
    after = len(tokenizer("")["input_ids"]) - before
    repaired = [clean(text) if repair else None for text in unique]
    encoded = tokenizer(
        [text if of is None else of.text for text, of in zip(unique, repaired, strict=True)],
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,
        truncation=False,
    )
    vectors_of = _several_vectors(tokenizer)
    result = {}
    for text, of, ids, offsets in zip(
        unique, repaired, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        inner = range(before, len(ids) - after)
        repeat = [len(vectors_of.get(ids[i], (0,))) for i in inner]
        starts = [offsets[i][0] for i, n in zip(inner, repeat, strict=True) for _ in range(n)]
        last = [
            max(offsets[i][1] - 1, offsets[i][0])
            for i, n in zip(inner, repeat, strict=True)
            for _ in range(n)
        ]
        if of is not None and of.text != text:
            starts, last = [of.start(at) for at in starts], [of.last(at) for at in last]
        expanded = [vector for token in ids for vector in vectors_of.get(token, (token,))]
        result[text] = Tokens(tuple(expanded), tuple(starts), tuple(last), before, after)
    return result


def _several_vectors(tokenizer: Any) -> dict[int, list[int]]:
    """Id of a textual-inversion token → the ids of its vectors, for those that have more than one."""
    added: dict[str, int] = tokenizer.added_tokens_encoder
    vectors_of = {}
    for token, token_id in added.items():
        vectors = [token_id]
        while (following := added.get(f"{token}_{len(vectors)}")) is not None:
            vectors.append(following)
        if len(vectors) > 1:
            vectors_of[token_id] = vectors
    return vectors_of


def segments_of(tokens: Tokens, segment_starts: Sequence[int]) -> list[int]:
    """For each id the segment of the whole text that it lies in; −1 for special tokens.

    ``segment_starts`` are the ascending first characters of the segments.
    """
    inner = []
    segment = 0
    for last in tokens.last:
        while segment + 1 < len(segment_starts) and segment_starts[segment + 1] <= last:
            segment += 1
        inner.append(segment)
    return [-1] * tokens.before + inner + [-1] * tokens.after


def masked_rows(
    ids: Ids, length: int, hidden: Sequence[Sequence[int]], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, length) ids of one text, R times, and masks that hide other places of it in each row; pads are read."""
    rows, mask = pad_ids([ids] * len(hidden), length, pad_id)
    mask[:] = 1
    for row, places in enumerate(hidden):
        mask[row, list(places)] = 0
    return rows, mask


def pad_ids(texts: Sequence[Ids], length: int, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, length) ids and attention mask."""
    ids = torch.tensor([[*text, *[pad_id] * (length - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    return ids, mask
