"""Errors of a denoiser on every picture of a batch under every caption, a few pairs at a time (SoftREPA).

All pairs share one time t and one noise ε. E_ij is the mean squared error of the prediction on picture i under caption
j. The exact gradient of a loss on all E_ij is computed in the memory of a few pairs::

    pass 1   E_ij = ‖ f(x_t^i, t, y_j) − target_i ‖² / n      without gradient, chunk by chunk
             w_ij = ∂L/∂E_ij                                  (B² numbers)
    pass 2   ∂L/∂θ = Σ_ij w_ij ∂E_ij/∂θ                       each chunk again, with gradient

The last chunk keeps its graph from the first pass, so a batch of one chunk is computed once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from longalign.data.text_states import Padding, TextStates, join
from longalign.diffusion.denoiser import Denoiser
from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError
from longalign.losses import contrastive_logits
from longalign.objectives.random_draws import normal
from longalign.worlds import world

_SEED = 30_000  # the noise of held-out batch g has the seed _SEED + g, in every evaluation and run


@dataclass(frozen=True, eq=False)
class Caption(TextStates):
    """One encoded caption with a key that identifies its text.

    Attributes:
        key: the text; for captions from a cache, which has no text, a digest of their states.
    """

    key: str = ""

    @classmethod
    def of(cls, states: TextStates, text: Any) -> Caption:
        """The states of a caption, given as text or as its cached states."""
        key = text if isinstance(text, str) else _digest(states)
        parts = states.own, states.own_shape, states.t5, states.pooled, states.cut, states.frame
        return cls(*parts, key)


def same_captions(keys: Sequence[str], first: int = 0, count: int | None = None) -> Tensor:
    """(count, B): true where caption j has the text of caption ``first + i`` and is not that caption itself."""
    places: dict[str, int] = {}
    which = torch.tensor([places.setdefault(key, len(places)) for key in keys])
    own = torch.arange(first, first + (len(keys) - first if count is None else count))
    return (which[own][:, None] == which) & (own[:, None] != torch.arange(len(keys)))


def gather_captions(captions: Sequence[Caption], accelerator: Any) -> list[Caption]:
    """The captions of all processes, in the order of ranks. All processes have equally many."""
    if accelerator.num_processes == 1:
        return list(captions)
    heads = [(c.key, c.own_shape, c.cut, [_kind(t) for t in _parts(c)]) for c in captions]
    heads = gather_object(heads)
    raw = [_bytes(t) for c in captions for t in _parts(c) if t is not None]
    own = torch.cat(raw)
    sizes = [sum(kind[2] for kind in head[3] if kind is not None) for head in heads]
    per_rank = [sum(sizes[i : i + len(captions)]) for i in range(0, len(heads), len(captions))]
    padded = own.new_zeros(1, max(per_rank))  # to a common length, as collectives want it
    padded[0, : len(own)] = own
    received = accelerator.gather(padded)  # (W, bytes)
    found = []
    for i, (key, own_shape, cut, kinds) in enumerate(heads):
        rank, place = divmod(i, len(captions))
        at = sum(sizes[rank * len(captions) : rank * len(captions) + place])
        parts: list[Tensor | None] = []
        for kind in kinds:
            if kind is None:
                parts.append(None)
                continue
            shape, dtype, size = kind
            # A copy begins where memory is aligned for every type.
            parts.append(received[rank, at : at + size].clone().view(dtype).reshape(shape))
            at += size
        states, t5, pooled = parts
        found.append(Caption(states, own_shape, t5, pooled, cut, key=key))
    return found


class Matching:
    """Predictions and errors of pairs (i, j) of picture and caption.

    Args:
        denoiser: its module may have soft tokens attached.
        x0: (b, C, h, w) latents.
        t: (), one time for all pairs.
        eps: (C, h, w), one noise for all pairs.
        captions: any number, of any padded lengths. Each caption keeps its own padded length.
        padding, adapter: as for `longalign.data.text_states.join`.
        at_once: largest number of pairs in one call of the denoiser.
        frames: (b, 4) of the pictures, as `longalign.Conditioning` has them.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        t: Tensor,
        eps: Tensor,
        captions: Sequence[TextStates],
        padding: Padding,
        adapter: nn.Module | None = None,
        at_once: int = 16,
        frames: Tensor | None = None,
    ) -> None:
        eps = eps.expand_as(x0)
        self.denoiser, self.t, self.at_once, self.frames = denoiser, t, at_once, frames
        self.x_t, self.target = denoiser.noised(x0, eps, t), denoiser.target(x0, eps, t)
        self.captions, self.adapter = captions, adapter
        self.padding = _for_all(padding, captions)
        shapes = list(dict.fromkeys(c.shape for c in captions))
        self._shape_of = torch.tensor([shapes.index(c.shape) for c in captions])  # (captions,)

    def every_pair(self) -> Tensor:
        """(b · B, 2) i and j of all pictures and captions, row by row."""
        return torch.cartesian_prod(torch.arange(len(self.x_t)), torch.arange(len(self.captions)))

    def chunks(self, pairs: Tensor) -> list[Tensor]:
        """Places in ``pairs`` (P, 2), at most `at_once` together, all of one padded length and with few captions."""
        order = torch.argsort(self._shape_of[pairs[:, 1]] * len(self.captions) + pairs[:, 1], stable=True)
        shapes = self._shape_of[pairs[order, 1]]
        _, counts = shapes.unique_consecutive(return_counts=True)
        return [part for group in order.split(counts.tolist()) for part in group.split(self.at_once)]

    def predictions(self, pairs: Tensor) -> Tensor:
        """f(x_t^i, t, y_j), (P, C, h, w), of the pairs (P, 2) of one chunk."""
        captions, place = pairs[:, 1].unique(return_inverse=True)
        [(_, conditioning)] = join([self.captions[j] for j in captions.tolist()], self.padding, self.adapter)
        rows = pairs[:, 0].to(self.x_t.device)
        # A frame is of a picture, whatever the caption.
        frames = None if self.frames is None else self.frames[rows]
        return self.denoiser(self.x_t[rows], self.t, replace(conditioning[place.tolist()], frames=frames))

    # E_ij = mean over channels and places of (f(x_t^i, t, y_j) − target_i)²
    def errors(self, pairs: Tensor) -> Tensor:
        """(P,) E of the pairs of one chunk."""
        rows = pairs[:, 0].to(self.x_t.device)
        return (self.predictions(pairs) - self.target[rows]).square().flatten(1).mean(1)

    def matrix(self) -> Tensor:
        """(b, B) all E, without gradient."""
        values = self._values(self.every_pair(), self.chunks(self.every_pair()))
        return values.view(len(self.x_t), len(self.captions))

    # ∂L/∂θ = Σ_p ∂L/∂E_p · ∂E_p/∂θ
    def backward(self, pairs: Tensor, weigh: Callable[[Tensor], Tensor], accelerator: Any) -> None:
        """Add the gradient of a function L of the pairs' errors to `.grad`.

        Args:
            pairs: (P, 2).
            weigh: E (P,), detached → ∂L/∂E (P,). Called once.
        """
        *chunks, last = self.chunks(pairs)
        values = self._values(pairs, chunks)
        kept = self.errors(pairs[last])  # with its graph
        values[last] = kept.detach()
        weights = weigh(values)
        if weights[last].any():
            accelerator.backward((weights[last] * kept).sum())
        del kept
        for part in self._chunks_of_some(pairs, torch.cat(chunks), weights) if chunks else ():
            accelerator.backward((weights[part] * self.errors(pairs[part])).sum())

    def _chunks_of_some(self, pairs: Tensor, places: Tensor, weights: Tensor) -> Iterator[Tensor]:
        """Chunks of those among ``places`` that have a weight: the others' gradient is 0."""
        some = places[(weights[places] != 0).cpu()]
        return (some[part] for part in self.chunks(pairs[some])) if len(some) else iter(())

    @torch.no_grad()
    def _values(self, pairs: Tensor, chunks: Sequence[Tensor]) -> Tensor:
        """(P,) E of the pairs in some chunks, 0 elsewhere."""
        values = self.x_t.new_zeros(len(pairs))
        for part in chunks:
            values[part] = self.errors(pairs[part])
        return values


