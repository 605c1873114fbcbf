"""`Job`, one call of `encode`: reads the texts, runs each encoder once, joins the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from longalign.encoding.conditioning import Conditioning, Truncation
from longalign.encoding.encoder_outputs import ClipBank, T5Bank
from longalign.encoding.layout import segment_row
from longalign.encoding.options import Options, check_texts, weights_each
from longalign.encoding.plain import encode_plain
from longalign.encoding.reading import Reader, Reading, Texts
from longalign.encoding.segments import Segmenter
from longalign.encoding.source import ascending
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

    Args:
        pipe_or_parts, prompts, negative_prompt: as for `longalign.encode`.
        options: with a strategy other than ``auto``.
        places: numbers of the prompts in messages; None: 0, 1, 2, ….

    Attributes:
        texts: what each encoder reads of each prompt.
        negatives: the same of the negative prompts; None if the family uses zeros.
    """

    def __init__(
        self,
        pipe_or_parts: Any,
        prompts: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None,
        options: Options,
        places: Sequence[int] | None = None,
    ) -> None:
        self.prompts = check_texts(prompts, "prompt")
        if not self.prompts:
            raise LongalignError("no prompts to encode: the list is empty")
        self.places = range(len(self.prompts)) if places is None else places
        self.options = options
        self.parts = parts = TextParts.of(pipe_or_parts)
        self.strategy = options.strategy_for(parts)
        self.towers = Tower.all_of(parts)
        self.backbone = parts.backbone
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
        # A model without a CLIP reads its T5 alone, which has no window.
        self.encoders: Sequence[Tower | T5Encoder] = [
            *self.towers,
            *([self.t5] if self.t5 is not None else []),
        ]
        self.texts, self.negatives = self._texts(negative_prompt)

        self.has_clip = (self.strategy.clip or self.strategy.kind == "plain") and self.backbone.clip_tokens
        self.window = min((tower.window for tower in self.towers), default=_T5_SEGMENT)
        segmenter = options.segments
        if not isinstance(segmenter, Segmenter):
            segmenter = Segmenter(segmenter, self.encoders[0].tokenizer, self.window, options.language)
        pools = bool(self.backbone.pooled_clips)
        self.reader = Reader(
            self.towers,
            self.t5,
            self.strategy,
            self.backbone,
            segmenter,
            want_whole=self.strategy.kind == "plain" or (options.pooled == "whole" and pools),
            max_length=options.max_length,
            syntax=options.syntax,
            clean=options.clean,
        )
        self.readings = self.reader.read([*self.texts, *(self.negatives or [])], self._weights())

    def _weights(self) -> dict[str, tuple[float, ...]]:
        """Prompt → the weights of its segments, for prompts that have some."""
        found: dict[str, tuple[float, ...]] = {}
        each = weights_each(self.options.weights, len(self.prompts))
        for prompt, weights in zip(self.prompts, each, strict=True):
            if weights is not None and found.setdefault(prompt, weights) != weights:
                raise LongalignError(
                    "the same prompt occurs with different weights: encode it in separate calls"
                )
        negatives = {text for texts in self.negatives or () for text in texts}
        if negatives & set(found) or any(
            of is None and prompt in found for prompt, of in zip(self.prompts, each, strict=True)
        ):
            raise LongalignError(
                "a prompt with weights occurs once more without, or as a negative prompt: encode it in separate calls"
            )
        return found

    def _texts(self, negative: str | Sequence[str] | None) -> tuple[list[Texts], list[Texts] | None]:
        """The texts for each encoder: of the prompts, and of the negative prompts."""
        options = self.options
        prompts = self._for_encoders(self.prompts, "prompt", options.prompt_2, options.prompt_3)
        others = (options.negative_prompt_2, options.negative_prompt_3)
        if negative is None and others != (None, None):
            raise LongalignError(
                "negative_prompt_2 and negative_prompt_3 go with a negative_prompt: give it, too"
            )
        if negative is None and self.parts.zero_negative:
            return prompts, None
        first = self._one_each("" if negative is None else negative, "negative prompt")
        return prompts, self._for_encoders(first, "negative_prompt", *others)

    def _for_encoders(
        self,
        first: Sequence[str],
        name: str,
        second: str | Sequence[str] | None,
        third: str | Sequence[str] | None,
    ) -> list[Texts]:
        columns = [first] * len(self.encoders)
        for number, given in ((2, second), (3, third)):
            if given is None:
                continue
            encoders = [encoder.name for encoder in self.encoders]
            slot = f"text_encoder_{number}"
            if slot not in encoders[1:]:
                raise LongalignError(
                    f"{name}_{number} is for {slot}, and this {self.backbone.title} model encodes with "
                    f"{' and '.join(encoders)}: leave it out"
                )
            columns[encoders.index(slot)] = self._one_each(given, f"{name}_{number}")
        return list(zip(*columns, strict=True))

    def _one_each(self, given: str | Sequence[str], what: str) -> list[str]:
        texts = check_texts(given, what)
        if isinstance(given, str):
            texts *= len(self.prompts)
        if len(texts) != len(self.prompts):
            raise LongalignError(
                f"{len(texts)} {what}s do not go with {len(self.prompts)} prompts: give one for all, or one each"
            )
        return texts

    def groups(self) -> dict[Shape, list[int]]:
        """Padded lengths → places of the prompts that have them."""
        groups: dict[Shape, list[int]] = {}
        for i in range(len(self.prompts)):
            groups.setdefault(self._shape(i), []).append(i)
        return groups

    def _shape(self, i: int) -> Shape:
        if self.strategy.kind == "plain":
            return (self.window if self.has_clip else 0), self.backbone.t5_length
        pair = [self.readings[texts[i]] for texts in (self.texts, self.negatives) if texts is not None]
        return self.reader.lengths(pair, self.options.length)

    def truncation(self, indices: Iterable[int]) -> tuple[tuple[Truncation, ...], ...]:
        """The text that was cut from these prompts and from their negatives."""
        halves = [(self.texts, False)] + ([(self.negatives, True)] if self.negatives is not None else [])
        return tuple(
            tuple(
                cut
                for texts, negative in halves
                for cut in self.readings[texts[i]].truncation(self.places[i], negative)
            )
            for i in indices
        )

    def fits(self, i: int) -> bool:
        """Whether a prompt and its negative are read whole, and ask for no cut between segments."""
        pair = [self.readings[texts[i]] for texts in (self.texts, self.negatives) if texts is not None]
        return not any(
            clip.cuts or clip.source.marked.cuts for reading in pair for clip in reading.clips
        ) and not any(
            reading.t5_cuts or (reading.t5_source is not None and reading.t5_source.marked.cuts)
            for reading in pair
        )

    def n_tokens(self, i: int) -> int:
        """Tokens of a prompt for the encoder that needs most; only after reading it for ``plain``."""
        reading = self.readings[self.texts[i]]
        counts = [len(clip.whole[k]) for k, clip in enumerate(reading.clips)]
        return max([*counts, len(reading.t5) if reading.t5 is not None else 0])

    def run(self, groups: Mapping[Shape, Sequence[int]], *, training: bool = False) -> list[Conditioning]:
        """Runs the encoders, then makes one `Conditioning` a group.

        Args:
            training: as far as gradients are on, the encoders get some.
        """
        modules = [tower.model for tower in self.towers]
        modules += [self.t5.model] if self.t5 is not None else []
        modules += [self.branch.adapter] if self.branch is not None else []
        with nullcontext() if training else inference(*modules):
            # As in the pipelines, negative prompts are encoded without clip_skip.
            skipping = [tower.skipping(self.options.clip_skip) for tower in self.towers]
            if self.options.clip_skip is None or self.negatives is None:
                halves = [Half(self, skipping, groups, self.texts, self.negatives)] * 2
            else:
                halves = [
                    Half(self, skipping, groups, self.texts),
                    Half(self, self.towers, groups, self.negatives),
                ]
            return [self._conditioning(shape, indices, *halves) for shape, indices in groups.items()]

    def _conditioning(
        self, shape: Shape, indices: Sequence[int], positive: Half, negative: Half
    ) -> Conditioning:
        def half(
            encoded: Half, texts: Sequence[Texts]
        ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
            readings = [self.readings[texts[i]] for i in indices]
            embeds, pooled = encoded.join(readings, shape)
            rows = [self.segments_in(reading, shape) for reading in readings]
            return embeds, pooled, torch.tensor(rows, device=embeds.device)

        embeds, pooled, segment_of = half(positive, self.texts)
        if self.negatives is not None:
            negative_embeds, negative_pooled, negative_segment_of = half(negative, self.negatives)
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
            segments=tuple(self.readings[self.texts[i]].segments for i in indices),
            family=self.parts.family,
        )

    def segments_in(self, reading: Reading, shape: Shape) -> list[int]:
        """The segment of each position in the row of a text, for `Conditioning.segment_of`."""
        starts = ascending(reading.source.pieces)
        clip_length, t5_length = shape
        row: list[int] = []
        if self.strategy.kind == "plain" and self.has_clip:
            row = segments_of(reading.clips[0].whole[0], starts)
            row += [-1] * (clip_length - len(row))
        elif self.has_clip:
            row = segment_row(reading.clips[0].row, reading.clips[0].joint, clip_length)
        if reading.t5 is not None and reading.t5_source is reading.source:
            row += segments_of(reading.t5, starts)
        return row + [-1] * (clip_length + t5_length - len(row))


