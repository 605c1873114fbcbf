"""The denoiser and the T5 adapter: parts that are trained by the diffusion loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longalign.stickers import models
from longalign.stickers.captions import text_of
from longalign.stickers.making import patch_code
from longalign.stickers.making.parts import Part, at_share, autocast, earlier, gaussian, pixels, short_caption
from longalign.stickers.tokenizers import make_clip_tokenizer, make_t5_tokenizer
from longalign.stickers.world import Scene, scene


class UNet(Part):
    """v-prediction on the patch code under the frozen CLIP text states of captions that fit 77 tokens."""

    batch_size = 48  # scenes; each is noised twice, which halves the work of drawing and encoding
    noisings = 2
    learning_rate = 8e-4
    caption_dropout = 0.1
    # Until this share of the run, so many stickers: what words mean is learned from one, whose is which from more.
    curriculum: tuple[tuple[float, tuple[int, int]], ...] = ((0.08, (1, 1)), (0.2, (1, 2)), (1.0, (1, 5)))

    def __init__(self, device: torch.device, folder: Path) -> None:
        from transformers import CLIPTextModel

        self.device = device
        self.module: Any = models.make_unet().to(device)
        self.scheduler = models.make_scheduler()
        self.tokenizer = make_clip_tokenizer()
        self.text_encoder = (
            CLIPTextModel.from_pretrained(earlier(folder, "text_encoder", "clip")).to(device).eval()
        )

    @torch.no_grad()
    def condition(self, scenes: list[Scene], rng: np.random.Generator) -> Tensor:
        """(B, 77, 128) text states, one caption in ten left empty."""
        texts = [
            "" if rng.random() < self.caption_dropout else text_of(short_caption(s, rng)) for s in scenes
        ]
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with autocast(self.device):
            return self.text_encoder(ids.to(self.device)).last_hidden_state

    def timesteps(self, scenes: int, rng: np.random.Generator) -> np.ndarray:
        """(2B,) int64 times for B scenes, stratified, which gives less noise in the gradient; 72 % are 500 or more.

        The layout is decided at high noise, where x_t does not show it yet and the text must be read.
        """
        count = self.noisings * scenes
        strata = (np.arange(count) + rng.random(count)) / count
        return (strata**0.55 * 1000).astype(np.int64)

    def draw(self, numbers: Sequence[int], share: float) -> tuple[list[Scene], Tensor]:
        """B scenes of the curriculum's stage, and (2B, 8, 6, 6) their latents, the batch repeated."""
        objects = at_share(self.curriculum, share)
        scenes = [scene(i, objects=objects) for i in numbers]
        return scenes, patch_code.encode(pixels(scenes).to(self.device)).repeat(self.noisings, 1, 1, 1)

    def loss(
        self, numbers: Sequence[int], share: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        scenes, x0 = self.draw(numbers, share)
        states = self.condition(scenes, rng).repeat(self.noisings, 1, 1)
        t = torch.from_numpy(self.timesteps(len(scenes), rng)).to(self.device)
        noise = gaussian(x0, rng)
        noised = self.scheduler.add_noise(x0, noise, t)
        target = self.scheduler.get_velocity(x0, noise, t)
        with autocast(self.device):
            predicted = self.module(noised, t, states, return_dict=False)[0]
        per_sample = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        return per_sample.mean(), {"high_noise": per_sample.detach()[t > 700].mean().item()}

    def save(self, folder: Path) -> None:
        self.module.save_pretrained(folder / "unet")
        self.scheduler.save_pretrained(folder / "scheduler")


class Adapter(UNet):
    """The T5 → UNet adapter, trained by the diffusion loss of the frozen UNet on short captions (as LaVi-Bridge's)."""

    learning_rate = 1.5e-3

    def __init__(self, device: torch.device, folder: Path) -> None:
        from diffusers import UNet2DConditionModel
        from transformers import T5EncoderModel

        super().__init__(device, folder)
        unet = UNet2DConditionModel.from_pretrained(earlier(folder, "unet", "unet")).to(device)
        self.t5 = T5EncoderModel.from_pretrained(earlier(folder, "t5", "t5")).to(device).eval()
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

    @property
    def trained(self) -> nn.Module:
        """The adapter; the UNet is frozen."""
        adapter: nn.Module = self.module.adapter
        return adapter

    def save(self, folder: Path) -> None:
        self.module.adapter.save_pretrained(folder / "adapter")


class _Adapted(nn.Module):
    def __init__(self, adapter: nn.Module, unet: nn.Module) -> None:
        super().__init__()
        self.adapter, self.unet = adapter, unet

    def forward(self, x: Tensor, t: Tensor, states: Tensor, return_dict: bool = False) -> Any:
        return self.unet(x, t, self.adapter(states), return_dict=return_dict)