# I ≥ log K_i − L_i,  L_i = −log softmax_j(logit_ij)_i over K_i captions
def row_figures(
    errors: Tensor, masked: Tensor | None = None, *, scale: float = 4.0, temperature: float = 0.07
) -> Mapping[str, Tensor]:
    """How well the pictures of a batch tell their own captions from the others.

    Args:
        errors: (B, B) E_ij.
        masked: (B, B) true where a caption repeats the picture's own one; it is not counted.
        scale, temperature: as in `longalign.losses.contrastive_logits`.

    Returns:
        (B,) each: `contrast`, the cross-entropy L_i; `accuracy`, 1 where the own caption has the least error of all
        (the greatest logit); `matched`, E_ii; `information`, log K_i − L_i in nats.
    """
    masked = torch.zeros_like(errors, dtype=torch.bool) if masked is None else masked
    logits = contrastive_logits(errors, scale, temperature).masked_fill(masked, float("-inf"))
    loss = -logits.log_softmax(1).diagonal()
    least = errors.masked_fill(masked, float("inf")).argmin(1)
    return {
        "contrast": loss,
        "accuracy": (least == torch.arange(len(errors), device=errors.device)).to(errors.dtype),
        "matched": errors.diagonal(),
        "information": (~masked).sum(1).log() - loss,
    }


