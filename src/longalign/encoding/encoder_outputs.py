"""Encoder outputs for all texts of a job; each text is encoded once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from longalign.encoding.adapter import TextAdapter
from longalign.encoding.cache import EncodingCache
from longalign.encoding.layout import bank_index, tokens_needed
from longalign.encoding.options import Pooled
from longalign.encoding.reading import Reading
from longalign.encoding.strategy import ConcatRule
from longalign.encoding.t5 import T5Encoder
from longalign.encoding.tokens import Ids
from longalign.encoding.towers import Need, Tower


class ClipBank:
    """One CLIP's states of all segments, stacked behind pad*, and its pooled vectors.

    Args:
        k: place of this CLIP among the model's CLIPs.
        rule: how segments are joined; None if only pooled vectors are needed.
        pooled: which pooled vector is needed; None: this CLIP's pooled vector is not needed.
    """

    def __init__(
        self,
        tower: Tower,
        k: int,
        readings: Sequence[Reading],
        rule: ConcatRule | None,
        pooled: Pooled | None,
        batch_size: int,
        cache: EncodingCache | None,
    ) -> None:
        self.k = k
        self.policy = pooled
        needs: dict[Ids, Need] = {}
        for reading in readings:
            wanted = [(ids, Need(0, pooled=True)) for ids in self._pooled_from(reading)]
            if rule is not None:
                for segment, own in enumerate(reading.pieces[k]):
                    ids, ahead = reading.in_row(k, segment)
                    wanted.append((ids, Need(ahead + tokens_needed(own, rule, tower.window))))
            for ids, need in wanted:
                needs[ids] = needs.get(ids, Need(0)) | need
        found = tower.encode(needs, batch_size, cache)
        self.pooled = {ids: states.pooled for ids, states in found.items() if states.pooled is not None}
        if rule is not None:
            tokens = [states.tokens for states in found.values()]
            self.states = torch.cat([tower.pad_star(rule.pad_star)[None], *tokens])  # (1 + Σn, D)
            self.start: dict[Ids, int] = {}
            at = 1
            for ids, states in found.items():
                self.start[ids] = at
                at += len(states.tokens)

    def embeds(self, readings: Sequence[Reading], length: int) -> torch.Tensor:
        """(B, length, D)"""
        rows = []
        for reading in readings:
            pieces = reading.pieces[self.k]
            in_rows = [reading.in_row(self.k, segment) for segment in range(len(pieces))]
            starts = [self.start[ids] for ids, _ in in_rows]
            ahead = [count for _, count in in_rows]
            own = [tokens.count for tokens in pieces]
            rows.append(bank_index(reading.row, length, starts, ahead, own, reading.joint))
        return self.states[torch.tensor(rows, device=self.states.device)]

    def pooled_vectors(self, readings: Sequence[Reading]) -> torch.Tensor:
        """(B, P)"""
        rows = [torch.stack([self.pooled[ids] for ids in self._pooled_from(r)]).mean(dim=0) for r in readings]
        return torch.stack(rows)

    def _pooled_from(self, reading: Reading) -> list[Ids]:
        """The texts whose pooled vectors are averaged."""
        if self.policy == "whole":
            return [reading.whole[self.k].ids]
        pieces = [tokens.ids for tokens in reading.pieces[self.k]]
        return {"first": pieces[:1], "mean": pieces, None: []}[self.policy]


class T5Bank:
    """T5's states of whole prompts at their padded lengths; the adapter, if any, is applied to them."""

    def __init__(
        self,
        t5: T5Encoder,
        wanted: Collection[tuple[Reading, int]],
        adapter: TextAdapter | None,
        batch_size: int,
        cache: EncodingCache | None,
    ) -> None:
        self.adapter = adapter
        self.batch_size = batch_size
        texts = [(reading.t5.ids, length) for reading, length in wanted if reading.t5 is not None]
        self.states = t5.encode(texts, batch_size, cache)

    def embeds(self, readings: Sequence[Reading], length: int) -> torch.Tensor:
        """(B, length, D)"""
        states = torch.stack([self.states[r.t5.ids, length] for r in readings if r.t5 is not None])
        if self.adapter is None:
            return states
        states = states.to(self.adapter.device, self.adapter.dtype)
        return torch.cat([self.adapter(part) for part in states.split(self.batch_size)])
