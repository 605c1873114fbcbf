"""Text-encoder outputs a caption at a time: what a cache holds, and what training joins to conditionings.

A row of clip-cat is a caption's own states and then pad*, the same vector over and over (App. A). So the states
are kept without it, and it is put back when a batch is joined. T5's states are kept at their padded length: its pads
are not masked, and what it says at them differs from text to text. The adapter comes after it and is trained, so it is
no part of what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from longalign.data.buckets import Frame
from longalign.encoding import Conditioning, T5Branch, TextParts
from longalign.encoding.job import Job, Shape
from longalign.encoding.layout import padded
from longalign.encoding.options import Options
from longalign.encoding.strategy import Strategy
from longalign.encoding.t5 import T5Encoder
from longalign.encoding.towers import Tower
from longalign.runtime import inference

_AT_ONCE = 64  # texts


@dataclass(frozen=True, eq=False)
class TextStates:
    """One encoded caption.

    Attributes:
        own: (n, D) the pipeline's own encoders' states, without the pad* that they end in; None for t5-mlp.
        own_shape: to how many positions they are padded: CLIP's part, and that of SD3's T5.
        t5: (L, D_T5) the T5 branch's states, before the adapter; None without one.
        pooled: (P,); None for SD1.5.
        cut: whether some of the text did not fit.
        frame: how the picture that it is about was cut; None where that is not known or plays no part.
    """

    own: Tensor | None
    own_shape: Shape
    t5: Tensor | None
    pooled: Tensor | None
    cut: bool = False
    frame: Frame | None = None

    @property
    def shape(self) -> tuple[Shape, int]:
        """Padded lengths; captions that have them in common can be one batch."""
        return self.own_shape, 0 if self.t5 is None else len(self.t5)

    def to(self, device: Any) -> TextStates:
        own, t5, pooled = (None if t is None else t.to(device) for t in (self.own, self.t5, self.pooled))
        return replace(self, own=own, t5=t5, pooled=pooled)


def cut_off(states: Sequence[TextStates]) -> tuple[list[TextStates], Callable[[], None]]:
    """States whose gradients stay with them, and what hands these on to the encoders, all at once.

    Captions share rows of an encoder and not the denoiser's batches, each of which has a backward pass of its own.
    """
    pairs: list[tuple[Tensor, Tensor]] = []

    def leaf(state: Tensor | None) -> Tensor | None:
        if state is None or not state.requires_grad:
            return state
        pairs.append((state, state.detach().requires_grad_()))
        return pairs[-1][1]

    def hand_on() -> None:
        reached = [(state, own.grad) for state, own in pairs if own.grad is not None]
        if reached:
            torch.autograd.backward([state for state, _ in reached], [grad for _, grad in reached])

    return [replace(s, own=leaf(s.own), pooled=leaf(s.pooled)) for s in states], hand_on


@dataclass(eq=False)
class Padding:
    """What a batch needs besides its captions; of the empty prompt, all lengths that have come up.

    Attributes:
        family: as in `Conditioning`.
        zeros: the unconditional text is zeros (SDXL's) and not the empty prompt.
        pad_star: (D,) behind the states of a caption; None where nothing is taken off.
        pooled: (P,) of the empty prompt.
        own: padded shape → (L, D), the pipeline's own encoders' states of the empty prompt.
        t5: padded length → (L, D_T5), the T5 branch's.
    """

    family: str
    zeros: bool
    pad_star: Tensor | None = None
    pooled: Tensor | None = None
    own: dict[Shape, Tensor] = field(default_factory=dict)
    t5: dict[int, Tensor] = field(default_factory=dict)

    def covers(self, own_shape: Shape, t5: int) -> bool:
        """Whether a caption of some padded lengths can be joined.

        Args:
            own_shape, t5: as `TextStates.shape`.
        """
        return (not sum(own_shape) or own_shape in self.own) and (not t5 or t5 in self.t5)

    def filled_up(self, other: Padding) -> Padding:
        """With what the other has and this one has not.

        Args:
            other: of the same encoders.
        """
        return Padding(
            self.family,
            self.zeros,
            self.pad_star if self.pad_star is not None else other.pad_star,
            self.pooled if self.pooled is not None else other.pooled,
            {**other.own, **self.own},
            {**other.t5, **self.t5},
        )


class TextSide:
    """The frozen text encoders of a pipeline, one caption at a time.

    Args:
        pipe: a diffusers pipeline, or `TextParts`.
        strategy, length: as for `longalign.encode`.
        t5: the T5 branch for t5-mlp and clip+t5.
        training: the pipeline's CLIPs are trained, so captions' own states have gradients.

    Attributes:
        padding: what `join` needs, filled as captions are encoded.

    Raises:
        LongalignError: a strategy that the model has not the parts for.
    """

    def __init__(
        self,
        pipe: Any,
        strategy: str = "clip-cat",
        length: int = 240,
        t5: T5Branch | None = None,
        training: bool = False,
    ) -> None:
        self.parts, self.training = TextParts.of(pipe), training
        self.length = length
        self.strategy = Options(strategy=strategy, length=length, t5=t5).strategy_for(self.parts)
        self.t5: T5Encoder | None = None
        if t5 is not None and self.strategy.t5:
            self.t5 = T5Encoder("t5", t5.tokenizer, t5.encoder, t5.encoder.device)
        # What the pipeline's own encoders say; for t5-mlp SDXL's pooled vector alone.
        plain, self._keeps_own = self.strategy.kind == "plain", self.strategy.kind != "t5-mlp"
        self._own = Strategy("plain" if plain else "clip-cat", self.strategy.rule)
        self.padding = Padding(self.parts.family, self.parts.zero_negative)
        self._find_pad_star()

    def _find_pad_star(self) -> None:
        # Plain rows do not end in pad*, and those of a model with its own T5 end in T5's states.
        if self._keeps_own and self.strategy.kind != "plain" and self.parts.backbone.t5 is None:
            towers = Tower.all_of(self.parts)
            with inference(*self.modules):
                stars = [t.pad_star(self.strategy.rule.pad_star).to(towers[0].device) for t in towers]
            self.padding.pad_star = torch.cat(stars).to(towers[-1].model.dtype)  # as `encode` joins states

    def forget_padding(self) -> None:
        """Forgets the states of the empty prompt: those of the next captions are computed with them."""
        self.padding.own.clear()
        self.padding.t5.clear()
        self.padding.pooled = None

    @property
    def modules(self) -> list[nn.Module]:
        """The encoders that are used."""
        own = [m for m in self.parts.text_encoders if m is not None] if self._reads_own else []
        return own + ([self.t5.model] if self.t5 is not None else [])

    def encode(self, texts: Sequence[str]) -> list[TextStates]:
        """One `TextStates` a caption, on the encoders' device. Equal captions are encoded once."""
        distinct = list(dict.fromkeys(texts))
        found: dict[str, TextStates] = {}
        for first in range(0, len(distinct), _AT_ONCE):
            part = distinct[first : first + _AT_ONCE]
            own = (
                self._encode_own(part)
                if self._reads_own
                else [TextStates(None, (0, 0), None, None)] * len(part)
            )
            for text, states, (t5, cut) in zip(part, own, self._encode_t5(part), strict=True):
                found[text] = TextStates(states.own, states.own_shape, t5, states.pooled, states.cut or cut)
        return [found[text] for text in texts]

    @property
    def _reads_own(self) -> bool:
        return self._keeps_own or bool(self.parts.backbone.pooled_clips)

    def _encode_own(self, texts: Sequence[str]) -> list[TextStates]:
        device = self.parts.text_encoders[0].device
        options = Options(strategy=self._own, length=self.length, batch_size=_AT_ONCE)
        with torch.autocast(device.type, enabled=False):
            if self.training:
                self._find_pad_star()  # it moves with the weights
            job = Job(self.parts, list(texts), "", options)
            groups = job.groups()
            conditionings = job.run(groups, training=self.training)
        found: dict[int, TextStates] = {}
        for (shape, members), c in zip(groups.items(), conditionings, strict=True):
            if c.negative_pooled is not None:
                self.padding.pooled = c.negative_pooled[0].detach()
            if self._keeps_own:
                self.padding.own[shape] = c.negative_embeds[0].detach()
            for row, i in enumerate(members):
                own = self._trimmed(c.embeds[row]) if self._keeps_own else None
                pooled = None if c.pooled is None else c.pooled[row]
                found[i] = TextStates(
                    own,
                    shape if self._keeps_own else (0, 0),
                    None,
                    pooled,
                    self._keeps_own and bool(c.truncation[row]),
                )
        return [found[i] for i in range(len(texts))]

    def _trimmed(self, own: Tensor) -> Tensor:
        if self.padding.pad_star is None:
            return own
        rows = (own != self.padding.pad_star).any(dim=-1).nonzero()
        return own[: int(rows[-1]) + 1 if len(rows) else 0].clone()

    def _encode_t5(self, texts: Sequence[str]) -> list[tuple[Tensor | None, bool]]:
        """(L, D_T5) states and whether text was cut, of each."""
        if self.t5 is None:
            return [(None, False)] * len(texts)
        limit = self.t5.limit(None)
        tokens = self.t5.tokenise([*texts, ""])
        fitting = {text: t if limit is None else t.fit(limit) for text, t in tokens.items()}
        wanted = [(fitting[text].ids, padded(len(fitting[text]), self.length, None)) for text in texts]
        empty = fitting[""].ids
        new = {length for _, length in wanted} - set(self.padding.t5)
        with inference(self.t5.model), torch.autocast(self.t5.device.type, enabled=False):
            states = self.t5.encode([*wanted, *((empty, length) for length in sorted(new))], _AT_ONCE)
        for length in new:
            self.padding.t5[length] = states[empty, length]
        cut = [limit is not None and len(tokens[text]) > limit for text in texts]
        return [(states[key], c) for key, c in zip(wanted, cut, strict=True)]


def join(
    states: Sequence[TextStates],
    padding: Padding,
    adapter: nn.Module | None = None,
    drop: Sequence[bool] | None = None,
) -> list[tuple[list[int], Conditioning]]:
    """Captions → one `Conditioning` for each padded length, in float32, with the places of its captions.

    The same as `longalign.encode_groups` makes of them, but that segments are not told apart (``segment_of`` is −1).

    Args:
        adapter: of the T5 branch; it gets gradients where they are on.
        drop: captions in whose place the unconditional text stands, at the same padded length.
    """
    dropping = drop or [False] * len(states)
    groups: dict[tuple[Shape, int], list[int]] = {}
    for i, s in enumerate(states):
        groups.setdefault(s.shape, []).append(i)
    return [
        (members, _joined([states[i] for i in members], padding, adapter, [dropping[i] for i in members]))
        for members in groups.values()
    ]


def _joined(
    states: Sequence[TextStates], padding: Padding, adapter: nn.Module | None, drop: Sequence[bool]
) -> Conditioning:
    own_shape, t5_length = states[0].shape
    parts: list[Tensor] = []  # along the sequence, the empty prompt last
    if sum(own_shape):
        own = [_filled(s.own, padding.pad_star, sum(own_shape)) for s in states]
        parts.append(torch.stack([*own, padding.own[own_shape].to(own[0])]))
    if t5_length:
        assert adapter is not None
        t5 = [s.t5.float() for s in states if s.t5 is not None]
        parts.append(adapter(torch.stack([*t5, padding.t5[t5_length].to(t5[0])])).float())
    both = torch.cat(parts, dim=1)  # (B + 1, L, D)
    embeds, negative = both[:-1], both[-1:].expand(len(states), -1, -1)
    pooled = negative_pooled = None
    if padding.pooled is not None:
        pooled = torch.stack([s.pooled.float() for s in states if s.pooled is not None])  # (B, P)
        negative_pooled = padding.pooled.to(pooled).expand_as(pooled)
    if padding.zeros:
        negative = torch.zeros_like(embeds)
        negative_pooled = None if pooled is None else torch.zeros_like(pooled)
    dropped = torch.tensor(drop, device=embeds.device)[:, None]  # (B, 1)
    if pooled is not None and negative_pooled is not None:
        pooled = torch.where(dropped, negative_pooled, pooled)
    segment_of = torch.full(embeds.shape[:2], -1, device=embeds.device)
    return Conditioning(
        embeds=torch.where(dropped[..., None], negative, embeds),
        pooled=pooled,
        segment_of=segment_of,
        negative_embeds=negative,
        negative_pooled=negative_pooled,
        negative_segment_of=segment_of,
        truncation=((),) * len(states),
        segments=((),) * len(states),
        family=padding.family,
        frames=frames_of(states, embeds.device),
    )


def frames_of(states: Sequence[TextStates], device: Any) -> Tensor | None:
    """(B, 4) frames, as `longalign.Conditioning` has them; None unless all are known."""
    frames = [s.frame for s in states if s.frame is not None]
    return torch.tensor(frames, device=device) if len(frames) == len(states) else None


def _filled(own: Tensor | None, pad_star: Tensor | None, length: int) -> Tensor:
    """(n, D) → (length, D) with pad* behind; in float32."""
    assert own is not None
    if pad_star is None or len(own) == length:
        return own.float()
    return torch.cat([own.float(), pad_star.to(own.device).float().expand(length - len(own), -1)])