def batches_of(groups: Sequence[Sequence[int]], size: int) -> list[Sequence[int]]:
    """Rows in batches of ``size``, each of one group (a bucket of pictures).

    A smaller last batch of a group is left out. Where no batch would be left, the largest group is one if it has two
    rows.
    """
    whole = [g[first : first + size] for g in groups for first in range(0, len(g) - size + 1, size)]
    largest = max(groups, key=len, default=())
    return whole or ([largest] if len(largest) > 1 else [])


def fixed_place(batch: int, batches: int) -> float:
    """The place in [0, 1) of the time of held-out batch number ``batch``; places are spread evenly."""
    return (batch + 0.5) / batches


def fixed_noise(batch: int, like: Tensor) -> Tensor:
    """ε (C, h, w) of held-out batch number ``batch``, for latents (B, C, h, w)."""
    [eps] = normal([torch.Generator().manual_seed(_SEED + batch)], *like.shape[1:])
    return eps.to(like)


def near_caption(
    text: str, others: Sequence[str], rng: np.random.Generator, oracle: str | None = None
) -> str:
    """The caption with one sentence changed: a harder negative than the captions of other pictures.

    Where the world of the captions can write false ones, one word of a sentence changes, so that it is false of the
    picture. Otherwise one sentence is replaced by a sentence of another caption, which is likely but not certain to be
    false of the picture.

    Args:
        text: the right caption.
        others: captions to take sentences from; sentences of ``text`` itself are not used.
        rng: draws the sentence and its replacement.
        oracle: the world that the captions are about, as in `longalign.diffusion.pipelines.ModelSettings`.

    Raises:
        LongalignError: nothing can be exchanged.
    """
    sentences = [s.text for s in Segmenter()(text)]
    changed = world(oracle).false_caption(sentences, rng)
    if changed is not None:
        return " ".join(changed)
    foreign = list(dict.fromkeys(s.text for other in others for s in Segmenter()(other)))
    foreign = [sentence for sentence in foreign if sentence not in sentences]
    if not foreign:
        raise LongalignError(
            "contrastive.near_negatives: no caption of this batch has a sentence that another has not, so none can be "
            "exchanged; take a larger train.batch_size, or near_negatives=0"
        )
    sentences[rng.integers(len(sentences))] = foreign[rng.integers(len(foreign))]
    return " ".join(sentences)


def _for_all(padding: Padding, captions: Sequence[TextStates]) -> Padding:
    """The padding with an entry for each padded length that captions of other processes have.

    The entry is for the empty prompt, which `join` adds to every conditioning and which is not used here.
    """
    own, t5 = dict(padding.own), dict(padding.t5)
    for c in captions:
        if c.own is not None and c.own_shape not in own:
            own[c.own_shape] = c.own.new_zeros(sum(c.own_shape), c.own.shape[-1])
        if c.t5 is not None and len(c.t5) not in t5:
            t5[len(c.t5)] = torch.zeros_like(c.t5)
    return replace(padding, own=own, t5=t5)


def _parts(states: TextStates) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return states.own, states.t5, states.pooled


def _bytes(t: Tensor) -> Tensor:
    return t.detach().contiguous().flatten().view(torch.uint8)


def _kind(t: Tensor | None) -> tuple[tuple[int, ...], torch.dtype, int] | None:
    return None if t is None else (tuple(t.shape), t.dtype, t.numel() * t.element_size())


def _digest(states: TextStates) -> str:
    found = hashlib.sha256(repr(states.own_shape).encode())
    for part in _parts(states):
        if part is not None:
            found.update(repr(tuple(part.shape)).encode() + _bytes(part).cpu().numpy().tobytes())
    return found.hexdigest()
