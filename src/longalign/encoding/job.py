"""`Job`, one call of `encode`: reads the texts, runs each encoder once, joins the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from longalign.encoding.conditioning import Conditioning, Truncation
from longalign.encoding.encoder_outputs import ClipBank, T5Bank
from longalign.encoding.layout import segment_row
from longalign.encoding.options import Options, check_texts
from longalign.encoding.plain import encode_plain
from longalign.encoding.reading import Reading, lengths, read
from longalign.encoding.segments import Segmenter
from longalign.encoding.t5 import T5Encoder
from longalign.encoding.text_parts import TextParts, run_device
from longalign.encoding.tokens import segments_of
from longalign.encoding.towers import Tower
from longalign.errors import LongalignError
from longalign.runtime import inference

Shape = tuple[int, int]  # padded lengths of the CLIP part and of the T5 part
_T5_SEGMENT = 512  # tokens of a segment for a model whose only encoder is a T5


class Job:
    """Checks and reads the texts; `run` encodes them.

    Attributes:
        negatives: one for each prompt; None if the family uses zeros.
    """

    def __init__(
        self,
        pipe_or_parts: Any,
        prompts: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None,
        options: Options,
    ) -> None:
        self.prompts = check_texts(prompts, "prompt")
        if not self.prompts:
            raise LongalignError("no prompts to encode: the list is empty")
        self.options = options
        self.parts = parts = TextParts.of(pipe_or_parts)
        self.strategy = options.strategy_for(parts)
        self.negatives = self._negatives(negative_prompt)
        self.towers = Tower.all_of(parts)
        self.backbone = parts.backbone
        self.pooling = [self.towers[i] for i in self.backbone.pooled_clips]
        self.branch = options.t5 if self.strategy.t5 else None
        if self.branch is None:
            self.t5 = T5Encoder.of(parts)
        else:
            width = sum(tower.model.config.hidden_size for tower in self.towers)
            if self.branch.adapter.config.out_dim != width:
                raise LongalignError(
                    f"the adapter gives states of width {self.branch.adapter.config.out_dim}, but this model's "
                    f"text states have {width}"
                )
            device = run_device(self.branch.encoder, parts.device)
            self.t5 = T5Encoder("t5", self.branch.tokenizer, self.branch.encoder, device)

        self.has_clip = (self.strategy.clip or self.strategy.kind == "plain") and self.backbone.clip_tokens
        # A model without a CLIP reads its T5 alone, which has no window.
        self.encoders: Sequence[Tower | T5Encoder] = self.towers or [t5 for t5 in [self.t5] if t5 is not None]
        self.window = min((tower.window for tower in self.towers), default=_T5_SEGMENT)
        segmenter = options.segments
        if not isinstance(segmenter, Segmenter):
            segmenter = Segmenter(segmenter, self.encoders[0].tokenizer, self.window, options.language)
        want_whole = self.strategy.kind == "plain" or (options.pooled == "whole" and bool(self.pooling))
        texts = [*self.prompts, *(self.negatives or [])]
        self.readings = read(
            texts,
            self.towers,
            self.t5,
            self.strategy,
            self.backbone,
            segmenter,
            want_whole,
            options.max_length,
        )

    def _negatives(self, given: str | Sequence[str] | None) -> list[str] | None:
        if given is None:
            return None if self.parts.zero_negative else [""] * len(self.prompts)
        negatives = check_texts(given, "negative prompt")
        if isinstance(given, str):
            negatives *= len(self.prompts)
        if len(negatives) != len(self.prompts):
            raise LongalignError(
                f"{len(negatives)} negative prompts do not go with {len(self.prompts)} prompts: give one for "
                "all, or one each"
            )
        return negatives

    def groups(self) -> dict[Shape, list[int]]:
        """Padded lengths → places of the prompts that have them."""
        groups: dict[Shape, list[int]] = {}
        for i in range(len(self.prompts)):
            groups.setdefault(self._shape(i), []).append(i)
        return groups

    def _shape(self, i: int) -> Shape:
        if self.strategy.kind == "plain":
            return (self.window if self.has_clip else 0), self.backbone.t5_length
        pair = [self.readings[texts[i]] for texts in (self.prompts, self.negatives) if texts is not None]
        return lengths(pair, self.backbone, self.strategy, self.options.length, self.options.max_length)

    def truncation(self, indices: Iterable[int]) -> tuple[tuple[Truncation, ...], ...]:
        """The text that was cut from these prompts and from their negatives."""
        halves = [(self.prompts, False)] + ([(self.negatives, True)] if self.negatives is not None else [])
        return tuple(
            tuple(
                cut
                for texts, negative in halves
                for cut in self.readings[texts[i]].truncation(texts[i], i, negative)
            )
            for i in indices
        )

    def run(self, groups: Mapping[Shape, Sequence[int]], *, training: bool = False) -> list[Conditioning]:
        """Runs the encoders, then makes one `Conditioning` a group.

        Args:
            training: as far as gradients are on, the encoders get some.
        """
        modules = [tower.model for tower in self.towers]
        modules += [self.t5.model] if self.t5 is not None else []
        modules += [self.branch.adapter] if self.branch is not None else []
        with nullcontext() if training else inference(*modules):
            banks = None if self.strategy.kind == "plain" else Banks(self, groups)
            return [self._conditioning(shape, indices, banks) for shape, indices in groups.items()]

    def _conditioning(self, shape: Shape, indices: Sequence[int], banks: Banks | None) -> Conditioning:
        def half(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
            readings = [self.readings[texts[i]] for i in indices]
            embeds, pooled = self._plain(readings) if banks is None else banks.join(readings, shape)
            rows = [self._segment_of(reading, shape) for reading in readings]
            return embeds, pooled, torch.tensor(rows, device=embeds.device)

        embeds, pooled, segment_of = half(self.prompts)
        if self.negatives is not None:
            negative_embeds, negative_pooled, negative_segment_of = half(self.negatives)
        else:
            negative_embeds = torch.zeros_like(embeds)
            negative_pooled = None if pooled is None else torch.zeros_like(pooled)
            negative_segment_of = torch.full_like(segment_of, -1)
        return Conditioning(
            embeds=embeds,
            pooled=pooled,
            segment_of=segment_of,
            negative_embeds=negative_embeds,
            negative_pooled=negative_pooled,
            negative_segment_of=negative_segment_of,
            truncation=self.truncation(indices),
            segments=tuple(tuple(self.readings[self.prompts[i]].segments) for i in indices),
            family=self.parts.family,
        )

    def _plain(self, readings: Sequence[Reading]) -> tuple[torch.Tensor, torch.Tensor | None]:
        embeds, pooled = [], []
        for first in range(0, len(readings), self.options.batch_size):
            batch = readings[first : first + self.options.batch_size]
            ids = [[reading.whole[k].ids for reading in batch] for k in range(len(self.towers))]
            t5_ids = [reading.t5.ids for reading in batch if reading.t5 is not None]
            states, vectors = encode_plain(self.parts, self.towers, self.t5, ids, t5_ids)
            embeds.append(states)
            pooled += [vectors] if vectors is not None else []
        return torch.cat(embeds), torch.cat(pooled) if pooled else None

    def _segment_of(self, reading: Reading, shape: Shape) -> list[int]:
        starts = [segment.start for segment in reading.segments]
        clip_length, t5_length = shape
        row: list[int] = []
        if self.strategy.kind == "plain" and self.has_clip:
            row = segments_of(reading.whole[0], starts)
            row += [-1] * (clip_length - len(row))
        elif self.has_clip:
            row = segment_row(reading.row, reading.joint, clip_length)
        if reading.t5 is not None:
            row += segments_of(reading.t5, starts)
        return row + [-1] * (clip_length + t5_length - len(row))


class Banks:
    """The states of all encoders for a job; `join` makes rows of them."""

    def __init__(self, job: Job, groups: Mapping[Shape, Sequence[int]]) -> None:
        self.parts, self.backbone = job.parts, job.backbone
        self.has_clip = job.has_clip
        rule = job.strategy.rule if job.has_clip else None
        size, cache = job.options.batch_size, job.options.cache
        readings = list(job.readings.values())
        self.clips = []
        for k, tower in enumerate(job.towers):
            policy = job.options.pooled if tower in job.pooling else None
            self.clips.append(ClipBank(tower, k, readings, rule, policy, size, cache))
        self.t5 = None
        if job.t5 is not None:
            wanted = [
                (job.readings[texts[i]], t5_length)
                for texts in (job.prompts, job.negatives)
                if texts is not None
                for (_, t5_length), indices in groups.items()
                for i in indices
            ]
            self.t5 = T5Bank(job.t5, wanted, job.branch.adapter if job.branch else None, size, cache)
        first, last = job.encoders[0], job.encoders[-1]
        self.dtype, self.device = last.model.dtype, first.device

    def join(self, readings: Sequence[Reading], shape: Shape) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, L, D) embeddings and (B, P) pooled vectors, joined as the family's pipeline joins them."""
        clip_length, t5_length = shape
        pooling = [
            bank.pooled_vectors(readings).to(self.device) for bank in self.clips if bank.policy is not None
        ]
        pooled = torch.cat(pooling, dim=-1) if pooling else None
        along: list[torch.Tensor] = []  # parts of the sequence
        if self.has_clip:
            states = [bank.embeds(readings, clip_length).to(self.device) for bank in self.clips]
            along.append(torch.cat(states, dim=-1).to(self.dtype))  # (B, Lc, D1 + D2)
        if self.t5 is not None:
            along.append(self.t5.embeds(readings, t5_length).to(self.device))  # (B, Lt, D)
        elif self.backbone.t5 is not None:
            assert self.parts.joint_width is not None  # TextParts checks this
            along.append(along[0].new_zeros(len(readings), t5_length, self.parts.joint_width))
        return self.backbone.join(along, self.dtype), pooled
