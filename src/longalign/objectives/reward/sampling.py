"""Prompts, and how a model under reward fine-tuning samples pictures of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from longalign.data.prompts import read_prompt_file
from longalign.data.sources import Objects
from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.pipelines import ModelSettings
from longalign.diffusion.solver import LinearSolver, make_solver
from longalign.encoding import Conditioning, T5Branch, encode_groups
from longalign.objectives.random_draws import normal
from longalign.objectives.reward.gradient import Terms
from longalign.objectives.reward.settings import RewardSettings
from longalign.preference import crop
from longalign.runtime import inference
from longalign.worlds import WORLDS, world


class RewardSampler:
    """Samples pictures as a recipe's section ``reward`` says.

    Args:
        pipe: a diffusers pipeline.
        settings: the section ``reward``.
        model: defaults of the pipeline's model.
        t5: the T5 branch, where the strategy needs one.

    Attributes:
        guidance: scale of classifier-free guidance; 1 is none.

    Raises:
        LongalignError: the solver does not fit the model, or is not linear.
    """

    def __init__(
        self,
        pipe: Any,
        settings: RewardSettings,
        model: ModelSettings | None = None,
        t5: T5Branch | None = None,
    ) -> None:
        self.pipe, self.settings, self.t5 = pipe, settings, t5
        self.model = model or ModelSettings()
        self.denoiser = Denoiser.of(pipe)
        self.solver: LinearSolver = make_solver(
            pipe.scheduler,
            settings.solver,
            settings.resolved_steps,
            spacing=settings.spacing,
            timesteps=settings.timesteps,
            clean=self.denoiser.x0_weights if settings.final == "clean" else None,
        )
        # An LCM has the guidance in its weights.
        own_guidance = 1.0 if settings.solver == "lcm" else self.model.guidance
        guidance = settings.guidance if settings.guidance is not None else own_guidance
        self.guidance = 1.0 if guidance is None else guidance

    def encode(self, prompts: Sequence[str]) -> list[tuple[list[int], Conditioning]]:
        """One conditioning for each padded length, with the indices of its prompts."""
        length = self.settings.length if self.settings.length is not None else self.model.length
        return encode_groups(
            self.pipe,
            list(prompts),
            self.settings.negative_prompt,
            strategy=self.settings.strategy,
            length=length,
            t5=self.t5,
        )

    def terms(self, conditioning: Conditioning) -> Terms:
        """The terms of the guided prediction under a conditioning, for `longalign.objectives.reward.gradient`."""

        def parts(_: int, x: Tensor, t: Tensor) -> Iterator[tuple[float, Tensor]]:
            return self.denoiser.terms(x, t, conditioning, self.guidance, split=self.settings.split_guidance)

        return parts

    def noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        """(B, C, h, w) starting noise, each row from its own generator."""
        denoiser = self.denoiser
        dtype = torch.promote_types(torch.float32, denoiser.module.dtype)
        shape = (denoiser.channels, denoiser.side, denoiser.side)
        return normal(generators, *shape, dtype=dtype).to(denoiser.device)

    def cropped(self, pixels: Tensor, seed: int | None) -> Tensor:
        """The part of (B, 3, H, W) pictures that is scored, at a place from the seed; the centre without a seed."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return crop(pixels, self.settings.crop, generator)

    @torch.no_grad()
    def sample(self, conditioning: Conditioning, seeds: Sequence[int]) -> Tensor:
        """One picture for each prompt, (B, 3, H, W) in [0, 1], each from its own seed."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = self.noise(generators)

        def predict(_: int, x: Tensor, t: Tensor) -> Tensor:
            return self.denoiser.guided(x, t, conditioning, self.guidance, split=self.settings.split_guidance)

        with inference(self.denoiser.module):
            return self.denoiser.decode(self.solver.sample(predict, noise, generator=generators))


class Prompts(Dataset[str]):
    """A list of prompts."""

    def __init__(self, prompts: Sequence[str]) -> None:
        self.prompts = list(prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> str:
        return self.prompts[index]

    def picture(self, index: int) -> Image.Image | None:
        """The picture that the prompt is a caption of; None where there is none."""
        return None


class SceneCaptions(Prompts):
    """Captions of the pictures of a world, written when they are asked for."""

    def __init__(self, scenes: Any) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> str:
        return cast("str", self.scenes.text(index))

    def picture(self, index: int) -> Image.Image:
        return cast("Image.Image", self.scenes.picture(index))


def load_prompts(
    source: str,
    *,
    split: str = "train",
    seed: int = 0,
    count: int = 100_000,
    objects: Objects | Sequence[Objects] = (1, 9),
    referring: float = 0.0,
) -> Prompts:
    """Prompts by the name of their source: a world such as ``stickers``, or a text or JSONL file (`data/prompts.py`).

    Args:
        split, seed, count, objects, referring: of `longalign.worlds.World.pictures`; one range of ``objects`` will do.

    Raises:
        LongalignError: no such file, or no prompts in it.
    """
    if source in WORLDS:
        ranges = [objects] if isinstance(objects[0], int) else objects
        return SceneCaptions(world(source).pictures(count, split, seed, tuple(ranges), referring))  # type: ignore[arg-type]
    return Prompts(read_prompt_file(Path(source)))
