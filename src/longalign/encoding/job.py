"""One encoding from beginning to end: read the texts, run each encoder once, put the rows together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.functional import pad

from longalign.encoding.banks import ClipBank, T5Bank
from longalign.encoding.conditioning import Conditioning, Truncation
from longalign.encoding.layout import segment_row
from longalign.encoding.options import Options, check_texts
from longalign.encoding.parts import TextParts, run_device
from longalign.encoding.plain import SD3_T5_LENGTH, encode_plain
from longalign.encoding.reading import Reading, lengths, read
from longalign.encoding.t5 import T5Encoder
from longalign.encoding.tokens import segments_of
from longalign.encoding.towers import Tower, inference
from longalign.errors import LongalignError
from longalign.segments import Segmenter

Shape = tuple[int, int]  # padded lengths of the CLIP part and of the T5 part


class Job:
    """Checks and reads the texts; `run` encodes them.

    Attributes:
        negatives: one a prompt; None where the family wants zeros.
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
        # SDXL pools with its last CLIP, SD3 with both.
        self.pooling = {"sd15": [], "sdxl": self.towers[-1:], "sd3": self.towers}[parts.family]
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

        self.window = min(tower.window for tower in self.towers)
        segmenter = options.segments
        if not isinstance(segmenter, Segmenter):
            segmenter = Segmenter(segmenter, self.towers[0].tokenizer, self.window, options.language)
        want_whole = self.strategy.kind == "plain" or (options.pooled == "whole" and bool(self.pooling))
        texts = [*self.prompts, *(self.negatives or [])]
        self.readings = read(
            texts, self.towers, self.t5, self.strategy, segmenter, want_whole, options.max_length
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
        """Which prompts have which padded lengths."""
        groups: dict[Shape, list[int]] = {}
        for i in range(len(self.prompts)):
            groups.setdefault(self._shape(i), []).append(i)
        return groups

    def _shape(self, i: int) -> Shape:
        if self.strategy.kind == "plain":
            return self.window, SD3_T5_LENGTH if self.parts.family == "sd3" else 0
        pair = [self.readings[texts[i]] for texts in (self.prompts, self.negatives) if texts is not None]
        return lengths(pair, self.parts, self.strategy, self.options.length, self.options.max_length)

    def truncation(self, indices: Iterable[int]) -> tuple[tuple[Truncation, ...], ...]:
        """What was cut of these prompts and of their negatives."""
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
        if self.strategy.kind == "plain":
            row = segments_of(reading.whole[0], starts)
            row += [-1] * (clip_length - len(row))
        elif self.strategy.clip:
            row = segment_row(reading.row, reading.joint, clip_length)
        if reading.t5 is not None:
            row += segments_of(reading.t5, starts)
        return row + [-1] * (clip_length + t5_length - len(row))


class Banks:
    """All encoders' states for a job, and how a family joins them."""

    def __init__(self, job: Job, groups: Mapping[Shape, Sequence[int]]) -> None:
        self.parts = job.parts
        self.has_clip = job.strategy.clip
        rule = job.strategy.rule if job.strategy.clip else None
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
        self.dtype = job.towers[-1].model.dtype
        self.device = job.towers[0].device

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
        elif self.parts.family == "sd3":
            assert self.parts.joint_width is not None  # TextParts sees to it
            along.append(along[0].new_zeros(len(readings), t5_length, self.parts.joint_width))
        if self.parts.family == "sd3":
            along[0] = pad(along[0], (0, along[1].shape[-1] - along[0].shape[-1]))
        else:
            along = [states.to(self.dtype) for states in along]
        return torch.cat(along, dim=1), pooled
