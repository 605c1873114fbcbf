"""Alignment-Guided Score Matching (arXiv 2605.30038), the successor of SoftREPA, which keeps a score-matching target.

Two sets of tokens are trained, ψ+ for the own caption and ψ− for others; each has an average, ψ̂+ and ψ̂−::

    ψ̂±   ← d ψ̂± + (1 − d) ψ±,   d = 0.9999
    f̂_k   = f(x_t, t, y_k)       with ψ̂+ if y_k is the picture's own caption, with ψ̂− if it is another's
    Δ_k   = f̂_k − Σ_l w_l f̂_l,   w = softmax_l(−A/(2T) |f̂_l − f*|²),   T = 0.1
    L     = E_pos |f^ψ+ − (f* + γ+ Ã Δ)|² + E_neg |f^ψ− − (f* − γ− Ã Δ)|²

f* is the denoiser's target: ε, or ε − x_0 of flow models, where the formula is the same (predictions at one x_t
differ by a factor that they have in common). Where each part is from:

* L, Δ, w, d, T and γ are the paper's, known here from secondary notes on it.
* The two averages are from the method's project page (jaayeon.github.io/AGSM): the target is moved by
  "implicit-reward–weighted EMA predictions (ε̂_θ⁺, ε̂_θ⁻)", which are "conditioned on positive, negative soft tokens
  (ψ⁺, ψ⁻)", and candidates are normalised together (by a Plackett–Luce model). The notes speak of one average ψ̂.
* Given by neither source, and chosen here: k and l run over the captions that the picture is seen under, its own and
  `negatives` others, and not over the batch. "pos" is the picture under its own caption, with that caption's Δ;
  "neg" under each of the others, with theirs. |·|² is the mean over channels and places, also in w. A(t) and Ã(t) are
  constants, 1 unless set. ψ+, ψ− and both averages start equal, so two averages make no difference to the first step.
  One t and ε for the whole batch, as in SoftREPA.

Pictures are drawn with ψ+ alone, in both branches of guidance; ψ− and both averages are a part of checkpoints and of
no saved model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from longalign.losses import alignment_directions
from longalign.objectives.contrastive.pairs import Matching
from longalign.objectives.contrastive.settings import AlignmentGuidedSettings
from longalign.soft_tokens import Attachment, SoftTokens


@contextmanager
def wearing(attachment: Attachment, tokens: SoftTokens) -> Iterator[None]:
    """Use other tokens of the same kind in place of the attached ones. Backward passes belong inside, too."""
    before, attachment.tokens = attachment.tokens, tokens
    try:
        yield
    finally:
        attachment.tokens = before


# ψ̂± ← d ψ̂± + (1 − d) ψ±
@torch.no_grad()
def update_averages(averages: Mapping[str, nn.Module], tokens: Mapping[str, nn.Module], decay: float) -> None:
    """Both of a pair by name, ``positive`` and ``negative``."""
    for name, average in averages.items():
        torch._foreach_lerp_(
            list(average.parameters()), [p.detach() for p in tokens[name].parameters()], 1 - decay
        )


def choose_negatives(same: Tensor, own: int, near: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(1 + count,) the captions that a picture is seen under: its own, near ones, and others in random order.

    Where there are fewer of them, they come again.

    Args:
        same: (B, B), as of `longalign.objectives.contrastive.pairs.same_captions`.
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
    averages: Mapping[str, SoftTokens],
    negative: SoftTokens,
    accelerator: Any,
) -> dict[str, Tensor]:
    """Add the gradient of L for ψ+, which is attached, and ψ− to `.grad`.

    Beside the graph of `pairs_at_once` pairs it holds a few latents for each pair, not more.

    Args:
        seen: (b, 1 + n) numbers of the captions of each picture, its own first.
        averages: ψ̂+ as ``positive`` and ψ̂− as ``negative``.

    Returns:
        the loss and its two parts.
    """
    rows, captions = seen.shape
    pairs = torch.stack([torch.arange(rows).repeat_interleave(captions), seen.flatten()], dim=1)
    own = torch.arange(len(pairs)) % captions == 0
    chunks: dict[str, list[Tensor]] = {}
    for name, chosen in (("positive", own), ("negative", ~own)):
        places = chosen.nonzero().flatten()
        chunks[name] = [places[part] for part in matching.chunks(pairs[places])]
    predicted = matching.x_t.new_empty(len(pairs), *matching.x_t.shape[1:])
    for name, parts in chunks.items():
        with torch.no_grad(), wearing(attachment, averages[name]):
            for part in parts:
                predicted[part] = matching.predictions(pairs[part])
    delta = alignment_directions(
        predicted.unflatten(0, seen.shape), matching.target, settings.temperature, settings.weight
    ).flatten(0, 1)  # (b (1 + n), C, h, w)
    found = {}
    for name, tokens, gamma in (
        ("positive", attachment.tokens, settings.gamma_positive),
        ("negative", negative, -settings.gamma_negative),
    ):
        count, total = sum(map(len, chunks[name])), matching.x_t.new_zeros(())
        with wearing(attachment, tokens):
            for part in chunks[name]:
                target = (
                    matching.target[pairs[part, 0].to(delta.device)] + gamma * settings.step * delta[part]
                )
                errors = (matching.predictions(pairs[part]) - target).square().flatten(1).mean(1)
                loss = errors.sum() / count
                accelerator.backward(loss)
                total += loss.detach()
        found[f"loss_{name}"] = total
    return {"loss": found["loss_positive"] + found["loss_negative"], **found}
