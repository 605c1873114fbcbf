"""A model that draws prompts of any length by fixed settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from PIL import Image

from longalign.diffusion.pipelines import settings_of
from longalign.diffusion.sampling import sample_groups, set_scheduler
from longalign.diffusion.sizes import size_for
from longalign.encoding import encode_groups
from longalign.encoding.conditioning import Conditioning
from longalign.encoding.options import EncodeOptions
from longalign.generation.settings import GenerateConfig
from longalign.picture_info import PictureInfo
from longalign.preference import PreferenceModel
from longalign.repairing import Repaired, repair
from longalign.versions import VERSION
from longalign.weights.stack import encoding_for

ON_STEP = Callable[[int], None]


class Painter:
    """A model that draws prompts by fixed settings.

    Args:
        config: the settings. `num`, `scorer` and `round_size` are the caller's.
        pipe: a pipeline that is loaded already; None: `config` loads it.

    Attributes:
        pipe: the pipeline.
        config: the settings, with the strategy and the segments that the model or its LoRA asks for.
        settings: the model's defaults.
        encoding: arguments of `longalign.encode`.

    Raises:
        LongalignError: the model, a LoRA or soft tokens cannot be loaded; a setting is unknown or out of range.
    """

    def __init__(self, config: GenerateConfig, pipe: Any = None) -> None:
        self.pipe = pipe or config.load()
        self.settings = settings_of(config.model, self.pipe)
        strategy, segments, length = encoding_for(config, self.settings, config.segments, config.length)
        self.config = config = replace(config, strategy=strategy, segments=segments)
        self.guidance = self.settings.guidance if config.guidance is None else config.guidance
        self.scheduler = set_scheduler(self.pipe, config.scheduler)
        self.size = size_for(self.pipe, config.width, config.height, round_size=config.round_size)
        self.encoding: EncodeOptions = {
            "strategy": config.strategy,
            "length": length,
            "max_length": config.max_length,
            "segments": config.segments,  # type: ignore[typeddict-item]  # checked there
            "pooled": config.pooled,  # type: ignore[typeddict-item]
            "language": config.language,
            "syntax": config.syntax,  # type: ignore[typeddict-item]
            "clip_skip": config.clip_skip,
            "t5": config.t5_branch(self.pipe),
        }

    @property
    def resolved(self) -> dict[str, Any]:
        """All settings, with the model's own where the user left the choice to it."""
        width, height = self.size or (None, None)
        used = {"guidance": self.guidance, "length": self.encoding["length"], "scheduler": self.scheduler}
        return {**asdict(self.config), **used, "width": width, "height": height}

    def encode(self, prompts: Sequence[str]) -> list[tuple[list[int], Conditioning]]:
        """The conditioning of prompts, in groups of one length, as of `longalign.encode_groups`."""
        return encode_groups(self.pipe, list(prompts), self.config.negative_prompt, **self.encoding)

    def paint(
        self,
        groups: Sequence[tuple[Sequence[int], Conditioning]],
        seeds: Sequence[int],
        *,
        on_image: Callable[[int, Image.Image], None] = lambda index, image: None,
        on_step: ON_STEP = lambda pictures: None,
        there: Callable[[int], bool] = lambda index: False,
    ) -> list[Image.Image]:
        """One picture for each prompt that `encode` was given, in order.

        Args:
            groups: of `encode`.
            seeds: one a prompt.
            on_image: called with the place of a prompt and its picture.
            on_step: called after each sampling step with the number of pictures in the batch.
            there: as of `longalign.diffusion.sampling.sample_groups`.
        """
        return sample_groups(
            self.pipe,
            groups,
            seeds,
            on_image=on_image,
            on_step=on_step,
            there=there,
            steps=self.config.steps,
            guidance=self.guidance,
            size=self.size,
            batch_size=self.config.batch_size,
        )

    def repaired(
        self,
        prompt: str,
        seed: int,
        scorer: PreferenceModel,
        *,
        on_step: ON_STEP = lambda pictures: None,
    ) -> Repaired:
        """One prompt by `longalign.repair`, with the settings' rounds and number of pictures.

        Args:
            prompt: its text.
            seed: of the first picture.
            scorer: the preference model.
            on_step: called after each sampling step with the number of pictures in the batch.
        """
        return repair(
            self.pipe,
            prompt,
            scorer=scorer,
            rounds=self.config.repair,
            best_of=self.config.best_of,
            seed=seed,
            negative_prompt=self.config.negative_prompt,
            steps=self.config.steps,
            guidance=self.guidance,
            size=self.size,
            pictures_at_once=self.config.batch_size,
            on_step=on_step,
            **self.encoding,
        )


def picture_info(prompt: str, image: Image.Image, resolved: Mapping[str, Any]) -> PictureInfo:
    """What a picture says of how it was made. Settings that say nothing are left out.

    Args:
        prompt: its prompt.
        image: the picture.
        resolved: all settings, with the seed of this picture.
    """
    silent = ("negative_prompt", "width", "height", "round_size", "num", "batch_size", "device", "check_base")
    settings = {k: v for k, v in resolved.items() if k not in silent and v not in (None, (), "")}
    if resolved["best_of"] == 1 and not resolved["repair"]:
        settings = {k: v for k, v in settings.items() if k not in ("best_of", "repair")}
    size = f"{image.width}x{image.height}"
    return PictureInfo(prompt, resolved["negative_prompt"], {**settings, "size": size, "version": VERSION})