class Half:
    """The states of all encoders for some texts of a job; `join` makes rows of them.

    Args:
        towers: the job's CLIPs, which may skip layers.
        texts: of the prompts, of the negative prompts, or both.
    """

    def __init__(
        self,
        job: Job,
        towers: Sequence[Tower],
        groups: Mapping[Shape, Sequence[int]],
        *texts: Sequence[Texts] | None,
    ) -> None:
        self.job, self.towers = job, towers
        self.backbone, self.has_clip = job.backbone, job.has_clip
        self.plain = job.strategy.kind == "plain"
        if self.plain:
            return
        rule = job.strategy.rule if job.has_clip else None
        size, cache, syntax = job.options.batch_size, job.options.cache, job.options.syntax
        lists = [given for given in texts if given is not None]
        readings = list({of: job.readings[of] for given in lists for of in given}.values())
        self.clips = []
        for k, tower in enumerate(towers):
            pools = k in [i % len(towers) for i in self.backbone.pooled_clips]
            policy = job.options.pooled if pools else None
            self.clips.append(ClipBank(tower, k, readings, rule, policy, size, cache, syntax))
        self.t5 = None
        if job.t5 is not None:
            wanted = [
                (job.readings[given[i]], t5_length)
                for given in lists
                for (_, t5_length), indices in groups.items()
                for i in indices
            ]
            adapter = job.branch.adapter if job.branch else None
            self.t5 = T5Bank(job.t5, wanted, adapter, size, cache, syntax)
        first, last = job.encoders[0], (job.towers or job.encoders)[-1]
        self.dtype, self.device = last.model.dtype, first.device

    def join(self, readings: Sequence[Reading], shape: Shape) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, L, D) embeddings and (B, P) pooled vectors, joined as the family's pipeline joins them."""
        if self.plain:
            return self._plain(readings)
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
            width = self.job.parts.joint_width
            assert width is not None  # TextParts checks this
            along.append(along[0].new_zeros(len(readings), t5_length, width))
        return self.backbone.join(along, self.dtype), pooled

    def _plain(self, readings: Sequence[Reading]) -> tuple[torch.Tensor, torch.Tensor | None]:
        job = self.job
        embeds, pooled = [], []
        for first in range(0, len(readings), job.options.batch_size):
            batch = readings[first : first + job.options.batch_size]
            states, vectors = encode_plain(job.parts, self.towers, job.t5, batch, job.options.syntax)
            embeds.append(states)
            pooled += [vectors] if vectors is not None else []
        return torch.cat(embeds), torch.cat(pooled) if pooled else None
