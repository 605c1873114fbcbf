"""Is the model getting better, or only better at pleasing its reward? Held-out prompts, judged by others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from longalign.judging import judge
from longalign.objectives.rewards import Reward
from longalign.preference.scores import SCALE
from longalign.sampling import to_images

if TYPE_CHECKING:
    from longalign.objectives.reward import RewardObjective

_SEED = 20_000  # picture i of the held-out prompts comes from this seed + i, in every evaluation and run


@dataclass(frozen=True)
class HeldOut:
    """Prompts that are not trained on, and preference models that are not, either.

    Attributes:
        count: at most so many of the prompts.
        others: judges besides those that are trained on.
    """

    prompts: Dataset[str]
    count: int
    others: Sequence[Reward] = field(default_factory=tuple)


def evaluate(objective: RewardObjective, held_out: HeldOut, accelerator: Any) -> dict[str, float]:
    """Pictures of held-out prompts, from fixed seeds, sampled as in training, cropped in the middle.

    Returns:
        `reward`: as in training. `score_…`: 100 · C_X·C_P of each other preference model, higher is better.
        `diversity`: 1 − the mean cosine between C_X of different prompts' pictures, by the first of all the models
        (others before those trained on); it falls as pictures come to look alike. `true`, where the model
        has an oracle: the share of sentences that it finds true.
    """
    count = min(held_out.count, len(held_out.prompts))  # type: ignore[arg-type]
    context, at_once = objective.context, objective.settings.evaluate_at_once
    mine = range(context.process_index, count, context.num_processes)
    judges = [*held_out.others, *objective.rewards]
    # pictures, sentences, true ones, scores of each judge; then ΣC_X
    sums = torch.zeros(3 + len(judges) + judges[0].model.width, dtype=torch.float64)
    for first in range(0, len(mine), at_once):
        numbers = list(mine[first : first + at_once])
        prompts = [held_out.prompts[i] for i in numbers]
        for members, conditioning in objective.encode(prompts):
            pixels = objective.sample(conditioning, [_SEED + numbers[m] for m in members])
            texts = [prompts[m] for m in members]
            sums += torch.cat([_judged(objective, pixels, texts), *_scored(objective, judges, pixels, texts)])
    sums = sums.float() if accelerator.device.type == "mps" else sums
    n, sentences, true, *rest = accelerator.reduce(sums.to(accelerator.device), reduction="sum").tolist()
    scores, mean = rest[: len(judges)], torch.tensor(rest[len(judges) :], dtype=torch.float64)
    found = {f"score_{judge.name}": score / n for judge, score in zip(held_out.others, scores, strict=False)}
    own = scores[len(held_out.others) :]
    found["reward"] = sum(r.weight * s / n for r, s in zip(objective.rewards, own, strict=True))
    if n > 1:  # Σ_{i≠j} C_i·C_j = |ΣC|² − n, since each has length 1
        found["diversity"] = 1 - (float(mean @ mean) - n) / (n * (n - 1))
    if sentences:
        found["true"] = true / sentences
    return found


def _judged(objective: RewardObjective, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    """(3,) pictures, sentences that the oracle can judge, and true ones."""
    marks: list[str] = []
    if objective.model.oracle is not None:
        for prompt, image in zip(prompts, to_images(pixels.float()), strict=True):
            segments = objective.rewards[0].model.segments(prompt)
            marks += judge([segment.text for segment in segments], image, objective.model.oracle)
    known = [mark for mark in marks if mark != "unjudged"]
    return torch.tensor([len(prompts), len(known), known.count("true")], dtype=torch.float64)


@torch.no_grad()
def _scored(
    objective: RewardObjective, judges: Sequence[Reward], pixels: Tensor, prompts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """(judges,) sums of plain scores, and (D,) ΣC_X of the first."""
    seen = objective.cropped(pixels, None)
    images = [judge.image(seen) for judge in judges]
    plain = [(image * judge.plain(prompts)).sum() for judge, image in zip(judges, images, strict=True)]
    return SCALE * torch.stack(plain).double().cpu(), images[0].sum(0).double().cpu()
