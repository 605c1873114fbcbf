"""What objectives that learn from captioned pictures share: data live or cached, LoRA, adapter, evaluation, saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from typing_extensions import Self

from longalign import lora
from longalign.checkpoints.base import fingerprint
from longalign.data.cached import CachedPictures
from longalign.data.captioned import CaptionedPictures, Example, SkipLog
from longalign.data.latents import encode_pixels
from longalign.data.texts import Padding, TextSide, TextStates, cut_off, join
from longalign.denoiser import Denoiser
from longalign.encoding import Conditioning, T5Branch
from longalign.errors import LongalignError
from longalign.generate import t5_branch
from longalign.objectives import BuildContext, Task
from longalign.objectives.drawn import drawn_samples, judged
from longalign.objectives.draws import Drawing, normal
from longalign.objectives.picture_data import Batch, Data, captions_of, load_pictures
from longalign.objectives.picture_settings import PictureDataSettings, PictureSettings
from longalign.objectives.whole_model import save_whole
from longalign.pipelines import ModelSettings, load_pipeline, settings_of
from longalign.solver import LinearSolver, make_solver

_EVALUATED_AT_ONCE = 32
_SEED = 10_000  # ε of held-out row i comes from this seed + i, in every evaluation and run


class FromPictures(Drawing, ABC):
    """Base of objectives with a loss on noised latents under a caption.

    A batch is split by the captions' padded lengths, since what stands behind a caption must not depend on its
    neighbours; the loss is a mean over rows all the same.

    Args:
        pipe: a diffusers pipeline in float32; its backbone is trained, as ``settings`` says, all else is frozen.
        data: what it is trained on.
        model: the defaults of the pipeline's model.
        t5: the T5 branch, where the strategy wants one.
        held_out: what `evaluate` measures on, at most ``held_out_count`` rows of it.
        prompts: captions to be drawn and judged.
    """

    Settings: ClassVar[type[PictureSettings]] = PictureSettings
    DataSettings: ClassVar[type] = PictureDataSettings
    name: ClassVar[str]
    trains_adapter: ClassVar[bool]
    solver: ClassVar[tuple[str, int]]

    def __init__(
        self,
        pipe: Any,
        settings: Any,
        data: Data,
        *,
        model: ModelSettings | None = None,
        model_name: str = "",
        t5: T5Branch | None = None,
        held_out: Data | None = None,
        held_out_count: int = 256,
        prompts: Sequence[str] = (),
        context: BuildContext | None = None,
    ) -> None:
        self.pipe, self.settings, self.data, self.held_out = pipe, settings, data, held_out
        self.held_out_count = 0 if held_out is None else min(held_out_count, len(held_out))
        self.model, self.model_name = model or ModelSettings(), model_name
        self.denoiser = Denoiser.of(pipe)
        self.context = context or BuildContext(self.denoiser.device)
        self.base = fingerprint(self.denoiser.module, model_name) if settings.tune == "lora" else None
        length = settings.length if settings.length is not None else self.model.length
        tune_text = getattr(settings, "tune_text", "none")
        self.clips = {} if tune_text == "none" else lora.clips_of(pipe)  # those that are trained
        if self.clips and isinstance(data, CachedPictures):
            raise LongalignError(
                f"{self.name}: tune_text changes what captions are encoded to, so a cache cannot hold that: name the "
                "pictures that it was made of"
            )
        self.texts = TextSide(pipe, settings.strategy, length, t5, training=bool(self.clips))
        self.t5, self.prompts = t5, list(prompts)
        for part in (data, held_out):
            if isinstance(part, CachedPictures):
                part.check(pipe.vae, self.texts, self.size_px)
        self.skip_log = SkipLog(len(data), "the training data")
        own_guidance = 1.0 if self.model.guidance is None else self.model.guidance
        self.guidance = own_guidance if settings.guidance is None else settings.guidance
        self._shown: list[tuple[str, Image.Image]] = []  # pictures of the last evaluation
        self._freeze()

    @classmethod
    def build(cls, model: str, settings: Any, data: PictureDataSettings, context: BuildContext) -> Task:
        """See `longalign.objectives.Objective`.

        Raises:
            LongalignError: no such model, LoRA or data; a cache of another model; more bad rows than good.
        """
        pipe = load_pipeline(model, device=str(context.device), dtype="float32")
        t5 = t5_branch(model, settings.strategy, pipe)
        denoiser = Denoiser.of(pipe)
        size_px = data.size_px or denoiser.side * denoiser.vae_factor
        train = load_pictures(data.pictures, data, size_px, split="train", seed=context.seed)
        held_out = None
        own = settings_of(model, pipe)
        prompts: list[str] = []
        if data.held_out is not None:  # the same for every seed, so that runs can be compared
            held_out = load_pictures(data.held_out, data, size_px, split="validation", seed=0)
            if own.oracle is not None and settings.oracle_scenes:
                prompts = captions_of(held_out, settings.oracle_scenes)
        for number, folder in enumerate(settings.start_from):
            lora.load(denoiser.module, folder, name=f"stage_{number}", base_name=model)
            lora.load_text(pipe, folder, name=f"stage_{number}", base_name=model)
            adapter = lora.load_text_adapter(folder)
            if t5 is not None and adapter is not None:
                t5 = T5Branch(t5.tokenizer, t5.encoder, adapter.to(context.device, torch.float32))
        objective = cls(
            pipe,
            settings,
            train,
            model=own,
            model_name=model,
            t5=t5,
            held_out=held_out,
            held_out_count=data.held_out_count,
            prompts=prompts,
            context=context,
        )
        return Task(objective, train)

    def opened(self, folder: Path) -> Self:
        """List skipped rows in a run folder."""
        self.skip_log.open(folder)
        return self

    def _freeze(self) -> None:
        """Says which weights are trained, and moves parts that nothing needs off the device."""
        settings, module = self.settings, self.denoiser.module
        if settings.tune == "full":
            if self.clips:
                raise LongalignError(f"{self.name}: tune_text goes with tune 'lora', not 'full'")
            if settings.start_from:
                raise LongalignError(
                    f"{self.name}: tune 'full' starts from a whole model: merge the LoRAs of start_from"
                )
            module.requires_grad_(True)
        else:
            lora.attach(module, settings.rank, dropout=getattr(settings, "dropout", 0.0), name=self.name)
        if settings.gradient_checkpointing:
            module.enable_gradient_checkpointing()
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module) and part is not module:
                part.requires_grad_(False).eval()
        for clip in self.clips.values():
            lora.attach(clip, settings.text_rank, name=self.name)
        if self.t5 is not None:
            self.t5.encoder.requires_grad_(False).eval()
            self.t5.adapter.requires_grad_(self.trains_adapter)
        if (
            isinstance(self.data, CachedPictures)
            and not self.prompts
            and not isinstance(self.held_out, CaptionedPictures)
        ):
            shows = settings.sample_pictures and self.held_out is not None
            for part in (*self.texts.modules, *([] if shows else [self.pipe.vae])):
                part.to("cpu")

    @property
    def size_px(self) -> int:
        data = self.data
        if isinstance(data, CachedPictures):
            return int(data.settings["size_px"])
        return data.size_px

    @property
    def adapter(self) -> nn.Module | None:
        return None if self.t5 is None else self.t5.adapter

    def modules(self) -> Mapping[str, nn.Module]:
        found = {lora.component_of(self.denoiser.module): self.denoiser.module}
        if self.adapter is not None and self.trains_adapter:
            found["adapter"] = self.adapter
        return found | self.clips

    def collate(self, rows: Sequence[Example]) -> Batch:
        return {
            "image": torch.stack([row.image for row in rows]),
            "texts": [row.text for row in rows],
            "skipped": [failure for row in rows for failure in row.skipped],
        }

    def backward(self, batch: Batch, accelerator: Any) -> dict[str, float | Tensor]:
        """See `longalign.objectives.Objective`.

        Returns:
            the loss; the share of captions that did not fit (`cut`); rows skipped so far, if any (`rows_skipped`).
        """
        self.skip_log.add(batch["skipped"], len(batch["texts"]))
        x0, states, padding = self.encode(batch)
        states, hand_on = cut_off(states)
        found = self.learn(x0, states, padding, accelerator)
        hand_on()
        found["cut"] = sum(s.cut for s in states) / len(states)
        if len(self.skip_log):
            found["rows_skipped"] = float(len(self.skip_log))
        return found

    @abstractmethod
    def learn(
        self, x0: Tensor, states: Sequence[TextStates], padding: Padding, accelerator: Any
    ) -> dict[str, float | Tensor]:
        """The gradient of the mean loss over (B, C, h, w) latents and their B captions, and metrics."""

    @abstractmethod
    def losses(self, x0: Tensor, t: Tensor, eps: Tensor, conditioning: Conditioning) -> Tensor:
        """(B,) the loss of each row at a time and a noise that are given."""

    @abstractmethod
    def times(self, u: Tensor) -> Tensor:
        """(B,) in [0, 1) → time steps."""

    def encode(self, batch: Batch) -> tuple[Tensor, list[TextStates], Padding]:
        """(B, C, h, w) float32 latents, and captions' states, live or cached."""
        device, image, texts = self.denoiser.device, batch["image"], batch["texts"]
        if image.dtype == torch.uint8:
            states = self.texts.encode(texts)
            return encode_pixels(self.pipe.vae, image).to(device), states, self.texts.padding
        data = self.data if isinstance(self.data, CachedPictures) else self.held_out
        assert isinstance(data, CachedPictures)
        return image.to(device).float(), [s.to(device) for s in texts], data.padding

    def state_dict(self) -> dict[str, Tensor]:
        """Which rows were skipped; of several processes those of the main one, which writes it."""
        return self.skip_log.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.skip_log.load_state_dict(state)

    def evaluate(self, accelerator: Any) -> dict[str, float]:
        """On held-out rows, the `loss` at fixed times (spread evenly) and fixed noise, without caption dropout.

        Where the model has an oracle, `true` and `looks` of pictures of held-out captions: `drawn.judged`.
        """
        if self.held_out is None:
            return {}
        mine = range(self.context.process_index, self.held_out_count, self.context.num_processes)
        sums = torch.zeros(2, device=self.denoiser.device)
        for first in range(0, len(mine), _EVALUATED_AT_ONCE):
            sums += self._held_out_loss(list(mine[first : first + _EVALUATED_AT_ONCE]))
        total, count = accelerator.reduce(sums, reduction="sum").tolist()
        found = {"loss": total / count}
        if self.prompts:
            figures, self._shown = judged(self, self.prompts, accelerator)
            found |= figures
        return found

    def samples(self, accelerator: Any) -> list[tuple[str, Image.Image]]:
        """Held-out captions and pictures of them: those that the last evaluation drew here, else new ones."""
        count = min(self.settings.sample_pictures, self.held_out_count)
        if self.prompts or not count:
            return self._shown[:count]
        return drawn_samples(self, count)

    @cached_property
    def sampler(self) -> LinearSolver:
        """How pictures are drawn, as `solver` says; a flow model has its own way."""
        name, steps = self.solver
        return make_solver(
            self.pipe.scheduler, "own" if self.denoiser.alphas_cumprod is None else name, steps
        )

    @torch.no_grad()
    def _held_out_loss(self, numbers: Sequence[int]) -> Tensor:
        """(2,) sum of the losses of some held-out rows, and how many."""
        assert self.held_out is not None
        x0, states, padding = self.encode_held_out(numbers)
        generators = [torch.Generator().manual_seed(_SEED + i) for i in numbers]
        eps = normal(generators, *x0.shape[1:]).to(x0.device)
        # The golden ratio's multiples are spread evenly, however many there are.
        u = torch.tensor([(i * 0.6180339887498949) % 1 for i in numbers])
        t = self.times(u).to(x0.device)
        losses = [
            self.losses(x0[members], t[members], eps[members], conditioning)
            for members, conditioning in join(states, padding, self.adapter)
        ]
        return torch.stack([torch.cat(losses).sum(), x0.new_tensor(float(len(numbers)))])

    def encode_held_out(self, numbers: Sequence[int]) -> tuple[Tensor, list[TextStates], Padding]:
        """`encode` for some held-out rows."""
        held_out = self.held_out
        assert held_out is not None
        batch = self.collate([held_out[i] for i in numbers])
        x0, states, padding = self.encode(batch)
        return x0, states, held_out.padding if isinstance(held_out, CachedPictures) else padding

    def save(self, folder: Path) -> None:
        """A LoRA for ``pipe.load_lora_weights(folder)``, with the adapter; or, of tune 'full', a whole pipeline."""
        module = self.denoiser.module
        if self.settings.tune == "lora":
            adapter = self.t5.adapter if self.t5 is not None else None
            noted = {"base": self.base, "base_name": self.model_name, "strategy": self.settings.strategy}
            lora.save(module, folder, adapter=adapter, **noted)
            lora.save_text(lora.clips_of(self.pipe), folder, self.model_name)
            return
        trained = {lora.component_of(module): module}
        if self.t5 is not None:
            trained["adapter"] = self.t5.adapter
        save_whole(self.pipe, self.model_name, trained, folder)
