"""Held-out captions drawn and judged by an oracle: the independent judge that training losses are none of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longalign.data.texts import join
from longalign.encoding import Conditioning
from longalign.encoding.towers import inference
from longalign.judging import judge
from longalign.sampling import to_images
from longalign.segments import Segmenter
from longalign.solver import LinearSolver

_AT_ONCE = 32
_SEED = 20_000  # picture i comes from this seed + i, in every evaluation and run


def share_true(objective: Any, sampler: LinearSolver, prompts: Sequence[str], accelerator: Any) -> float:
    """Share of the captions' sentences that the oracle finds true of pictures of them; unclear is not true.

    Every process draws its share of the pictures.

    Args:
        objective: a `longalign.objectives.from_pictures.FromPictures`.
    """
    context, segmenter = objective.context, Segmenter()
    mine = range(context.process_index, len(prompts), context.num_processes)
    sums = torch.zeros(2, device=objective.denoiser.device)  # sentences, true ones
    for first in range(0, len(mine), _AT_ONCE):
        numbers = list(mine[first : first + _AT_ONCE])
        pictures = draw(objective, sampler, [prompts[i] for i in numbers], [_SEED + i for i in numbers])
        for i, image in zip(numbers, to_images(torch.stack(pictures)), strict=True):
            marks = judge([s.text for s in segmenter(prompts[i])], image, objective.model.oracle)
            known = [mark for mark in marks if mark != "unjudged"]
            sums += torch.tensor([len(known), known.count("true")]).to(sums)
    sentences, true = accelerator.reduce(sums, reduction="sum").tolist()
    return true / sentences if sentences else float("nan")


@torch.no_grad()
def draw(
    objective: Any, sampler: LinearSolver, captions: Sequence[str], seeds: Sequence[int]
) -> list[Tensor]:
    """A picture for each caption, (3, H, W) in [0, 1], as the model under training draws it now."""
    denoiser, texts = objective.denoiser, objective.texts
    guidance = 1.0 if objective.solver[0] == "lcm" else objective.guidance
    found: dict[int, Tensor] = {}
    with inference(denoiser.module):
        for members, c in join(texts.encode(captions), texts.padding, objective.adapter):
            generators = [torch.Generator().manual_seed(seeds[m]) for m in members]
            shape = (denoiser.channels, denoiser.side, denoiser.side)
            noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(denoiser.device)

            def predict(_: int, x: Tensor, t: Tensor, c: Conditioning = c) -> Tensor:
                return denoiser.guided(x, t, c, guidance)

            latents = sampler.sample(predict, noise, generator=generators)
            found |= dict(zip(members, denoiser.decode(latents).float(), strict=True))
    return [found[i] for i in range(len(captions))]
