"""Linear readouts of facts that make a CLIP learn where things are, and not only what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longalign.stickers.captions import Fact
from longalign.stickers.world import BACKGROUND_NAMES, DISC_NAMES, KIND_NAMES, MAX_OBJECTS

# Each set of answers ends with one more: nothing there, or not spoken of.
KINDS, DISCS, BACKGROUNDS = len(KIND_NAMES) + 1, len(DISC_NAMES) + 1, len(BACKGROUND_NAMES) + 1
CELLS = MAX_OBJECTS + 1


def _index(names: Sequence[str], name: str | None) -> int:
    return len(names) if name is None else names.index(name)


def layout_of(stated: Sequence[Fact]) -> list[int]:
    """The right answers about a whole scene: nine kinds, nine discs, the background."""
    kinds, discs = [KINDS - 1] * MAX_OBJECTS, [DISCS - 1] * MAX_OBJECTS
    background = BACKGROUNDS - 1
    for fact in stated:
        if fact.cell is None:
            background = _index(BACKGROUND_NAMES, fact.background)
        else:
            kinds[fact.cell] = _index(KIND_NAMES, fact.kind)
            discs[fact.cell] = _index(DISC_NAMES, fact.disc)
    return [*kinds, *discs, background]


def sentence_of(fact: Fact) -> list[int]:
    """The right answers about one sentence: its cell, kind, disc and background."""
    return [
        MAX_OBJECTS if fact.cell is None else fact.cell,
        _index(KIND_NAMES, fact.kind),
        _index(DISC_NAMES, fact.disc),
        _index(BACKGROUND_NAMES, fact.background),
    ]


class ReadableCLIP(nn.Module):
    """A CLIP with two linear readouts that are used in training only."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip
        self.clip.set_attn_implementation("eager")  # on CPUs SDPA's backward is twice as slow at this size
        self.layout_sizes = [KINDS] * MAX_OBJECTS + [DISCS] * MAX_OBJECTS + [BACKGROUNDS]
        self.sentence_sizes = [CELLS, KINDS, DISCS, BACKGROUNDS]
        self.layout = nn.Linear(clip.config.projection_dim, sum(self.layout_sizes))
        self.sentence = nn.Linear(clip.config.text_config.hidden_size, sum(self.sentence_sizes))

    def layout_loss(self, embeddings: Tensor, stated: Sequence[Sequence[Fact]]) -> Tensor:
        """Cross entropy of all that is in a scene, read off its embedding (N, D); a fifth of the sum of 19 answers."""
        answers = torch.tensor([layout_of(facts) for facts in stated], device=embeddings.device)
        return _cross_entropy(self.layout(embeddings), self.layout_sizes, answers) / 5

    def sentence_loss(self, states: Tensor, said: Sequence[Fact]) -> Tensor:
        """Cross entropy of what a sentence says, read off the text state at its full stop (N, width)."""
        answers = torch.tensor([sentence_of(fact) for fact in said], device=states.device)
        return _cross_entropy(self.sentence(states), self.sentence_sizes, answers)


def _cross_entropy(logits: Tensor, sizes: list[int], answers: Tensor) -> Tensor:
    """The sum over questions of the mean over rows: logits (N, Σ sizes), answers (N, len(sizes))."""
    parts = logits.float().split(sizes, -1)
    return torch.stack([F.cross_entropy(p, answers[:, i]) for i, p in enumerate(parts)]).sum()
