"""Held-out captions drawn, and judged by an oracle: the independent judge that training losses are none of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from longalign.data.cached import CachedPictures
from longalign.data.text_states import Padding, TextStates, join
from longalign.diffusion.sampling import to_images
from longalign.encoding import Conditioning
from longalign.encoding.segments import Segmenter
from longalign.encoding.towers import inference
from longalign.objectives.random_draws import normal
from longalign.worlds import world

_AT_ONCE = 32
_SEED = 20_000  # picture i comes from this seed + i, in every evaluation and run


def judged(
    objective: Any, prompts: Sequence[str], accelerator: Any
) -> tuple[dict[str, float], list[tuple[str, Image.Image]]]:
    """Draws captions and asks the oracle. Every process draws its share of the pictures.

    Args:
        objective: a `longalign.objectives.pictures.captioned.FromPictures`.

    Returns:
        `true`, the share of the captions' sentences that the oracle finds true (unclear is not true), and the mean of
        its looks (`longalign.worlds.World.looks`); and the first pictures that this process drew, with their captions.
    """
    context, segmenter, judge = objective.context, Segmenter(), world(objective.model.oracle)
    mine = range(context.process_index, len(prompts), context.num_processes)
    sums = torch.zeros(4, device=objective.denoiser.device)  # sentences, true ones, looks, pictures
    shown: list[tuple[str, Image.Image]] = []
    for first in range(0, len(mine), _AT_ONCE):
        numbers = list(mine[first : first + _AT_ONCE])
        captions = [prompts[i] for i in numbers]
        states = objective.texts.encode(captions)
        images = to_images(torch.stack(draw(objective, states, objective.texts.padding, numbers)))
        for text, image in zip(captions, images, strict=True):
            marks = judge.judge(image, [s.text for s in segmenter(text)])
            known = [mark for mark in marks if mark != "unjudged"]
            sums += torch.tensor([len(known), known.count("true"), judge.looks(image), 1]).to(sums)
        shown += zip(captions, images, strict=True)
        shown = shown[: objective.settings.sample_pictures]
    sentences, true, looks, pictures = accelerator.reduce(sums, reduction="sum").tolist()
    found = {"true": true / sentences if sentences else float("nan"), "looks": looks / pictures}
    return found, shown


def drawn_samples(objective: Any, count: int) -> list[tuple[str, Image.Image]]:
    """The first held-out captions, and what the model under training draws of them now.

    Args:
        objective: a `longalign.objectives.pictures.captioned.FromPictures` with held-out rows.
    """
    numbers = range(count)
    _, states, padding = objective.encode_held_out(numbers)
    pictures = to_images(torch.stack(draw(objective, states, padding, numbers)))
    cached = isinstance(objective.held_out, CachedPictures)  # captions are not in it
    captions = [f"held-out row {i}" if cached else str(objective.held_out[i].text) for i in numbers]
    return list(zip(captions, pictures, strict=True))


@torch.no_grad()
def draw(
    objective: Any, states: Sequence[TextStates], padding: Padding, numbers: Sequence[int]
) -> list[Tensor]:
    """A picture for each encoded caption, (3, H, W) in [0, 1], as the model under training draws it now.

    Args:
        numbers: of the captions; picture i always comes from the same seed.
    """
    denoiser = objective.denoiser
    guidance = 1.0 if objective.solver[0] == "lcm" else objective.guidance
    found: dict[int, Tensor] = {}
    with inference(denoiser.module):
        for members, c in join(states, padding, objective.adapter):
            generators = [torch.Generator().manual_seed(_SEED + numbers[m]) for m in members]
            shape = (denoiser.channels, denoiser.side, denoiser.side)
            noise = normal(generators, *shape).to(denoiser.device)

            def predict(_: int, x: Tensor, t: Tensor, c: Conditioning = c) -> Tensor:
                return denoiser.guided(x, t, c, guidance)

            latents = objective.sampler.sample(predict, noise, generator=generators)
            found |= dict(zip(members, denoiser.decode(latents).float(), strict=True))
    return [found[i] for i in range(len(states))]
