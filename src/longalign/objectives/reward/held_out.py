"""Evaluation on held-out prompts by preference models that are not trained on, by distances, and by the oracle."""

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
from longalign.objectives import BuildContext
from longalign.objectives.held_out_pictures import oracle_counts, picture_seeds
from longalign.objectives.lora_off import without_lora
from longalign.objectives.reward.rewards import Reward, load_reward
from longalign.objectives.reward.sampling import Prompts, RewardSampler, load_prompts
from longalign.objectives.reward.settings import RewardDataSettings, RewardSettings
from longalign.preference.images import to_pixels
from longalign.preference.scores import SCALE
from longalign.worlds import world

_ORACLE = 3  # columns: sentences, true ones, looks
_Pictures = Iterator[tuple[list[int], list[str], Tensor]]


@dataclass(eq=False)
class HeldOut:
    """Held-out prompts, and preference models that are not trained on.

    Attributes:
        prompts: the prompts.
        most: largest number of prompts to use.
        others: preference models besides those that are trained on.
        samples: prompts and pictures of the last evaluation, in this process.
        reference: (count, D) C_X of the pictures that `fid` and `cmmd` compare with; None before the first evaluation.
    """

    prompts: Prompts
    most: int
    others: Sequence[Reward] = field(default_factory=tuple)
    samples: list[tuple[str, Image.Image]] = field(default_factory=list, init=False)
    reference: Tensor | None = field(default=None, init=False)

    @property
    def count(self) -> int:
        """Number of prompts that are used."""
        return min(self.most, len(self.prompts))

    def evaluate(
        self,
        sampler: RewardSampler,
        rewards: Sequence[Reward],
        lora_name: str,
        context: BuildContext,
        accelerator: Any,
    ) -> dict[str, float]:
        """Draw the prompts from fixed seeds as in training, crop the centre, and score the pictures.

        Every process draws its share of the pictures.

        Args:
            sampler: the model under training.
            rewards: the preference models that are trained on.
            lora_name: name of the LoRA under training. Without it the model is what training started from.
            context: which process this is.
            accelerator: accelerate's, for sums over processes.

        Returns:
            `reward`: as in training. `score_…`: 100 · C_X·C_P of each other preference model, higher is better.
            The features of the following are C_X of the first model (others before those trained on). `diversity`:
            1 − the mean cosine between pictures of different prompts; it falls when pictures become similar. `fid` and
            `cmmd`: distances from the pictures that `distance_to` names (`longalign.metrics.distances`); for few
            pictures, compare FID only with FID of as many pictures. Where the model has an oracle: `true`, the share of
            sentences that it finds true, and `looks`, the mean of `longalign.worlds.World.looks`.
        """
        judges = [*self.others, *rewards]
        wanted = sampler.settings.sample_pictures
        # For each picture: scores of the judges, counts of the oracle, C_X of the first judge.
        rows = torch.zeros(self.count, len(judges) + _ORACLE + judges[0].model.width, dtype=torch.float64)
        shown: dict[int, tuple[str, Image.Image]] = {}
        for numbers, prompts, pixels in self._drawn(sampler, context):
            images = to_images(pixels.float())
            shown |= dict(zip(numbers, zip(prompts, images, strict=True), strict=True))
            shown = {i: shown[i] for i in sorted(shown)[:wanted]}
            scores, features = _scored(judges, sampler.cropped(pixels, None), prompts)
            counts = _oracle_rows(sampler.model.oracle, rewards[0], images, prompts)
            rows[numbers] = torch.cat([scores, counts, features], dim=1)
        self.samples = list(shown.values())
        rows = _shared(rows, accelerator)
        features = rows[:, len(judges) + _ORACLE :]
        means = rows.mean(0).tolist()
        figures = {f"score_{other.name}": mean for other, mean in zip(self.others, means, strict=False)}
        own = means[len(self.others) : len(judges)]
        figures["reward"] = sum(r.weight * mean for r, mean in zip(rewards, own, strict=True))
        if self.count > 1:
            figures["diversity"] = diversity(features)
            reference = self._reference(sampler, judges[0], lora_name, context, accelerator)
            if reference is not None:
                figures |= {"fid": fid(features, reference), "cmmd": cmmd(features, reference)}
        sentences, true, looks = means[len(judges) : len(judges) + _ORACLE]
        if sentences:
            figures |= {"true": true / sentences, "looks": looks}
        return figures

    def _batches(self, sampler: RewardSampler, context: BuildContext) -> Iterator[list[int]]:
        """The numbers of this process's prompts, as many as are sampled together."""
        mine, at_once = context.share(self.count), sampler.settings.evaluate_at_once
        return (list(mine[first : first + at_once]) for first in range(0, len(mine), at_once))

    def _drawn(self, sampler: RewardSampler, context: BuildContext) -> _Pictures:
        """Numbers, prompts and (B, 3, H, W) pictures, batch by batch."""
        for numbers in self._batches(sampler, context):
            prompts = [self.prompts[i] for i in numbers]
            for members, conditioning in sampler.encode(prompts):
                own = [numbers[m] for m in members]
                yield (
                    own,
                    [prompts[m] for m in members],
                    sampler.sample(conditioning, picture_seeds(own)),
                )

    def _own_pictures(self, sampler: RewardSampler, context: BuildContext) -> _Pictures:
        """As `_drawn`, of the pictures that the prompts are captions of."""
        for numbers in self._batches(sampler, context):
            pictures = [self.prompts.picture(i) for i in numbers]
            pixels = torch.stack([to_pixels(picture) for picture in pictures if picture is not None])
            yield numbers, [self.prompts[i] for i in numbers], pixels.to(sampler.denoiser.device)

    def _reference(
        self,
        sampler: RewardSampler,
        extractor: Reward,
        lora_name: str,
        context: BuildContext,
        accelerator: Any,
    ) -> Tensor | None:
        """(count, D) C_X of the pictures that distances compare with; computed once."""
        kind = sampler.settings.distance_to
        if kind == "none" or self.reference is not None:
            return self.reference
        rows = torch.zeros(self.count, extractor.model.width, dtype=torch.float64)
        pictures = (self._own_pictures if kind == "pictures" else self._drawn)(sampler, context)
        with torch.no_grad(), without_lora(sampler.denoiser.module, lora_name):
            for numbers, _, pixels in pictures:
                rows[numbers] = extractor.image(sampler.cropped(pixels, None)).double().cpu()
        self.reference = _shared(rows, accelerator)
        return self.reference


