"""The denoisers of the sticker SDXL and SD3, trained on the other parts of the embedded model."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from transformers import CLIPModel, T5EncoderModel

from longalign.errors import LongalignError
from longalign.runs import atomic_path, atomic_write_text
from longalign.stickers import folder, models
from longalign.stickers import sdxl_sd3_models as backbones
from longalign.stickers.assembly import BASE, OWN_WEIGHTS, trained_on
from longalign.stickers.captions import text_of
from longalign.stickers.making.denoising import UNet
from longalign.stickers.making.parts import at_share, autocast, gaussian, short_caption
from longalign.stickers.share_true import share_true
from longalign.stickers.tokenizers import CLIP_WINDOW, make_clip_tokenizer, make_t5_tokenizer
from longalign.stickers.world import SCENE_PX, Scene, scene

CHECK_SCENES = 64  # held out, 1–4 stickers


class Reader:
    """Captions as `longalign.encode` reads them for SDXL and SD3, in one pass of each encoder.

    The two CLIPs share their layers (`stickers/sdxl_sd3_models.py`): the first one's states are those behind the
    tower's last layer, the second one's those before it.

    Args:
        family: ``sdxl`` or ``sd3``.
    """

    def __init__(self, family: str, device: torch.device) -> None:
        self.family, self.device, base = family, device, folder()
        clip = CLIPModel.from_pretrained(base / "clip", dtype=torch.float32)
        self.tower: Any = models.text_encoder_of(clip, idle_layers=1, projection=True).to(device).eval()
        self.tokenizer = make_clip_tokenizer()
        self.t5: Any = T5EncoderModel.from_pretrained(base / "t5", dtype=torch.float32).to(device).eval()
        self.t5_tokenizer = make_t5_tokenizer()

    @torch.no_grad()
    def clip(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """(B, 77, 256) states of both CLIPs and the pooled vectors, (B, 128) for SDXL and (B, 256) for SD3."""
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with autocast(self.device):
            said = self.tower(ids.to(self.device), output_hidden_states=True)
        states = torch.cat([said.hidden_states[-2], said.hidden_states[-3]], dim=-1)
        return states, torch.cat([said.text_embeds.float()] * (2 if self.family == "sd3" else 1), dim=-1)

    @torch.no_grad()
    def joint(self, texts: list[str], t5_length: int | None) -> tuple[Tensor, Tensor]:
        """SD3's (B, 77 + T, 384) states, both CLIPs' and then T5's, and (B, 256) pooled vectors.

        Args:
            t5_length: T; None for what the longest text needs.
        """
        states, pooled = self.clip(texts)
        padding = "longest" if t5_length is None else "max_length"
        encoded = self.t5_tokenizer(texts, padding=padding, max_length=t5_length, return_tensors="pt")
        with autocast(self.device):  # without a mask, as the pipeline
            rest = self.t5(encoded.input_ids.to(self.device)).last_hidden_state
        states = nn.functional.pad(states, (0, backbones.JOINT_WIDTH - states.shape[-1]))
        rest = nn.functional.pad(rest, (backbones.JOINT_WIDTH - rest.shape[-1], 0))
        return torch.cat([states, rest.to(states.dtype)], dim=1), pooled


class Float32Attention(TorchFunctionMode):
    """Attention in float32 by the fused kernel within autocast: at these sizes its backward is three times as fast on a
    CPU as in bf16, and twice as fast as plain matrix products."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        with (
            torch.autocast(self.device.type, enabled=False),
            sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]),
        ):
            return func(*(a.float() for a in args), **(kwargs or {}))


