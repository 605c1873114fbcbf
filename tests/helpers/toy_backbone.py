"""A package of somebody else, with a backbone that longalign does not know: one T5, no CLIP, a tiny flow model.

Tests copy this file into a package of its own and install it; nothing imports it from here.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from longalign.backbones.base import Backbone


class Mixer(nn.Module):
    """Adds the mean of the text to every place of a picture."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.text = nn.Linear(width, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """(B, h, w, C) latents and (B, L, D) text → (B, h, w, C)."""
        return self.out(torch.tanh(x + self.text(text).mean(1)[:, None, None]))


class ToyNet(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """The denoising module."""

    @register_to_config
    def __init__(self, in_channels: int = 4, sample_size: int = 16, width: int = 32) -> None:
        super().__init__()
        self.mixer = Mixer(in_channels, width)

    def forward(self, latents: Tensor, when: Tensor, text: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, h, w)"""
        x = latents.movedim(1, -1) * (1 + when.view(-1, 1, 1, 1) / 1000)
        return self.mixer(x, text).movedim(-1, 1)


class ToyImages(BaseOutput):
    """What `ToyPipeline` returns."""

    images: Any


class ToyPipeline(DiffusionPipeline):
    """Draws from text states with guidance."""

    def __init__(self, vae: Any, text_encoder: Any, tokenizer: Any, net: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, net=net, scheduler=scheduler
        )

    @torch.no_grad()
    def __call__(
        self,
        text: Tensor,
        negative_text: Tensor,
        generator: list[torch.Generator],
        num_inference_steps: int,
        guidance_scale: float = 2.0,
        output_type: str = "pt",
        callback_on_step_end: Any = None,
    ) -> ToyImages:
        side = self.net.config.sample_size
        x = torch.cat(
            [torch.randn(1, self.net.config.in_channels, side, side, generator=g) for g in generator]
        )
        self.scheduler.set_timesteps(num_inference_steps)
        for i, t in enumerate(self.scheduler.timesteps):
            times = t.expand(len(x))
            without, with_text = self.net(x, times, negative_text), self.net(x, times, text)
            f = without + guidance_scale * (with_text - without)
            x = self.scheduler.step(f, t, x, return_dict=False)[0]
            callback_on_step_end(self, i, t, {})
        return ToyImages(images=Toy().decode(self.vae, x))


def pipeline(vae: Any, text_encoder: Any, tokenizer: Any, width: int) -> ToyPipeline:
    """The model around a VAE and a T5 of some width."""
    torch.manual_seed(0)
    net = ToyNet(width=width)
    return ToyPipeline(vae, text_encoder, tokenizer, net, FlowMatchEulerDiscreteScheduler())


class Toy(Backbone):
    """What longalign has to know about the family."""

    family = "toy"
    title = "Toy"
    abbreviation = "Toy"
    component = "net"
    module_class = "ToyNet"
    flow = True
    clips = ()
    clip_tokens = False
    t5 = "text_encoder"
    t5_length = 16
    lora_blocks = ("Mixer",)
    guidance = 2.0
    length = 24

    def predict(
        self,
        module: Any,
        x: Tensor,
        times: Tensor,
        embeds: Tensor,
        pooled: Tensor | None,
        size_px: tuple[int, int],
    ) -> Tensor:
        """The module names its arguments in its own way."""
        return module(x, times, embeds)

    def pipeline_kwargs(self, conditioning: Any) -> dict[str, Tensor]:
        """So does the pipeline."""
        return {"text": conditioning.embeds, "negative_text": conditioning.negative_embeds}