def load_held_out(settings: RewardSettings, data: RewardDataSettings, device: str) -> HeldOut | None:
    """The held-out prompts and preference models of a recipe, the same for every seed; None where it names none.

    Raises:
        LongalignError: no such prompts or preference model; `distance_to` asks for pictures that the prompts lack.
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
            f"reward.distance_to: {data.held_out} has no reference pictures of its prompts: take base or none"
        )
    others = [load_reward(wanted, settings, device, judging=True) for wanted in settings.evaluate_with]
    return HeldOut(prompts, data.held_out_count, others)


def _shared(rows: Tensor, accelerator: Any) -> Tensor:
    """Rows of which each process has filled its own, whole on every process; float64 on the CPU."""
    rows = rows.float() if accelerator.device.type == "mps" else rows
    return accelerator.reduce(rows.to(accelerator.device), reduction="sum").cpu().double()


def _oracle_rows(
    oracle: str | None, reward: Reward, images: Sequence[Image.Image], prompts: Sequence[str]
) -> Tensor:
    """(B, 3) `oracle_counts` of pictures, by the sentences of the reward's segmenter; zeros without an oracle."""
    rows = torch.zeros(len(images), _ORACLE, dtype=torch.float64)
    if oracle is None:
        return rows
    judge = world(oracle)
    for row, image, prompt in zip(rows, images, prompts, strict=True):
        sentences = [segment.text for segment in reward.model.segments(prompt)]
        row[:] = torch.tensor(oracle_counts(judge, image, sentences))
    return rows


@torch.no_grad()
def _scored(judges: Sequence[Reward], pixels: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(B, judges) plain scores of cropped pictures, and (B, D) C_X of the first judge."""
    images = [judge.image(pixels) for judge in judges]
    plain = [(image * judge.plain(prompts)).sum(-1) for judge, image in zip(judges, images, strict=True)]
    return SCALE * torch.stack(plain, dim=1).double().cpu(), images[0].double().cpu()
