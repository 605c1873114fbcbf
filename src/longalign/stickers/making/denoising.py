"""How the denoiser and the T5 adapter learn: `Part`s of the loop in `training.py`, by the diffusion loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longalign.stickers import models
from longalign.stickers.captions import text_of
from longalign.stickers.making import patch_code
from longalign.stickers.making.parts import autocast, pixels, short_caption
from longalign.stickers.tokenizers import make_clip_tokenizer, make_t5_tokenizer
from longalign.stickers.world import Scene, scene


class UNet:
    """v-prediction on the patch code under the frozen CLIP text states of captions that fit 77 tokens."""

    batch_size = 48  # scenes; each is noised twice, which halves the work of drawing and encoding
    noisings = 2
    learning_rate = 8e-4
    caption_dropout = 0.1
    # Until this share of the run, so many stickers: what words mean is learned from one, whose is which from more.
    curriculum: tuple[tuple[float, tuple[int, int]], ...] = ((0.08, (1, 1)), (0.2, (1, 2)), (1.0, (1, 5)))

    def __init__(self, device: torch.device, out: Path, steps: int) -> None:
        from transformers import CLIPTextModel

        self.device, self.samples = device, steps * self.batch_size
        self.module: Any = models.make_unet().to(device)
        self.scheduler = models.make_scheduler()
        self.tokenizer = make_clip_tokenizer()
        self.text_encoder = CLIPTextModel.from_pretrained(out / "text_encoder").to(device).eval()

    @torch.no_grad()
    def condition(self, scenes: list[Scene], rng: np.random.Generator) -> Tensor:
        """(B, 77, 128) text states, one caption in ten left empty."""
        texts = [
            "" if rng.random() < self.caption_dropout else text_of(short_caption(s, rng)) for s in scenes
        ]
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with autocast(self.device):
            return self.text_encoder(ids.to(self.device)).last_hidden_state

    def timesteps(self, rng: np.random.Generator) -> np.ndarray:
        """(2B,) int64, 72 % of them 500 or more: stratified, which means less noise in the gradient.

        What is where is decided at high noise, where x_t does not show it yet and the text must be read.
        """
        count = self.noisings * self.batch_size
        strata = (np.arange(count) + rng.random(count)) / count
        return (strata**0.55 * 1000).astype(np.int64)

    def draw(self, first: int) -> tuple[list[Scene], Tensor]:
        """B scenes as far as the curriculum has got, and (2B, 8, 6, 6) their latents, the batch repeated."""
        objects = next(count for until, count in self.curriculum if first < until * self.samples)
        scenes = [scene(i, objects=objects) for i in range(first, first + self.batch_size)]
        return scenes, patch_code.encode(pixels(scenes).to(self.device)).repeat(self.noisings, 1, 1, 1)

    def noise(self, like: Tensor, rng: np.random.Generator) -> Tensor:
        """Standard normal, from the step's own generator."""
        return torch.from_numpy(rng.standard_normal(like.shape, dtype=np.float32)).to(self.device)

    def loss(self, first: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        scenes, x0 = self.draw(first)
        states = self.condition(scenes, rng).repeat(self.noisings, 1, 1)
        t = torch.from_numpy(self.timesteps(rng)).to(self.device)
        noise = self.noise(x0, rng)
        noised = self.scheduler.add_noise(x0, noise, t)
        target = self.scheduler.get_velocity(x0, noise, t)
        with autocast(self.device):
            predicted = self.module(noised, t, states, return_dict=False)[0]
        per_sample = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        return per_sample.mean(), {"high_noise": per_sample.detach()[t > 700].mean().item()}

    def save(self, module: Any, out: Path) -> None:
        module.save_pretrained(out / "unet")
        self.scheduler.save_pretrained(out / "scheduler")


class Adapter(UNet):
    """The T5 → UNet adapter, trained by the diffusion loss of the frozen UNet on short captions (as LaVi-Bridge's)."""

    learning_rate = 1.5e-3

    def __init__(self, device: torch.device, out: Path, steps: int) -> None:
        from diffusers import UNet2DConditionModel
        from transformers import T5EncoderModel

        super().__init__(device, out, steps)
        unet = UNet2DConditionModel.from_pretrained(out / "unet").to(device)
        self.t5 = T5EncoderModel.from_pretrained(out / "t5").to(device).eval()
        self.t5_tokenizer = make_t5_tokenizer()
        self.module = _Adapted(models.make_adapter().to(device), unet.requires_grad_(False).eval())

    def condition(self, scenes: list[Scene], rng: np.random.Generator) -> Tensor:
        texts = [
            "" if rng.random() < self.caption_dropout else text_of(short_caption(s, rng)) for s in scenes
        ]
        encoded = self.t5_tokenizer(
            texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).to(self.device)
        with torch.no_grad(), autocast(self.device):
            return self.t5(**encoded).last_hidden_state

    def save(self, module: Any, out: Path) -> None:
        module.adapter.save_pretrained(out / "adapter")


class _Adapted(nn.Module):
    def __init__(self, adapter: nn.Module, unet: nn.Module) -> None:
        super().__init__()
        self.adapter, self.unet = adapter, unet

    def forward(self, x: Tensor, t: Tensor, states: Tensor, return_dict: bool = False) -> Any:
        return self.unet(x, t, self.adapter(states), return_dict=return_dict)
