"""What the benchmark of reward fine-tuning runs on: denoiser, decoder, scorer and texts of three sizes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.solver import LinearSolver, make_solver
from longalign.encoding import Conditioning, encode
from longalign.preference.preprocess import Preprocess
from longalign.weights import lora

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))


@dataclass
class Case:
    """A denoiser with a LoRA, and what one step of it needs.

    Attributes:
        image: pixels in [0, 1] → (B, D) unit embeddings.
        text: (B, D), what they are scored against.
    """

    denoiser: Denoiser
    scheduler: Any
    conditioning: Conditioning
    image: Callable[[Tensor], Tensor]
    text: Tensor
    noise: Tensor
    guidance: float
    modules: list[torch.nn.Module]

    def loss(self, x0: Tensor, rows: slice = slice(None)) -> Tensor:
        """These latents' part of the mean of 1 − C_X·c over all pictures, through decoder and scorer."""
        scores = (self.image(self.denoiser.decode(x0)) * self.text[rows]).sum(-1)
        return (1 - scores).sum() / len(self.text)

    def solver(self, name: str, steps: int) -> LinearSolver:
        return make_solver(self.scheduler, name, steps, spacing="trailing")

    def trained(self) -> list[torch.nn.Parameter]:
        return [p for p in self.denoiser.module.parameters() if p.requires_grad]

    def gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten().double() for p in self.trained() if p.grad is not None])

    def forget_gradients(self) -> None:
        """Zeros, not None: the memory of gradients is there on all sides from the beginning."""
        for p in self.trained():
            p.grad = torch.zeros_like(p)

    def tensors(self) -> Iterator[Tensor]:
        """All that is there before a step."""
        for module in self.modules:
            yield from module.parameters()
            yield from module.buffers()
        yield from (p.grad for p in self.trained() if p.grad is not None)
        yield from (v for v in vars(self.conditioning).values() if isinstance(v, Tensor))
        yield from (self.noise, self.text)

    def synchronize(self) -> None:
        if self.noise.is_cuda:
            torch.cuda.synchronize()


def _with_lora(module: Any, rank: int) -> None:
    """Its `up` drawn at random: at zero, half of the LoRA would have no gradient."""
    module.requires_grad_(False).eval()
    for parameter in lora.attach(module, rank):
        torch.nn.init.normal_(parameter, std=0.02)


def stickers(batch: int, device: str) -> Case:
    """The embedded pipeline and CLIP; captions of seven to nine stickers."""
    from longalign.diffusion.pipelines import (
        settings_of,
    )
    from longalign.objectives.reward.sampling import load_prompts
    from longalign.preference import PreferenceModel
    from longalign.weights.stack import (
        load_pipeline,
    )
    from longalign.worlds import (
        DEFAULT,
    )

    pipe = load_pipeline(DEFAULT, device="cpu", dtype="float32")
    model = PreferenceModel.from_pretrained("stickers/clip", device="cpu", dtype="float32")
    prompts = load_prompts(DEFAULT, count=batch, objects=(7, 9))
    texts = [prompts[i] for i in range(batch)]
    encoded = encode(pipe, texts, strategy="clip-cat", length=400)
    with torch.no_grad():
        text = model.text_mean(texts)
    _with_lora(pipe.unet, 8)
    pipe.vae.requires_grad_(False)
    for module in (pipe.unet, pipe.vae, model.clip):
        module.to(device)
    denoiser = Denoiser.of(pipe)
    torch.manual_seed(0)
    noise = torch.randn(batch, denoiser.channels, denoiser.side, denoiser.side)
    guidance = settings_of(DEFAULT).guidance or 1.0
    modules = [pipe.unet, pipe.vae, model.clip]
    return Case(
        denoiser,
        pipe.scheduler,
        encoded.to(device),
        model.image,
        text.to(device),
        noise.to(device),
        guidance,
        modules,
    )


def tiny(batch: int, device: str) -> Case:
    """Some thousand parameters; the scorer is the mean colour."""
    from tiny_denoiser import conditioning, scheduler, tiny_unet, tiny_vae

    unet, vae = tiny_unet().to(device), tiny_vae().to(device).requires_grad_(False)
    _with_lora(unet, 2)
    denoiser = Denoiser(unet, "sd15", "epsilon", scheduler().alphas_cumprod, vae)
    torch.manual_seed(0)
    text = normalize(torch.randn(batch, 3), dim=-1).to(device)
    noise = torch.randn(batch, 2, 4, 4).to(device)

    def image(pixels: Tensor) -> Tensor:
        return normalize(pixels.mean((2, 3)), dim=-1)

    return Case(
        denoiser, scheduler(), conditioning(prompts=batch).to(device), image, text, noise, 7.5, [unet, vae]
    )


def sd15(batch: int, device: str) -> Case:
    """SD1.5's UNet and VAE at 512 px and CLIP ViT-H-14's image tower, random weights in bfloat16, 240 text tokens."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
        clip = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=1280,
                intermediate_size=5120,
                num_hidden_layers=32,
                num_attention_heads=16,
                patch_size=14,
                projection_dim=1024,
                hidden_act="gelu",
            )
        )
        for module in (unet, vae, clip):
            module.to(torch.bfloat16).requires_grad_(False).eval()
        _with_lora(unet, 32)
        for parameter in unet.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)  # one precision throughout, without autocast
        text = normalize(torch.randn(batch, 1024), dim=-1)
        noise = torch.randn(batch, 4, 64, 64)
        embeds, negative = torch.randn(2, batch, 240, 768, dtype=torch.bfloat16)
        where = torch.zeros(batch, 240, dtype=torch.long)
    schedule: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = DDIMScheduler(clip_sample=False, **schedule)
    nothing = ((),) * batch
    conditioning = Conditioning(embeds, None, where, negative, None, where, nothing, nothing, "sd15")
    prepare = Preprocess(224)

    def image(pixels: Tensor) -> Tensor:
        return normalize(clip(prepare(pixels).to(torch.bfloat16)).image_embeds.float(), dim=-1)

    denoiser = Denoiser(unet, "sd15", "epsilon", scheduler.alphas_cumprod, vae)
    return Case(denoiser, scheduler, conditioning, image, text, noise, 7.5, [unet, vae, clip])


SIZES: dict[str, Callable[[int, str], Case]] = {"stickers": stickers, "tiny": tiny, "sd15": sd15}
