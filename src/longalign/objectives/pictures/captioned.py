"""Base class of the objectives that train on image–caption pairs."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import torch
from PIL import Image
from torch import Tensor, nn
from typing_extensions import NotRequired

from longalign.data.buckets import Buckets, Frame, grouped
from longalign.data.cached import CachedPictures
from longalign.data.captioned import CaptionedPictures, Example, SkipLog
from longalign.data.entries import Failure
from longalign.data.text_states import Padding, TextSide, TextStates, cut_off, join
from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.pipelines import ModelSettings, settings_of
from longalign.diffusion.sampling import to_images
from longalign.diffusion.solver import LinearSolver, make_solver
from longalign.encoding import Conditioning, T5Branch
from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError
from longalign.objectives import BuildContext, Objective, Task
from longalign.objectives.held_out_pictures import oracle_counts, picture_generators
from longalign.objectives.pictures.loading import Data, captions_of, load_pictures
from longalign.objectives.pictures.settings import CaptionedSettings, PictureDataSettings
from longalign.objectives.random_draws import normal
from longalign.runtime import inference
from longalign.weights.stack import load_pipeline, put_on, t5_branch
from longalign.worlds import world

_DRAWN_AT_ONCE = 32


class Batch(TypedDict):
    """A micro-batch of B rows."""

    image: Tensor  # uint8 (B, 3, H, W), or (B, C, h, w) latents; one bucket
    texts: list[Any]  # captions, or their TextStates
    frames: list[Frame | None]
    skipped: list[Failure]
    others: NotRequired[list[tuple[str, ...]]]  # further captions of each row


class CaptionedObjective(Objective):
    """Base of objectives with a loss on noised latents under a caption.

    It loads model and data, encodes pictures and captions (live or from a cache), draws held-out captions, and asks
    the model's oracle about the pictures. A subclass says what is trained (`prepare`), how it learns (`learn`), and
    what it measures (`held_out_figures`).

    Captions of one batch may have different padded lengths. They are then grouped by length, so that a caption's
    padding never depends on other captions of the batch.

    Args:
        pipe: a diffusers pipeline in float32, with the LoRAs of earlier stages on its denoiser.
        settings: the objective's section of a recipe.
        data: what the model is trained on.
        model: defaults of the pipeline's model.
        model_name: its name, for messages and saved files.
        t5: the T5 branch, where the strategy needs one.
        held_out: what `evaluate` measures on, at most ``held_out_count`` rows of it.
        prompts: held-out captions whose pictures the oracle judges.
        flip: mirror half of the training pictures.
        context: device and processes; None is one process.

    Attributes:
        name: the objective's name; also the name of its LoRA.
        solver: name and number of steps of the solver that draws pictures.

    Raises:
        LongalignError: a cache was made with another model or encoding, or `flip` with a cache.
    """

    Settings: ClassVar[type[CaptionedSettings]]
    DataSettings = PictureDataSettings
    name: ClassVar[str]
    solver: ClassVar[tuple[str, int]]
    settings: CaptionedSettings

    def __init__(
        self,
        pipe: Any,
        settings: CaptionedSettings,
        data: Data,
        *,
        model: ModelSettings | None = None,
        model_name: str = "",
        t5: T5Branch | None = None,
        held_out: Data | None = None,
        held_out_count: int = 256,
        prompts: Sequence[str] = (),
        flip: bool = False,
        context: BuildContext | None = None,
    ) -> None:
        self.pipe, self.settings, self.data, self.held_out = pipe, settings, data, held_out
        self.held_out_count = 0 if held_out is None else min(held_out_count, len(held_out))
        self.model, self.model_name = model or ModelSettings(), model_name
        self.denoiser = Denoiser.of(pipe)
        self.context = context or BuildContext(self.denoiser.device)
        length = settings.length if settings.length is not None else self.model.length
        if self.tunes_text and isinstance(data, CachedPictures):
            raise LongalignError(
                f"{self.name}: tune_text changes what captions are encoded to, so a cache cannot hold that: name the "
                "pictures that it was made of"
            )
        if flip and isinstance(data, CachedPictures):
            raise LongalignError(
                f"data.flip: {data.folder} is a cache, whose latents cannot be mirrored: name the pictures that it was "
                "made of, or leave flip out"
            )
        self.flip = flip
        self.texts = TextSide(pipe, settings.strategy, length, t5, training=self.tunes_text)
        self.t5, self.prompts = t5, list(prompts)
        for part in (data, held_out):
            if isinstance(part, CachedPictures):
                part.check(pipe.vae, self.texts, self.size_px)
        self.skip_log = SkipLog(len(data), "the training data")
        own_guidance = 1.0 if self.model.guidance is None else self.model.guidance
        self.guidance = own_guidance if settings.guidance is None else settings.guidance
        self._judged: list[tuple[str, Image.Image]] = []  # first pictures of the last evaluation
        self.prepare()
        self._move_unused_parts()

    @property
    def tunes_text(self) -> bool:
        """Whether LoRAs of the CLIP text encoders are trained, too."""
        return getattr(self.settings, "tune_text", "none") == "lora"

    @classmethod
    def build(
        cls, model: str, settings: CaptionedSettings, data: PictureDataSettings, context: BuildContext
    ) -> Task:
        """See `longalign.objectives.Objective.build`.

        Raises:
            LongalignError: no such model, LoRA or data; LoRAs of `start_from` in a wrong order or of another model; a
                cache of another model; more bad rows than good.
        """
        pipe = load_pipeline(model, device=str(context.device), dtype="float32")
        denoiser = Denoiser.of(pipe)
        size_px = data.size_px or denoiser.side * denoiser.vae_factor
        shapes = Buckets.of(denoiser, size_px, data.bucket_step_px) if data.buckets else None
        train = load_pictures(data.pictures, data, size_px, shapes, split="train", seed=context.seed)
        held_out = None
        own = settings_of(model, pipe)
        prompts: list[str] = []
        if data.held_out is not None:  # the same for every seed, so that runs can be compared
            held_out = load_pictures(data.held_out, data, size_px, shapes, split="validation", seed=0)
            if own.oracle is not None and settings.oracle_scenes:
                prompts = captions_of(held_out, settings.oracle_scenes)
        put_on(pipe, settings.start_from, base_name=model)
        objective = cls(
            pipe,
            settings,
            train,
            model=own,
            model_name=model,
            t5=t5_branch(model, settings.strategy, pipe, settings.start_from),
            held_out=held_out,
            held_out_count=data.held_out_count,
            prompts=prompts,
            flip=data.flip,
            context=context,
        )
        return Task(objective, train)

    def large_module(self) -> nn.Module | None:
        """The denoiser."""
        return self.denoiser.module

    @abstractmethod
    def prepare(self) -> None:
        """Add what is trained to the model, and freeze all other weights."""

    @abstractmethod
    def learn(
        self, x0: Tensor, states: Sequence[TextStates], padding: Padding, accelerator: Any
    ) -> dict[str, float | Tensor]:
        """Add the gradient of the mean loss over a micro-batch to `.grad`.

        Args:
            x0: (B, C, h, w) latents.
            states: the encoded captions of the B pictures.
            padding: as for `longalign.data.text_states.join`.

        Returns:
            metrics, ``loss`` among them.
        """

    @abstractmethod
    def held_out_figures(self, accelerator: Any) -> dict[str, float]:
        """Metrics on the held-out rows, which exist. Every process calls it."""

    def opened(self, folder: Path) -> None:
        """List skipped rows in the run folder, and say what buckets do to the pictures."""
        self.skip_log.open(folder)
        buckets = getattr(self.data, "assignment", None)
        if buckets is not None and (buckets.enlarged or buckets.beyond) and self.context.process_index == 0:
            warnings.warn(f"{self.data.name}: {buckets}", stacklevel=2)  # type: ignore[union-attr]

    def _freeze(self) -> None:
        """Freeze all parts of the pipeline and of the T5 branch, and set them to evaluation."""
        t5 = () if self.t5 is None else (self.t5.encoder, self.t5.adapter)
        for part in (*self.pipe.components.values(), *t5):
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()

    def _move_unused_parts(self) -> None:
        """Move encoders to the CPU where all data come from caches and no picture needs them."""
        live = isinstance(self.data, CaptionedPictures) or isinstance(self.held_out, CaptionedPictures)
        if live or self.prompts:
            return
        shows = self.settings.sample_pictures and self.held_out is not None
        for part in (*self.texts.modules, *([] if shows else [self.pipe.vae])):
            part.to("cpu")

    @property
    def size_px(self) -> int:
        """Side of square training pictures."""
        data = self.data
        if isinstance(data, CachedPictures):
            return int(data.settings["size_px"])
        return data.size_px

    @property
    def adapter(self) -> nn.Module | None:
        """The text adapter of the T5 branch."""
        return None if self.t5 is None else self.t5.adapter

    def collate(self, rows: Sequence[Example]) -> Batch:
        """Pictures, captions and skipped rows of one micro-batch."""
        return {
            "image": torch.stack([row.image for row in rows]),
            "texts": [row.text for row in rows],
            "others": [row.others for row in rows],
            "frames": [row.frame for row in rows],
            "skipped": [failure for row in rows for failure in row.skipped],
        }

    def backward(self, batch: Batch, accelerator: Any) -> dict[str, float | Tensor]:
        """See `longalign.objectives.Objective.backward`.

        Returns:
            what `learn` gives; `cut`, the share of captions that did not fit; `rows_skipped`, rows skipped so far, if
            there are any.
        """
        self.skip_log.add(batch["skipped"], len(batch["texts"]))
        if any(batch.get("others", ())):
            draws = self.draws_of(len(batch["texts"]))
            batch = {**batch, "texts": _drawn(batch, draws.captions(len(batch["texts"])))}
            self.reseed(draws)
        if self.flip:
            draws = self.draws_of(len(batch["texts"]))
            batch = {**batch, "image": _mirrored(batch["image"], draws.flips(len(batch["texts"])))}
            self.reseed(draws)
        x0, states, padding = self.encode(batch)
        states, hand_on = cut_off(states)
        metrics = self.learn(x0, states, padding, accelerator)
        hand_on()
        metrics["cut"] = sum(s.cut for s in states) / len(states)
        if len(self.skip_log):
            metrics["rows_skipped"] = float(len(self.skip_log))
        return metrics

    def encode(self, batch: Batch) -> tuple[Tensor, list[TextStates], Padding]:
        """(B, C, h, w) float32 latents and the states of the captions, live or from a cache."""
        device, image, texts = self.denoiser.device, batch["image"], batch["texts"]
        if image.dtype == torch.uint8:
            x0, states, padding = (
                self.denoiser.encode_pixels(image),
                self.texts.encode(texts),
                self.texts.padding,
            )
        else:
            data = self.data if isinstance(self.data, CachedPictures) else self.held_out
            assert isinstance(data, CachedPictures)
            x0, states, padding = image.to(device).float(), [s.to(device) for s in texts], data.padding
        framed = zip(states, batch["frames"], strict=True)
        return x0, [replace(s, frame=frame) for s, frame in framed], padding

    def held_out_groups(self, numbers: Sequence[int]) -> list[list[int]]:
        """Held-out rows in groups of one bucket, which `encode_held_out` takes."""
        return grouped(None if self.held_out is None else self.held_out.bucket_of, numbers)

    def encode_held_out(self, numbers: Sequence[int]) -> tuple[Tensor, list[TextStates], Padding]:
        """`encode` for some held-out rows of one bucket."""
        held_out = self.held_out
        assert held_out is not None
        batch = self.collate([held_out[i] for i in numbers])
        x0, states, padding = self.encode(batch)
        return x0, states, held_out.padding if isinstance(held_out, CachedPictures) else padding

    def times(self, u: Tensor) -> Tensor:
        """t = 1000 u for u in [0, 1), (B,); whole steps where the schedule has steps."""
        t = 1000 * u
        if self.denoiser.alphas_cumprod is None:
            return t
        return t.long().clamp(max=len(self.denoiser.alphas_cumprod) - 1)

    def state_dict(self) -> dict[str, Tensor]:
        """Which rows were skipped. Of several processes the main one writes its own list."""
        return self.skip_log.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the list of skipped rows."""
        self.skip_log.load_state_dict(state)

    def evaluate(self, accelerator: Any) -> dict[str, float]:
        """`held_out_figures`, and `judge_pictures` where the model has an oracle."""
        figures = {} if self.held_out is None else self.held_out_figures(accelerator)
        return figures | self.judge_pictures(accelerator) if self.prompts else figures

    def judge_pictures(self, accelerator: Any) -> dict[str, float]:
        """Draw the held-out captions and ask the oracle. Every process draws its share of the pictures.

        Returns:
            `true`, the share of the captions' sentences that the oracle finds true (unclear sentences count as not
            true); `looks`, the mean of `longalign.worlds.World.looks`.
        """
        segmenter, oracle = Segmenter(), world(self.model.oracle)
        mine = self.context.share(len(self.prompts))
        sums = torch.zeros(4, device=self.denoiser.device)  # sentences, true ones, looks, pictures
        shown: list[tuple[str, Image.Image]] = []
        for first in range(0, len(mine), _DRAWN_AT_ONCE):
            numbers = list(mine[first : first + _DRAWN_AT_ONCE])
            captions = [self.prompts[i] for i in numbers]
            images = self.draw(self.texts.encode(captions), self.texts.padding, numbers)
            for text, image in zip(captions, images, strict=True):
                counts = oracle_counts(oracle, image, [s.text for s in segmenter(text)])
                sums += torch.tensor([*counts, 1]).to(sums)
            shown += zip(captions, images, strict=True)
            shown = shown[: self.settings.sample_pictures]
        self._judged = shown
        sentences, true, looks, pictures = accelerator.reduce(sums, reduction="sum").tolist()
        return {"true": true / sentences if sentences else float("nan"), "looks": looks / pictures}

    def samples(self, accelerator: Any) -> list[tuple[str, Image.Image]]:
        """Held-out captions and pictures of them: those of the last evaluation where it drew some, else new ones."""
        count = min(self.settings.sample_pictures, self.held_out_count)
        if self.prompts or not count:
            return self._judged[:count]
        assert self.held_out is not None
        numbers, states = range(count), dict[int, TextStates]()
        for group in self.held_out_groups(numbers):
            _, found, padding = self.encode_held_out(group)
            states |= zip(group, found, strict=True)
        cached = isinstance(self.held_out, CachedPictures)  # a cache does not hold captions as text
        captions = [f"held-out row {i}" if cached else str(self.held_out[i].text) for i in numbers]
        pictures = self.draw([states[i] for i in numbers], padding, numbers)
        return list(zip(captions, pictures, strict=True))

    @torch.no_grad()
    def draw(
        self, states: Sequence[TextStates], padding: Padding, numbers: Sequence[int]
    ) -> list[Image.Image]:
        """One square picture of each encoded caption, as the model draws it now.

        Args:
            states: the encoded captions.
            padding: as for `longalign.data.text_states.join`.
            numbers: numbers of the captions, which give the pictures' seeds.
        """
        denoiser = self.denoiser
        guidance = 1.0 if self.solver[0] == "lcm" else self.guidance
        pictures: dict[int, Tensor] = {}
        states = [replace(s, frame=None) for s in states]  # that was of another picture
        with inference(denoiser.module):
            for members, c in join(states, padding, self.adapter):
                generators = picture_generators(numbers[m] for m in members)
                noise = normal(generators, denoiser.channels, denoiser.side, denoiser.side)

                def predict(_: int, x: Tensor, t: Tensor, c: Conditioning = c) -> Tensor:
                    return denoiser.guided(x, t, c, guidance)

                latents = self.sampler.sample(predict, noise.to(denoiser.device), generator=generators)
                pictures |= dict(zip(members, denoiser.decode(latents).float(), strict=True))
        return to_images(torch.stack([pictures[i] for i in range(len(states))]))

    @cached_property
    def sampler(self) -> LinearSolver:
        """The solver that draws pictures: `solver`, or the scheduler's own of a flow model."""
        name, steps = self.solver
        return make_solver(
            self.pipe.scheduler, "own" if self.denoiser.alphas_cumprod is None else name, steps
        )


def _drawn(batch: Batch, u: Tensor) -> list[str]:
    """One caption of each picture: the ⌊u · n⌋-th of its n."""
    captions = [(text, *more) for text, more in zip(batch["texts"], batch.get("others", []), strict=True)]
    return [of[int(x * len(of))] for of, x in zip(captions, u.tolist(), strict=True)]


def _mirrored(image: Tensor, which: Tensor) -> Tensor:
    """(B, 3, H, W) with some rows mirrored, left for right."""
    return torch.where(which.to(image.device)[:, None, None, None], image.flip(-1), image)
