"""Encoder outputs for all texts of a job; each text is encoded once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from longalign.encoding.adapter import TextAdapter
from longalign.encoding.cache import EncodingCache
from longalign.encoding.layout import bank_index, tokens_needed
from longalign.encoding.options import Pooled
from longalign.encoding.reading import ClipReading, Reading
from longalign.encoding.strategy import ConcatRule
from longalign.encoding.syntax import Syntax
from longalign.encoding.t5 import T5Encoder
from longalign.encoding.tokens import Ids
from longalign.encoding.towers import Need, Tower
from longalign.encoding.weighting import Weights, weigh

Row = tuple[Ids, Weights | None]


class ClipBank:
    """One CLIP's states of all segments, stacked behind pad*, and its pooled vectors.

    Args:
        k: place of this CLIP among the model's CLIPs.
        rule: how segments are joined; None if only pooled vectors are needed.
        pooled: which pooled vector is needed; None: this CLIP's pooled vector is not needed.
        syntax: of the prompts.
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
        syntax: Syntax,
    ) -> None:
        self.k, self.syntax = k, syntax
        self.policy = pooled
        needs: dict[Ids, Need] = {}
        rows: dict[Row, int] = {}  # and how many of its states are needed
        for reading in (reading.clips[k] for reading in readings):
            wanted = [(ids, Need(0, pooled=True)) for ids in self._pooled_from(reading)]
            if rule is not None:
                for segment, own in enumerate(reading.pieces[k]):
                    (ids, weights), ahead = self._row(reading, segment)
                    needed = ahead + tokens_needed(own, rule, tower.window)
                    wanted.append((ids, Need(needed)))
                    rows[ids, weights] = max(needed, rows.get((ids, weights), 0))
            for ids, need in wanted:
                needs[ids] = needs.get(ids, Need(0)) | need
        found = tower.encode(needs, batch_size, cache)
        self.pooled = {ids: states.pooled for ids, states in found.items() if states.pooled is not None}
        if rule is not None:
            bank = [tower.pad_star(rule.pad_star)[None]]  # (1 + Σn, D)
            self.start: dict[Row, int] = {}
            at = 1
            for (ids, weights), count in rows.items():
                self.start[ids, weights] = at
                states = found[ids].tokens[:count]
                bank.append(states if weights is None else weigh(tower, ids, states, weights))
                at += len(states)
            self.states = torch.cat(bank)

    def embeds(self, readings: Sequence[Reading], length: int) -> torch.Tensor:
        """(B, length, D)"""
        rows = []
        for reading in (reading.clips[self.k] for reading in readings):
            pieces = reading.pieces[self.k]
            in_rows = [self._row(reading, segment) for segment in range(len(pieces))]
            starts = [self.start[row] for row, _ in in_rows]
            ahead = [count for _, count in in_rows]
            own = [tokens.count for tokens in pieces]
            rows.append(bank_index(reading.row, length, starts, ahead, own, reading.joint))
        return self.states[torch.tensor(rows, device=self.states.device)]

    def pooled_vectors(self, readings: Sequence[Reading]) -> torch.Tensor:
        """(B, P)"""
        clips = [reading.clips[self.k] for reading in readings]
        return torch.stack(
            [torch.stack([self.pooled[ids] for ids in self._pooled_from(clip)]).mean(dim=0) for clip in clips]
        )

    def _row(self, reading: ClipReading, segment: int) -> tuple[Row, int]:
        """The row in which a segment is read, and how many tokens of others stand before its own."""
        ids, ahead = reading.in_row(self.k, segment)
        marks = reading.marks[self.k][segment]
        return (ids, None if marks is None else Weights(self.syntax, marks, 1 + ahead)), ahead

    def _pooled_from(self, reading: ClipReading) -> list[Ids]:
        """The texts whose pooled vectors are averaged."""
        if self.policy == "whole":
            return [reading.whole[self.k].ids]
        if self.policy is None:
            return []
        pieces = [tokens.ids for tokens in reading.pieces[self.k]]
        return pieces[:1] if self.policy == "first" else pieces


class T5Bank:
    """T5's states of whole prompts at their padded lengths; the adapter, if any, is applied to them."""

    def __init__(
        self,
        t5: T5Encoder,
        wanted: Collection[tuple[Reading, int]],
        adapter: TextAdapter | None,
        batch_size: int,
        cache: EncodingCache | None,
        syntax: Syntax,
    ) -> None:
        self.t5, self.adapter = t5, adapter
        self.batch_size, self.syntax = batch_size, syntax
        texts = [(reading.t5.ids, length) for reading, length in wanted if reading.t5 is not None]
        self.states = t5.encode(texts, batch_size, cache)

    def embeds(self, readings: Sequence[Reading], length: int) -> torch.Tensor:
        """(B, length, D)"""
        states = self._adapted(
            torch.stack([self.states[r.t5.ids, length] for r in readings if r.t5 is not None])
        )
        if not any(r.t5_marks for r in readings):
            return states
        rows = [
            row
            if reading.t5 is None or reading.t5_marks is None
            else weigh(self.t5, reading.t5.ids, row, Weights(self.syntax, reading.t5_marks, 0), self._adapted)
            for reading, row in zip(readings, states, strict=True)
        ]
        return torch.stack(rows)

    def _adapted(self, states: torch.Tensor) -> torch.Tensor:
        if self.adapter is None:
            return states
        states = states.to(self.adapter.device, self.adapter.dtype)
        return torch.cat([self.adapter(part) for part in states.split(self.batch_size)])
