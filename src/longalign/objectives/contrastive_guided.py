"""Alignment-Guided Score Matching (arXiv 2605.30038), the successor of SoftREPA, which keeps a score-matching target.

What FACTS §2.6 gives, from secondary notes, is used as it stands::

    f̂_k   = f^ψ̂(x_t, t, y_k)                      with averaged tokens ψ̂ ← d ψ̂ + (1 − d) ψ+,  d = 0.9999
    Δ_k   = f̂_k − Σ_l w_l f̂_l,   w = softmax_l(−A/(2T) |f̂_l − f*|²),   T = 0.1
    L     = E_pos |f^ψ+ − (f* + γ+ Ã Δ)|² + E_neg |f^ψ− − (f* − γ− Ã Δ)|²

f* is the denoiser's target: ε, or ε − x_0 of flow models, where the formula is the same (predictions at one x_t
differ by a factor that they have in common). Not said there, and chosen here:

* k and l run over the captions that the picture is seen under, its own and `negatives` others, and not over the batch.
* "pos" is the picture under its own caption, with that caption's Δ; "neg" under each of the others, with theirs.
* ψ̂ averages ψ+ alone, from its start on.
* |·|² is the mean over channels and places, also in w; A(t) and Ã(t) are constants, 1 unless set.
* one t and ε for the whole batch, as in SoftREPA.

Pictures are drawn with ψ+ alone, in both branches of guidance; ψ− is a part of checkpoints and of no saved model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from longalign.losses import alignment_directions
from longalign.objectives.contrastive_pairs import Matching
from longalign.objectives.contrastive_settings import AlignmentGuidedSettings
from longalign.soft_tokens import Attachment, SoftTokens


@contextmanager
def wearing(attachment: Attachment, tokens: SoftTokens) -> Iterator[None]:
    """Other tokens of the same kind in place of those that are attached. Backward passes belong inside, too."""
    before, attachment.tokens = attachment.tokens, tokens
    try:
        yield
    finally:
        attachment.tokens = before


# ψ̂ ← d ψ̂ + (1 − d) ψ
@torch.no_grad()
def update_average(average: SoftTokens, tokens: SoftTokens, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in tokens.parameters()], 1 - decay)


def choose_negatives(same: Tensor, own: int, near: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(1 + count,) the captions that a picture is seen under: its own, near ones, and others in random order.

    Where there are fewer of them, they come again.

    Args:
        same: (B, B), as of `contrastive_pairs.same_captions`.
        own: number of its own caption.
        near: (n,) numbers of its near negatives.
    """
    others = (~same[own]).nonzero().flatten()
    others = others[others != own]
    found = torch.cat([near, others[torch.randperm(len(others), generator=generator)]])
    return torch.cat([torch.tensor([own]), found[torch.arange(count) % len(found)]])


def learn_guided(
    matching: Matching,
    seen: Tensor,
    settings: AlignmentGuidedSettings,
    attachment: Attachment,
    average: SoftTokens,
    negative: SoftTokens,
    accelerator: Any,
) -> dict[str, Tensor]:
    """Add the gradient of L for ψ+, which is attached, and ψ− to `.grad`.

    Beside the graph of `pairs_at_once` pairs it holds a latent for each pair, not more.

    Args:
        seen: (b, 1 + n) numbers of the captions of each picture, its own first.

    Returns:
        the loss and its two parts.
    """
    rows, captions = seen.shape
    pairs = torch.stack([torch.arange(rows).repeat_interleave(captions), seen.flatten()], dim=1)
    predicted = matching.x_t.new_empty(len(pairs), *matching.x_t.shape[1:])
    with torch.no_grad(), wearing(attachment, average):
        for part in matching.chunks(pairs):
            predicted[part] = matching.predictions(pairs[part])
    delta = alignment_directions(
        predicted.unflatten(0, seen.shape), matching.target, settings.temperature, settings.weight
    ).flatten(0, 1)  # (b (1 + n), C, h, w)
    own = torch.arange(len(pairs)) % captions == 0
    found = {}
    for name, tokens, chosen, gamma in (
        ("positive", attachment.tokens, own, settings.gamma_positive),
        ("negative", negative, ~own, -settings.gamma_negative),
    ):
        places = chosen.nonzero().flatten()
        total = matching.x_t.new_zeros(())
        with wearing(attachment, tokens):
            for part in matching.chunks(pairs[places]):
                some = places[part]
                target = (
                    matching.target[pairs[some, 0].to(delta.device)] + gamma * settings.step * delta[some]
                )
                errors = (matching.predictions(pairs[some]) - target).square().flatten(1).mean(1)
                loss = errors.sum() / len(places)
                accelerator.backward(loss)
                total += loss.detach()
        found[f"loss_{name}"] = total
    return {"loss": found["loss_positive"] + found["loss_negative"], **found}
