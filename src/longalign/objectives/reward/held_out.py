"""Is the model getting better, or only better at pleasing its reward? Held-out prompts, judged by others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from longalign.diffusion.sampling import to_images
from longalign.errors import LongalignError
from longalign.metrics.distances import cmmd, diversity, fid
from longalign.objectives.lora_off import without_lora
from longalign.objectives.reward.prompts import Prompts, load_prompts
from longalign.objectives.reward.rewards import Reward, load_reward
from longalign.objectives.reward.settings import RewardDataSettings, RewardSettings
from longalign.preference.images import to_pixels
from longalign.preference.scores import SCALE
from longalign.worlds import world

_SEED = 20_000  # picture i of the held-out prompts comes from this seed + i, in every evaluation and run
_ORACLE = 3  # sentences, true ones, looks


@dataclass(eq=False)
class HeldOut:
    """Prompts that are not trained on, and preference models that are not, either.

    Attributes:
        most: at most so many of the prompts.
        others: judges besides those that are trained on.
        samples: prompts and pictures of the last evaluation, in this process.
        reference: (count, D) C_X of the pictures that `fid` and `cmmd` compare with, once they are known.
    """

    prompts: Prompts
    most: int
    others: Sequence[Reward] = field(default_factory=tuple)
    samples: list[tuple[str, Image.Image]] = field(default_factory=list, init=False)
    reference: Tensor | None = field(default=None, init=False)

    @property
    def count(self) -> int:
        return min(self.most, len(self.prompts))


def load_held_out(settings: RewardSettings, data: RewardDataSettings, device: str) -> HeldOut | None:
    """What a recipe names; the same for every seed, so that runs can be compared.

    Raises:
        LongalignError: no such prompts or preference model; their pictures are wanted, and are not known.
    """
    if data.held_out is None:
        return None
    prompts = load_prompts(
        data.held_out,
        split="validation",
        count=data.held_out_count,
        objects=data.objects,
        referring=data.referring,
    )
    if settings.distance_to == "pictures" and prompts.picture(0) is None:
        raise LongalignError(
            f"reward.distance_to: nobody knows pictures of the prompts in {data.held_out}: take base or none"
        )
    others = [load_reward(wanted, settings, device, judging=True) for wanted in settings.evaluate_with]
    return HeldOut(prompts, data.held_out_count, others)


def evaluate(objective: Any, held_out: HeldOut, accelerator: Any) -> dict[str, float]:
    """Pictures of held-out prompts, from fixed seeds, sampled as in training, cropped in the middle.

    Every process draws its share of them.

    Returns:
        `reward`: as in training. `score_…`: 100 · C_X·C_P of each other preference model, higher is better.
        With C_X of the first of all the models (others before those trained on) as features: `diversity`,
        1 − the mean cosine between different prompts' pictures, which falls as pictures come to look alike; `fid`
        and `cmmd`, the distances from the pictures that `distance_to` says (`longalign.metrics.distances`): FID of so
        few pictures is of use only beside others of as many. Where the model has an oracle, `true`, the share of
        sentences that it finds true, and the mean of `longalign.worlds.World.looks`.
    """
    judges = [*held_out.others, *objective.rewards]
    wanted = objective.settings.sample_pictures
    # For each picture: scores of the judges, what the oracle says, C_X of the first judge.
    rows = torch.zeros(held_out.count, len(judges) + _ORACLE + judges[0].model.width, dtype=torch.float64)
    shown: dict[int, tuple[str, Image.Image]] = {}
    for numbers, prompts, pixels in _drawn(objective, held_out):
        images = to_images(pixels.float())
        shown |= dict(zip(numbers, zip(prompts, images, strict=True), strict=True))
        shown = {i: shown[i] for i in sorted(shown)[:wanted]}
        scores, features = _scored(objective, judges, pixels, prompts)
        rows[numbers] = torch.cat([scores, _seen_by_oracle(objective, images, prompts), features], dim=1)
    held_out.samples = list(shown.values())
    rows = _shared(rows, accelerator)
    features = rows[:, len(judges) + _ORACLE :]
    means = rows.mean(0).tolist()
    found = {f"score_{other.name}": mean for other, mean in zip(held_out.others, means, strict=False)}
    own = means[len(held_out.others) : len(judges)]
    found["reward"] = sum(r.weight * mean for r, mean in zip(objective.rewards, own, strict=True))
    if held_out.count > 1:
        found["diversity"] = diversity(features)
        reference = _reference(objective, held_out, judges[0], accelerator)
        if reference is not None:
            found |= {"fid": fid(features, reference), "cmmd": cmmd(features, reference)}
    sentences, true, looks = means[len(judges) : len(judges) + _ORACLE]
    if sentences:
        found |= {"true": true / sentences, "looks": looks}
    return found


def _mine(objective: Any, held_out: HeldOut) -> Iterator[list[int]]:
    """The numbers of this process's prompts, as many as are sampled together."""
    context, at_once = objective.context, objective.settings.evaluate_at_once
    mine = range(context.process_index, held_out.count, context.num_processes)
    return (list(mine[first : first + at_once]) for first in range(0, len(mine), at_once))


