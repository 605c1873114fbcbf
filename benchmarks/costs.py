"""What a training step costs at the size of SD1.5, SDXL and SD3: FLOPs, parameters and bytes, counted and not run.

    python benchmarks/costs.py                 # all three: a minute or two on one core, no accelerator, no weights
    python benchmarks/costs.py --model sd15 --json

The models are built on torch's meta device, where tensors have shapes and no contents, in bfloat16 with a LoRA of rank
32 as `longalign.weights.lora` attaches it.
Counted are, for one picture: the floating-point operations (two a multiply-add) of
a prediction (F) and of one with its gradient to the LoRA (G); what a prediction keeps for its gradient (activations,
without weights; attention keeps no score matrix); the same of the VAE and of the scorer CLIP ViT-H/14. Steps are sums:

    supervised    G                          (cached; live also the VAE's encoder and the text encoders)
    consistency   G + 3 F                    student; teacher with guidance, 2 F; target (no flow models)
    reward        2 S F + 2 k G + decoder and scorer with gradient       S steps with guidance, k of them with gradient
    reward, LCM   4 F + 4 G + decoder and scorer with gradient           no guidance

`python benchmarks/reward_step.py --size sd15 --flops` counts the reward step of SD1.5 whole, as a check of the sum.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from longalign.weights import lora

TOKENS, RANK = 240, 32
CLIP_H: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD3: dict[str, Any] = {
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}


@dataclass(frozen=True)
class Cost:
    """Of one picture: FLOPs forward, FLOPs forward and backward, bytes kept in between."""

    forward_flop: int
    gradient_flop: int
    kept_bytes: int


@dataclass(frozen=True)
class Counted:
    """One model.

    Attributes:
        latent_bytes: of a picture in a cache. text_bytes_per_token: of its caption there. pooled_bytes: beside it.
    """

    parameters: int
    lora_parameters: int
    denoiser: Cost
    decoder: Cost
    scorer: Cost
    encoder_flop: int
    latent_bytes: int
    text_bytes_per_token: int
    pooled_bytes: int
    flow: bool

    def steps(self) -> dict[str, int]:
        """FLOPs a picture."""
        f, g = self.denoiser.forward_flop, self.denoiser.gradient_flop
        judged = self.decoder.gradient_flop + self.scorer.gradient_flop
        few = {"consistency": g + 3 * f, "reward, LCM-4": 4 * f + 4 * g + judged}
        return {
            "sampling, 25 steps": 50 * f + self.decoder.forward_flop,
            "supervised": g,
            "reward, 50 steps": 100 * f + 10 * g + judged,
            "reward, 25 steps": 50 * f + 10 * g + judged,
            **({} if self.flow else few),
        }


def unet(**config: Any) -> tuple[Any, Callable[[Any], Tensor]]:
    module = UNet2DConditionModel(**config)
    side, width = module.config.sample_size, module.config.cross_attention_dim
    added = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, 6)}

    def predict(module: Any) -> Tensor:
        x, text = torch.randn(1, 4, side, side), torch.randn(1, TOKENS, width)
        return module(x, torch.ones(1), text, added_cond_kwargs=added).sample

    return module, predict


def transformer(**config: Any) -> tuple[Any, Callable[[Any], Tensor]]:
    module = SD3Transformer2DModel(**config)

    def predict(module: Any) -> Tensor:
        x, text = torch.randn(1, 16, 128, 128), torch.randn(1, TOKENS, 4096)
        return module(x, text, torch.randn(1, 2048), torch.ones(1)).sample

    return module, predict


def vae(channels: int, size_px: int) -> Any:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=channels,
        sample_size=size_px,
    )


# name → denoiser; latent channels; side in px; widths of the text states and of the pooled vector
MODELS: dict[str, tuple[Callable[[], tuple[Any, Callable[[Any], Tensor]]], int, int, int, int]] = {
    "sd15": (lambda: unet(sample_size=64, cross_attention_dim=768, attention_head_dim=8), 4, 512, 768, 0),
    "sdxl": (lambda: unet(**SDXL), 4, 1024, 2048, 1280),
    "sd3": (lambda: transformer(**SD3), 16, 1024, 4096, 2048),
}


@contextmanager
def flash() -> Iterator[None]:
    """Attention as a GPU computes it. The meta device would make a matrix of all scores."""
    own = torch.nn.functional.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        return found

    torch.nn.functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = own


def flop(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def cost(predict: Callable[[], Tensor], *modules: torch.nn.Module) -> Cost:
    """Of a prediction from these modules, whose weights are there anyway."""
    weights = {p.untyped_storage()._cdata for m in modules for p in (*m.parameters(), *m.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.no_grad():
        forward = flop(predict)

    def both() -> None:
        predict().sum().backward()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = predict()  # alive, so that no address is used twice
    found = Cost(forward, flop(both), sum(kept.values()))
    del out
    return found


def count(name: str) -> Counted:
    make, channels, size_px, width, pooled = MODELS[name]
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"), flash():
            module, predict = make()
            parameters = sum(p.numel() for p in module.parameters())
            module.requires_grad_(False)
            trained = lora.attach(module, RANK)
            for p in trained:
                p.data = p.data.to(torch.bfloat16)  # one precision throughout, without autocast
            code, clip = vae(channels, size_px), CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_H))
            code.requires_grad_(False)
            clip.requires_grad_(False)
            side = size_px // 8
            z = torch.randn(1, channels, side, side).requires_grad_()
            seen = torch.randn(1, 3, 224, 224).requires_grad_()
            with torch.no_grad():
                encoder = flop(lambda: code.encode(torch.randn(1, 3, size_px, size_px)))
            return Counted(
                parameters,
                sum(p.numel() for p in trained),
                cost(lambda: predict(module), module),
                cost(lambda: code.decode(z).sample, code),
                cost(lambda: clip(seen).image_embeds, clip),
                encoder,
                channels * side**2 * 2,
                width * 2,
                pooled * 2,
                isinstance(module, SD3Transformer2DModel),
            )
    finally:
        torch.set_default_dtype(torch.float32)


def lines(name: str, counted: Counted) -> Iterator[str]:
    d = counted.denoiser
    yield (
        f"{name}: {counted.parameters / 1e6:,.0f} M parameters, LoRA of rank {RANK} "
        f"{counted.lora_parameters / 1e6:.1f} M"
    )
    for part, c in (("denoiser", d), ("VAE's decoder", counted.decoder), ("scorer", counted.scorer)):
        yield (
            f"  {part:14} forward {c.forward_flop / 1e12:8.3f} TFLOP   with gradient {c.gradient_flop / 1e12:8.3f}"
            f"   kept {c.kept_bytes / 2**30:6.2f} GiB"
        )
    yield f"  {'VAE encoder':14} forward {counted.encoder_flop / 1e12:8.3f} TFLOP"
    for step, flops in counted.steps().items():
        yield f"  {step:20} {flops / 1e12:9.2f} TFLOP a picture"
    text = counted.text_bytes_per_token
    yield (
        f"  in a cache: {counted.latent_bytes:,} bytes of latents, {text:,} a token ({TOKENS * text:,} for {TOKENS}), "
        f"{counted.pooled_bytes:,} pooled"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=tuple(MODELS), action="append", help="default: all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    found = {name: count(name) for name in given.model or MODELS}
    if given.json:
        print(json.dumps({n: {**asdict(c), "steps_flop": c.steps()} for n, c in found.items()}))
        return
    for name, counted in found.items():
        print("\n".join(lines(name, counted)))


if __name__ == "__main__":
    main()
