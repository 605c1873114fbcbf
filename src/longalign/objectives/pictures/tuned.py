"""Base class of the objectives that tune the denoiser itself, by a LoRA or as a whole (supervised, consistency)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from longalign.data.text_states import join
from longalign.encoding import Conditioning
from longalign.errors import LongalignError
from longalign.objectives.pictures.captioned import CaptionedObjective
from longalign.objectives.pictures.settings import PictureSettings
from longalign.objectives.random_draws import normal
from longalign.weights import lora, text_lora
from longalign.weights.fingerprint import fingerprint
from longalign.weights.whole_model import save_whole

_EVALUATED_AT_ONCE = 32
_SEED = 10_000  # the noise of held-out row i has the seed _SEED + i, in every evaluation and run


class TunedDenoiserObjective(CaptionedObjective):
    """Trains a LoRA on the UNet or transformer, or all its weights, and with the T5 branch its text adapter.

    See `CaptionedObjective` for the arguments.

    Attributes:
        trains_adapter: whether the text adapter is trained, where there is one.

    Raises:
        LongalignError: `tune` is ``full`` and `start_from` names LoRAs.
    """

    trains_adapter: ClassVar[bool]
    settings: PictureSettings

    def prepare(self) -> None:
        """Attach the LoRA, or make all weights of the denoiser trainable."""
        settings, module = self.settings, self.denoiser.module
        # Taken before the LoRA is on: it identifies the base that the saved LoRA belongs to.
        self.base = fingerprint(module, self.model_name) if settings.tune == "lora" else None
        self.clips = text_lora.clips_of(self.pipe) if self.tunes_text else {}
        if settings.tune == "full" and self.clips:
            raise LongalignError(f"{self.name}: tune_text goes with tune 'lora', not 'full'")
        if settings.tune == "full" and settings.start_from:
            raise LongalignError(
                f"{self.name}: tune 'full' starts from a whole model: merge the LoRAs of start_from"
            )
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module) and part is not module:
                part.requires_grad_(False).eval()
        if settings.tune == "full":
            module.requires_grad_(True)
        else:
            lora.attach(module, settings.rank, dropout=self.lora_dropout, name=self.name)
        for clip in self.clips.values():
            lora.attach(clip, settings.text_rank, name=self.name)  # type: ignore[attr-defined]
        if settings.gradient_checkpointing:
            module.enable_gradient_checkpointing()
        if self.t5 is not None:
            self.t5.encoder.requires_grad_(False).eval()
            self.t5.adapter.requires_grad_(self.trains_adapter)

    @property
    def lora_dropout(self) -> float:
        """Dropout on the inputs of the LoRA."""
        return 0.0

    def modules(self) -> Mapping[str, nn.Module]:
        """The denoiser, and the text adapter and the text encoders where they are trained."""
        trained = {self.denoiser.backbone.component: self.denoiser.module}
        if self.adapter is not None and self.trains_adapter:
            trained["adapter"] = self.adapter
        return trained | self.clips

    @abstractmethod
    def losses(self, x0: Tensor, t: Tensor, eps: Tensor, conditioning: Conditioning) -> Tensor:
        """The loss of each row at given times and with given noise.

        Args:
            x0: (B, C, h, w) latents.
            t: (B,) times.
            eps: (B, C, h, w) noise.
            conditioning: the encoded captions, all of one padded length.

        Returns:
            (B,).
        """

    def held_out_figures(self, accelerator: Accelerator) -> dict[str, float]:
        """The mean `loss` at fixed times (spread evenly) and with fixed noise, without caption dropout."""
        mine = self.context.share(self.held_out_count)
        sums = torch.zeros(2, device=self.denoiser.device)
        for first in range(0, len(mine), _EVALUATED_AT_ONCE):
            for group in self.held_out_groups(mine[first : first + _EVALUATED_AT_ONCE]):
                sums += self._held_out_loss(group)
        total, count = accelerator.reduce(sums, reduction="sum").tolist()
        return {"loss": total / count}

    @torch.no_grad()
    def _held_out_loss(self, numbers: Sequence[int]) -> Tensor:
        """(2,) sum of the losses of some held-out rows of one bucket, and their number."""
        x0, states, padding = self.encode_held_out(numbers)
        generators = [torch.Generator().manual_seed(_SEED + i) for i in numbers]
        eps = normal(generators, *x0.shape[1:]).to(x0.device)
        # Multiples of the golden ratio are spread evenly, however many there are.
        u = torch.tensor([(i * 0.6180339887498949) % 1 for i in numbers])
        t = self.times(u).to(x0.device)
        losses = [
            self.losses(x0[members], t[members], eps[members], conditioning)
            for members, conditioning in join(states, padding, self.adapter)
        ]
        return torch.stack([torch.cat(losses).sum(), x0.new_tensor(float(len(numbers)))])

    def save(self, folder: Path) -> None:
        """A LoRA for ``pipe.load_lora_weights(folder)``, with the adapter; with tune ``full`` a whole pipeline."""
        module = self.denoiser.module
        if self.settings.tune == "lora":
            lora.save(
                module,
                folder,
                adapter=self.adapter,  # type: ignore[arg-type]
                base=self.base,
                base_name=self.model_name,
                strategy=self.settings.strategy,
                length=self.texts.length,
            )
            text_lora.save_text(text_lora.clips_of(self.pipe), folder, self.model_name)
            return
        trained = {self.denoiser.backbone.component: module}
        if self.adapter is not None:
            trained["adapter"] = self.adapter
        save_whole(self.pipe, self.model_name, trained, folder)