def _drawn(objective: Any, held_out: HeldOut) -> Iterator[tuple[list[int], list[str], Tensor]]:
    """Numbers, prompts and (B, 3, H, W) pictures, batch by batch."""
    for numbers in _mine(objective, held_out):
        prompts = [held_out.prompts[i] for i in numbers]
        for members, conditioning in objective.encode(prompts):
            own = [numbers[m] for m in members]
            yield own, [prompts[m] for m in members], objective.sample(conditioning, [_SEED + i for i in own])


def _reference(objective: Any, held_out: HeldOut, extractor: Reward, accelerator: Any) -> Tensor | None:
    """(count, D) C_X of what distances are measured from; made once."""
    kind = objective.settings.distance_to
    if kind == "none" or held_out.reference is not None:
        return held_out.reference
    rows = torch.zeros(held_out.count, extractor.model.width, dtype=torch.float64)
    pictures = (_known if kind == "pictures" else _drawn)(objective, held_out)
    with torch.no_grad(), without_lora(objective.denoiser.module, objective.name):
        for numbers, _, pixels in pictures:
            rows[numbers] = extractor.image(objective.cropped(pixels, None)).double().cpu()
    held_out.reference = _shared(rows, accelerator)
    return held_out.reference


def _known(objective: Any, held_out: HeldOut) -> Iterator[tuple[list[int], list[str], Tensor]]:
    """The same of what the prompts are captions of."""
    for numbers in _mine(objective, held_out):
        pictures = [held_out.prompts.picture(i) for i in numbers]
        pixels = torch.stack([to_pixels(picture) for picture in pictures if picture is not None])
        yield numbers, [held_out.prompts[i] for i in numbers], pixels.to(objective.denoiser.device)


def _shared(rows: Tensor, accelerator: Any) -> Tensor:
    """Rows that one process each has filled, on every process; float64 on the CPU."""
    rows = rows.float() if accelerator.device.type == "mps" else rows
    return accelerator.reduce(rows.to(accelerator.device), reduction="sum").cpu().double()


def _seen_by_oracle(objective: Any, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
    """(B, 3): sentences that the oracle can judge, true ones, looks. Zeros without an oracle."""
    rows = torch.zeros(len(images), _ORACLE, dtype=torch.float64)
    if objective.model.oracle is None:
        return rows
    judge = world(objective.model.oracle)
    for row, image, prompt in zip(rows, images, prompts, strict=True):
        segments = objective.rewards[0].model.segments(prompt)
        marks = judge.judge(image, [segment.text for segment in segments])
        known = [mark for mark in marks if mark != "unjudged"]
        row[:] = torch.tensor([len(known), known.count("true"), judge.looks(image)])
    return rows


@torch.no_grad()
def _scored(
    objective: Any, judges: Sequence[Reward], pixels: Tensor, prompts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """(B, judges) plain scores, and (B, D) C_X of the first."""
    seen = objective.cropped(pixels, None)
    images = [judge.image(seen) for judge in judges]
    plain = [(image * judge.plain(prompts)).sum(-1) for judge, image in zip(judges, images, strict=True)]
    return SCALE * torch.stack(plain, dim=1).double().cpu(), images[0].double().cpu()