class SDXL(UNet):
    """SD1.5's UNet behind a wider text: all that both have in common stays frozen, so that it is stored once.

    It begins as SD1.5's UNet on that linear map of both CLIPs' states that comes nearest to the states which it was
    trained on (the last, behind the final norm, where SDXL reads those before the last layer).
    """

    learning_rate = 5e-4
    curriculum = ((1.0, (1, 5)),)
    guidance = 2.0
    evaluations = 2
    map_captions = 256

    def __init__(self, device: torch.device, base: Path) -> None:
        self.device = device
        check_embedded(base)
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
        # What SD1.5's text encoder says: the first CLIP's states behind the final norm.
        final = self.reader.tower.text_model.final_layer_norm(states[..., : models.TEXT_WIDTH])
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

    def loss(
        self, numbers: Sequence[int], share: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        scenes, x0 = self.draw(numbers, share)
        states, pooled = self.read(scenes, rng)
        t = torch.from_numpy(self.timesteps(len(scenes), rng)).to(self.device)
        noise = gaussian(x0, rng)
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
        pipe = StableDiffusionXLPipeline(
            vae=embedded_vae(self.device),
            **text_components("sdxl", self.device),
            unet=self.module,
            scheduler=self.scheduler,
            add_watermarker=False,
        )
        return shares(pipe, self.guidance)

    def save(self, out: Path) -> None:
        own = {k: v.contiguous() for k, v in self.module.state_dict().items() if backbones.OWN.search(k)}
        self.module.save_config(out / "sdxl")
        with atomic_path(out / "sdxl" / OWN_WEIGHTS) as temporary:
            save_file(own, temporary)
        note_base("sdxl", out)


class SD3(UNet):
    """Flow matching (Esser et al., 2024): x_σ = (1 − σ) x_0 + σ ε, predicted ε − x_0."""

    batch_size = 40
    learning_rate = 1.5e-3
    guidance = 2.0
    evaluations = 3
    t5_dropout = 0.2  # SD3 drops each text encoder by itself; without T5 its states are zeros
    # Nothing masks T5's pads, so the model has to have met their number: that of `encode` and of the pipeline itself.
    t5_lengths = ((0.67, None), (0.97, 77), (1.0, 256))

    def __init__(self, device: torch.device, base: Path) -> None:
        self.device = device
        check_embedded(base)
        self.scheduler: Any = models.make_scheduler()
        self.flow = backbones.make_flow_scheduler()
        self.reader = Reader("sd3", device)
        self.module: Any = backbones.trainable_places(backbones.make_transformer()).to(device)

    # σ = s u / (1 + (s − 1) u), u uniform: the schedule that sampling goes down, s its shift
    def sigmas(self, scenes: int, rng: np.random.Generator) -> Tensor:
        """(2B,) stratified noise levels for B scenes.

        SD3's own logit-normal density vanishes at σ = 1, where the layout of these pictures is decided.
        """
        count, shift = self.noisings * scenes, self.flow.config.shift
        u = (np.arange(count) + rng.random(count)) / count
        return torch.from_numpy(shift * u / (1 + (shift - 1) * u)).float().to(self.device)

    def read(self, scenes: list[Scene], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(2B, L, 384) states and (2B, 256) pooled vectors, one caption in ten left empty, one T5 in five silent."""
        texts = [
            "" if rng.random() < self.caption_dropout else text_of(short_caption(s, rng)) for s in scenes
        ]
        draw = rng.random()
        states, pooled = self.reader.joint(texts, at_share(self.t5_lengths, draw))
        silent = torch.from_numpy(rng.random(len(texts)) < self.t5_dropout).to(self.device)
        states[silent, CLIP_WINDOW:] = 0
        return states.repeat(self.noisings, 1, 1), pooled.repeat(self.noisings, 1)

    def loss(
        self, numbers: Sequence[int], share: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        scenes, x0 = self.draw(numbers, share)
        states, pooled = self.read(scenes, rng)
        sigma, noise = self.sigmas(len(scenes), rng), gaussian(x0, rng)
        level = sigma[:, None, None, None]
        with autocast(self.device), Float32Attention(self.device):
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
        pipe = StableDiffusion3Pipeline(
            transformer=self.module,
            scheduler=self.flow,
            vae=embedded_vae(self.device),
            **text_components("sd3", self.device),
        )
        return shares(pipe, self.guidance)

    def save(self, out: Path) -> None:
        self.module.save_pretrained(out / "sd3" / "transformer")
        self.flow.save_pretrained(out / "sd3" / "scheduler")
        note_base("sd3", out)


def check_embedded(base: Path) -> None:
    """Raises LongalignError: the parts to train on are not those of the embedded model."""
    if base != folder():
        raise LongalignError(f"{base}: sdxl and sd3 are trained on the embedded model: set model=stickers")


def note_base(name: str, out: Path) -> None:
    """Which parts the weights were trained on, beside them."""
    atomic_write_text(out / name / BASE, json.dumps(trained_on(name, folder()), indent=2) + "\n")


def text_components(family: str, device: torch.device) -> dict[str, Any]:
    """A pipeline's text encoders and tokenizers by their names in it."""
    parts = backbones.text_parts(family, folder())
    encoders = {n: encoder.to(device) for n, encoder in zip(parts.names, parts.text_encoders, strict=True)}
    names = [name.replace("text_encoder", "tokenizer") for name in parts.names]
    return {**encoders, **dict(zip(names, parts.tokenizers, strict=True))}


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
