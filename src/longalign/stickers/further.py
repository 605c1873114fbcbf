"""How SDXL's and SD3's denoisers learn: `Part`s of the loop in `training.py`, on the embedded model's other parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from longalign.encoding.t5 import T5Encoder
from longalign.encoding.tokens import pad_ids
from longalign.encoding.towers import Tower
from longalign.runs import atomic_path
from longalign.stickers import backbones, folder, models
from longalign.stickers.captions import text_of
from longalign.stickers.check import share_true
from longalign.stickers.denoising import UNet
from longalign.stickers.parts import autocast, short_caption
from longalign.stickers.world import SCENE_PX, Scene, scene

CHECK_SCENES = 64  # held out, 1–4 stickers


class Reader:
    """Captions as SDXL and SD3 read them: by the operations of `longalign.encode`, many at a time.

    Args:
        family: ``sdxl`` or ``sd3``.
    """

    def __init__(self, family: str, device: torch.device) -> None:
        self.device = device
        self.parts = backbones.text_parts(family, folder())
        for encoder in self.parts.text_encoders:
            encoder.to(device).requires_grad_(False)
        self.towers, self.t5 = Tower.all_of(self.parts), T5Encoder.of(self.parts)

    @torch.no_grad()
    def clip(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """(B, 77, 256) states of both CLIPs and the pooled vectors, (B, 128) for SDXL and (B, 256) for SD3."""
        states, pooled = [], []
        for tower in self.towers:
            tokens = tower.tokenise(texts)
            ids = [tokens[text].fit(tower.window).ids for text in texts]
            with autocast(self.device):
                hidden, vectors = tower.call(*pad_ids(ids, tower.window, tower.tokenizer.pad_token_id))
            states.append(hidden)
            pooled += [] if vectors is None else [vectors.float()]
        return torch.cat(states, dim=-1), torch.cat(pooled, dim=-1)

    @torch.no_grad()
    def joint(self, texts: list[str], t5_length: int | None) -> tuple[Tensor, Tensor]:
        """SD3's (B, 77 + T, 384) states, both CLIPs' and then T5's, and (B, 256) pooled vectors.

        Args:
            t5_length: T; None for what the longest text needs.
        """
        assert self.t5 is not None
        states, pooled = self.clip(texts)
        tokens = self.t5.tokenise(texts)
        ids = [tokens[text].ids for text in texts]
        with autocast(self.device):
            rest = self.t5.call(ids, t5_length or max(map(len, ids)))
        states = nn.functional.pad(states, (0, rest.shape[-1] - states.shape[-1]))
        return torch.cat([states, rest.to(states.dtype)], dim=1), pooled


class SDXL(UNet):
    """SD1.5's UNet behind a wider text: all that both have in common stays frozen, so that it is stored once.

    It begins as SD1.5's UNet on that linear map of both CLIPs' states that comes nearest to the states which it was
    trained on (the last, behind the final norm, where SDXL reads those before the last layer).
    """

    learning_rate = 5e-4
    curriculum = ((1.0, (1, 5)),)
    guidance = 2.0
    check_at = (0.5, 1.0)  # shares of the run
    map_captions = 256

    def __init__(self, device: torch.device, out: Path, steps: int) -> None:
        self.device, self.samples, self.out = device, steps * self.batch_size, out
        self.scheduler = models.make_scheduler()
        self.reader = Reader("sdxl", device)
        unet = UNet2DConditionModel.from_pretrained(folder() / "unet", torch_dtype=torch.float32)
        weight, bias = self._map()
        with torch.no_grad():
            self.module: Any = backbones.sdxl_unet(unet, weight, bias).to(device)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(backbones.OWN.search(name) is not None)
        self.time_ids = torch.tensor([[SCENE_PX, SCENE_PX, 0, 0, SCENE_PX, SCENE_PX]], dtype=torch.float32)

    @torch.no_grad()
    def _map(self) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(0)
        texts = [text_of(short_caption(scene(i, objects=(1, 5)), rng)) for i in range(self.map_captions)]
        states = self.reader.clip([*texts, ""])[0].float()
        tower = self.reader.towers[0]
        ids = tower.tokenizer([*texts, ""], padding="max_length", return_tensors="pt").input_ids
        final = tower.model(ids.to(self.device)).last_hidden_state  # what SD1.5's text encoder says
        return backbones.map_between(states.flatten(0, 1).cpu(), final.flatten(0, 1).cpu())

    def read(self, scenes: list[Scene], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(2B, 77, 256) states, (2B, 128) pooled: one caption in ten left empty, of those every second made zero.

        Zeros are what the pipeline gives for a negative prompt that is None.
        """
        texts, kept = [], []
        for s in scenes:
            dropped = rng.random() < self.caption_dropout
            texts.append("" if dropped else text_of(short_caption(s, rng)))
            kept.append(0.0 if dropped and rng.random() < 0.5 else 1.0)
        states, pooled = self.reader.clip(texts)
        keep = torch.tensor(kept, device=self.device)[:, None]
        states, pooled = states * keep[..., None].to(states.dtype), pooled * keep
        return states.repeat(self.noisings, 1, 1), pooled.repeat(self.noisings, 1)

    def loss(self, first: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        scenes, x0 = self.draw(first)
        states, pooled = self.read(scenes, rng)
        t = torch.from_numpy(self.timesteps(rng)).to(self.device)
        noise = self.noise(x0, rng)
        target = self.scheduler.get_velocity(x0, noise, t)
        added = {"text_embeds": pooled, "time_ids": self.time_ids.to(self.device).expand(len(x0), -1)}
        with autocast(self.device):
            predicted = self.module(
                self.scheduler.add_noise(x0, noise, t),
                t,
                states,
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
        per_sample = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        return per_sample.mean(), {"high_noise": per_sample.detach()[t > 700].mean().item()}

    def check(self) -> dict[str, float]:
        """Share of true sentences on held-out scenes of 1–4 stickers."""
        (tokenizer, _), (first, second) = self.reader.parts.tokenizers, self.reader.parts.text_encoders
        pipe = StableDiffusionXLPipeline(
            vae=embedded_vae(self.device),
            text_encoder=first,
            text_encoder_2=second,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=self.module,
            scheduler=self.scheduler,
            add_watermarker=False,
        )
        return shares(pipe, self.guidance)

    def save(self, module: Any, out: Path) -> None:
        own = {k: v for k, v in module.state_dict().items() if backbones.OWN.search(k)}
        (out / "sdxl").mkdir(parents=True, exist_ok=True)
        module.save_config(out / "sdxl")
        with atomic_path(out / "sdxl" / "own.safetensors") as temporary:
            save_file({k: v.contiguous() for k, v in own.items()}, temporary)


class SD3(UNet):
    """Flow matching (Esser et al., 2024): x_σ = (1 − σ) x_0 + σ ε, predicted ε − x_0."""

    learning_rate = 1.5e-3
    guidance = 2.0
    check_at = (0.4, 0.7, 1.0)  # shares of the run
    t5_dropout = 0.2  # SD3 drops each text encoder by itself; without T5 its states are zeros
    # Nothing masks T5's pads, so the model has to have met their number: that of `encode` and of the pipeline itself.
    t5_lengths = ((0.5, None), (0.9, 77), (1.0, 256))

    def __init__(self, device: torch.device, out: Path, steps: int) -> None:
        self.device, self.samples, self.out = device, steps * self.batch_size, out
        self.scheduler: Any = models.make_scheduler()
        self.flow = backbones.make_flow_scheduler()
        self.reader = Reader("sd3", device)
        self.module: Any = backbones.trainable_places(backbones.make_transformer()).to(device)

    # σ = s u / (1 + (s − 1) u), u uniform: the schedule that sampling goes down, s its shift
    def sigmas(self, rng: np.random.Generator) -> Tensor:
        """(2B,), stratified. SD3's logit-normal density vanishes at σ = 1, where here all is decided."""
        count, shift = self.noisings * self.batch_size, self.flow.config.shift
        u = (np.arange(count) + rng.random(count)) / count
        return torch.from_numpy(shift * u / (1 + (shift - 1) * u)).float().to(self.device)

    def read(self, scenes: list[Scene], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(2B, L, 384) states and (2B, 256) pooled vectors, one caption in ten left empty, one T5 in five silent."""
        texts = [
            "" if rng.random() < self.caption_dropout else text_of(short_caption(s, rng)) for s in scenes
        ]
        draw = rng.random()
        states, pooled = self.reader.joint(texts, next(n for until, n in self.t5_lengths if draw < until))
        silent = torch.from_numpy(rng.random(len(texts)) < self.t5_dropout).to(self.device)
        states[silent, self.reader.towers[0].window :] = 0
        return states.repeat(self.noisings, 1, 1), pooled.repeat(self.noisings, 1)

    def loss(self, first: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        scenes, x0 = self.draw(first)
        states, pooled = self.read(scenes, rng)
        sigma, noise = self.sigmas(rng), self.noise(x0, rng)
        level = sigma[:, None, None, None]
        with autocast(self.device):
            predicted = self.module(
                hidden_states=(1 - level) * x0 + level * noise,
                timestep=1000 * sigma,
                encoder_hidden_states=states,
                pooled_projections=pooled,
                return_dict=False,
            )[0]
        per_sample = (predicted.float() - (noise - x0)).square().mean(dim=(1, 2, 3))
        return per_sample.mean(), {"high_noise": per_sample.detach()[sigma > 0.8].mean().item()}

    def check(self) -> dict[str, float]:
        """Share of true sentences on held-out scenes of 1–4 stickers."""
        (tokenizer, _, t5_tokenizer), encoders = self.reader.parts.tokenizers, self.reader.parts.text_encoders
        pipe = StableDiffusion3Pipeline(
            transformer=self.module,
            scheduler=self.flow,
            vae=embedded_vae(self.device),
            text_encoder=encoders[0],
            tokenizer=tokenizer,
            text_encoder_2=encoders[1],
            tokenizer_2=tokenizer,
            text_encoder_3=encoders[2],
            tokenizer_3=t5_tokenizer,
        )
        return shares(pipe, self.guidance)

    def save(self, module: Any, out: Path) -> None:
        module.save_pretrained(out / "sd3" / "transformer")
        self.flow.save_pretrained(out / "sd3" / "scheduler")


def embedded_vae(device: torch.device) -> AutoencoderKL:
    """The embedded autoencoder, with the shift that SD3's pipeline asks for."""
    vae = AutoencoderKL.from_pretrained(folder() / "vae", torch_dtype=torch.float32)
    vae.register_to_config(shift_factor=0.0)
    return vae.to(device)


def shares(pipe: Any, guidance: float) -> dict[str, float]:
    """True sentences on `CHECK_SCENES` held-out scenes, by the pipeline's own encoding and by segments."""
    pipe.set_progress_bar_config(disable=True)
    found = {}
    for strategy in ("plain", "clip-cat"):
        true, _ = share_true(pipe, CHECK_SCENES, strategy=strategy, guidance=guidance, length=77)
        found[f"true_{strategy.replace('-', '_')}"] = true.value
    return found
