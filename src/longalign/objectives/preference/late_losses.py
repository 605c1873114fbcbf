"""How late interaction learns: from the pairs, as pooled scores do, and from single sentences."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from longalign.losses import preference_nll
from longalign.objectives.preference.pair_batches import Batch
from longalign.preference.late import LateHead, Tokens, late_scores


class LateParts(NamedTuple):
    """What late scores of a micro-batch are made of.

    Attributes:
        patches: (2B, P, W), all a before all b.
        tokens: of the pieces of all prompts, then of all captions, then of all questions.
        prompts: how many prompts there are: B or, with the pure segment loss, none.
    """

    patches: Tensor
    tokens: Tokens
    prompts: int


def late_losses(
    head: LateHead, batch: Batch, parts: LateParts, looks: Tensor, loss: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The pair loss of S (prompts and captions), the loss of calling sentences true or false, and how many are right.

    Args:
        looks: (B,) what is added to s ΔS of a prompt: the part of the preference that has nothing to do with the text.
            Of captions it is left out, as Eq. 10 does with V.
        loss: `PreferenceSettings.loss`.
    """
    count = len(parts.patches) // 2
    y = batch["preferred"].to(parts.patches)
    prompts = batch["prompts"][: parts.prompts]
    texts = [*prompts, *batch["captions"], *batch["asked"]]
    bounds = list(pairwise(accumulate([0, *map(len, texts)])))
    of_pair: list[list[int]] = [
        [] for _ in range(count)
    ]  # texts that both pictures of a pair are held against
    for i in range(len(prompts)):
        of_pair[i].append(i)
    for k, row in enumerate(batch["caption_rows"].tolist()):
        of_pair[row % count].append(len(prompts) + k)
    first = len(prompts) + len(batch["captions"])
    held = [
        [*of_pair[i % count], first + i] for i in range(2 * count)
    ]  # texts of each picture, its questions last
    rows = [r for of_picture in held for t in of_picture for r in range(*bounds[t])]
    counts = [sum(len(texts[t]) for t in of_picture) for of_picture in held]
    place = torch.tensor(rows, device=parts.patches.device)
    scores = iter(
        late_scores(parts.patches, parts.tokens.rows(place), counts).split(
            [len(texts[t]) for of_picture in held for t in of_picture]
        )
    )
    found = [{t: next(scores) for t in of_picture} for of_picture in held]

    s = head.scale.exp()
    terms = []
    for i in range(count):
        for t in of_pair[i]:
            delta = s * (found[i][t].mean() - found[count + i][t].mean())
            if t < len(prompts):
                terms.append(preference_nll(delta + looks[i], y[i], 1.0))
            else:  # Eq. 6: a picture's own caption counts by its share of the preference
                of_a = batch["caption_rows"][t - len(prompts)] < count
                terms.append((y[i] if of_a else 1 - y[i]) * preference_nll(delta, y[i], 1.0))
    pairs = torch.stack(terms).sum() / count if terms else s.new_zeros(())
    asked = torch.cat([of_picture[first + i] for i, of_picture in enumerate(found)])
    answers = torch.tensor([a for of_one in batch["asked_true"] for a in of_one], device=asked.device)
    if not len(asked):
        return pairs, s.new_zeros(()), s.new_zeros(())
    logits = head.logits(asked)
    right = ((logits > 0) == (answers > 0.5)).float().mean()
    return pairs, binary_cross_entropy_with_logits(logits, answers.to(logits)), right
