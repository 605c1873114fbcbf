"""What one GPU makes of training and scoring: rates, share of the peak (MFU), memory, and equality with the CPU.

    python benchmarks/gpu.py --out gpu.json              # SD1.5, SDXL, SD3 in bf16; under 8 minutes on one GPU
    python benchmarks/gpu.py --models sd15 --budget 120
    python benchmarks/gpu.py --tiny                      # minute sizes on the CPU: shows that it runs, measures nothing

Models have the published sizes and random weights; nothing is downloaded. Steps are those of `benchmarks/costs.py`,
which counts their FLOPs (`--costs FILE` takes its `--json` output; without it they are counted here, in a minute):

    supervised   one prediction with gradient to a LoRA of rank 32
    reward       25 steps with guidance 7.5, 5 of them with gradient, through the VAE's decoder and CLIP ViT-H/14
    soft tokens  all pairs of a batch of b pictures and captions, twice: b² predictions, and b² with gradient

Optimiser steps are left out. Each rate is a median of turns after one that warms up. MFU is counted FLOPs over time and
the peak of dense bf16 matrix products (`--peak-tflops`; 989 for an H100 SXM). Results are written after each
measurement, so a run that is stopped keeps what it has.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor
from torch.nn.functional import normalize
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from costs import MODELS, vae
from costs import count as count_costs
from longalign.data.text_states import Padding, TextStates
from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.pipelines import load_tokenizer
from longalign.encoding import Conditioning, TextParts, encode_groups
from longalign.losses import contrastive_loss
from longalign.objectives.contrastive.pairs import Matching
from longalign.preference import PreferenceModel, Preprocess
from longalign.scoring.data import Pair
from longalign.scoring.stream import score_pairs
from longalign.soft_tokens import Attachment, SoftTokenConfig, SoftTokens
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import render, scene
from longalign.weights import lora
from reward_step_models import Case
from reward_step_sides import ours

TOKENS, RANK = 240, 32
BATCHES = {"sd15": (4, 16, 64), "sdxl": (4, 8), "sd3": (4, 8)}
SOFT_BATCHES = {"sd15": (4, 8, 16), "sdxl": (4,), "sd3": (4,)}
CLIP_H: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
}

CLIP_H_TEXT: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}


class Bench:
    """Measures, records and keeps to a budget of time.

    Args:
        device: where. seconds: after which no further measurement begins. out: the file of results, or None.
    """

    def __init__(self, device: str, seconds: float, out: Path | None) -> None:
        self.device, self.out, self.began, self.seconds = device, out, time.perf_counter(), seconds
        self.rows: list[dict[str, Any]] = []

    @property
    def over(self) -> bool:
        return time.perf_counter() - self.began > self.seconds

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def measure(
        self,
        what: str,
        run: Callable[[], Any],
        *,
        pictures: int,
        flop: float,
        peak: float,
        turns: int = 3,
        **facts: Any,
    ) -> None:
        """Times a step; records pictures a second, MFU and the peak of memory beyond what was there."""
        if self.over:
            self.record(what=what, **facts, skipped="no time left")
            return
        try:
            run()
            self.synchronize()
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            seconds = []
            for _ in range(turns):
                start = time.perf_counter()
                run()
                self.synchronize()
                seconds.append(time.perf_counter() - start)
            memory = {}
            if self.device == "cuda":
                memory = {
                    "resident_gb": round(before / 1e9, 2),
                    "step_gb": round((torch.cuda.max_memory_allocated() - before) / 1e9, 2),
                }
            s = median(seconds)
            self.record(
                what=what,
                **facts,
                per_s=round(pictures / s, 3),
                seconds=[round(x, 4) for x in seconds],
                tflop=round(flop / 1e12, 2),
                mfu=round(flop / s / (peak * 1e12), 4),
                **memory,
            )
        except torch.cuda.OutOfMemoryError:
            self.record(what=what, **facts, skipped="out of memory")
        finally:
            gc.collect()
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def record(self, **row: Any) -> None:
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self.out is not None:
            self.out.write_text(json.dumps({**self.head(), "rows": self.rows}, indent=1) + "\n")

    def head(self) -> dict[str, Any]:
        name = torch.cuda.get_device_name() if self.device == "cuda" else platform.processor() or "cpu"
        return {
            "device": name,
            "torch": torch.__version__,
            "seconds": round(time.perf_counter() - self.began, 1),
        }


@contextmanager
def bf16(device: str) -> Iterator[None]:
    """New modules and tensors on the device, in bfloat16."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


class Model:
    """One backbone of published size (or a minute one) with a LoRA, its VAE and texts."""

    def __init__(self, name: str, device: str, tiny: bool) -> None:
        self.name, self.device = name, device
        make, self.channels, self.size_px, self.width, self.pooled = MODELS[name]
        self.flow = name == "sd3"
        torch.manual_seed(0)
        with bf16(device):
            if tiny:
                module, self.size_px = tiny_module(name), 64
                self.channels = module.config.in_channels
            else:
                module, _ = make()
            module.requires_grad_(False).eval()
            for parameter in lora.attach(module, RANK):
                torch.nn.init.normal_(parameter, std=0.02)
            for parameter in module.parameters():
                parameter.data = parameter.data.to(
                    torch.bfloat16
                )  # one precision throughout, without autocast
            self.vae = (
                (tiny_vae(self.channels) if tiny else vae(self.channels, self.size_px))
                .requires_grad_(False)
                .eval()
            )
        self.vae.register_to_config(force_upcast=False)
        schedule: dict[str, Any] = {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
        }
        self.scheduler: Any = (
            FlowMatchEulerDiscreteScheduler(shift=3.0)
            if self.flow
            else DDIMScheduler(clip_sample=False, **schedule)
        )
        kind = "flow" if self.flow else "epsilon"
        alphas = None if self.flow else self.scheduler.alphas_cumprod
        self.denoiser = Denoiser(module, name, kind, alphas, self.vae)
        self.side = self.size_px // self.denoiser.vae_factor
        self.module = module
        if tiny:
            self.width = module.config.joint_attention_dim if self.flow else module.config.cross_attention_dim
            self.pooled = module.config.pooled_projection_dim if self.flow else (16 if name == "sdxl" else 0)

    def latents(self, count: int) -> Tensor:
        return torch.randn(
            count, self.channels, self.side, self.side, device=self.device, dtype=torch.bfloat16
        )

    def conditioning(self, count: int) -> Conditioning:
        with bf16(self.device):
            embeds, negative = torch.randn(2, count, TOKENS, self.width)
            pooled = (
                (torch.randn(count, self.pooled), torch.randn(count, self.pooled))
                if self.pooled
                else (None, None)
            )
        where = torch.zeros(count, TOKENS, dtype=torch.long, device=self.device)
        nothing = ((),) * count
        return Conditioning(embeds, pooled[0], where, negative, pooled[1], where, nothing, nothing, self.name)

    def forget(self) -> None:
        for parameter in self.module.parameters():
            parameter.grad = None

    def supervised(self, count: int) -> Callable[[], None]:
        x0, eps, c = self.latents(count), self.latents(count), self.conditioning(count)
        t = torch.full((count,), 500, device=self.device)

        def run() -> None:
            self.forget()
            f = self.denoiser(self.denoiser.noised(x0, eps, t), t, c)
            (f - self.denoiser.target(x0, eps, t)).float().square().mean().backward()

        return run

    def reward(self, count: int, steps: int, some: int, clip: Any, crop_px: int) -> Callable[[], None]:
        with torch.device(self.device):
            text = normalize(torch.randn(count, clip.config.projection_dim), dim=-1)
        prepare = Preprocess(crop_px)

        def image(pixels: Tensor) -> Tensor:
            return normalize(clip(prepare(pixels).to(torch.bfloat16)).image_embeds.float(), dim=-1)

        modules = [self.module, self.vae, clip]
        noise = torch.randn(count, self.channels, self.side, self.side, device=self.device)
        case = Case(self.denoiser, self.scheduler, self.conditioning(count), image, text, noise, 7.5, modules)
        solver = case.solver("own" if self.flow else "ddim", steps)

        def run() -> None:
            self.forget()
            ours(case, solver, some)

        return run

    def soft_tokens(self, count: int, pairs_at_once: int) -> tuple[Callable[[], None], Attachment]:
        tokens = SoftTokens(SoftTokenConfig.of(self.module)).to(self.device)
        attachment = tokens.attach(self.module)
        shape = (TOKENS, 0)
        with bf16(self.device):
            captions = [
                TextStates(
                    torch.randn(TOKENS, self.width),
                    shape,
                    None,
                    torch.randn(self.pooled) if self.pooled else None,
                )
                for _ in range(count)
            ]
            empty = torch.randn(TOKENS, self.width)
            pooled = torch.randn(self.pooled) if self.pooled else None
        padding = Padding(self.name, False, None, pooled, {shape: empty}, {})
        x0, eps, t = self.latents(count), self.latents(1)[0], torch.tensor(500, device=self.device)

        def weigh(errors: Tensor) -> Tensor:
            with torch.enable_grad():
                e = errors.detach().requires_grad_()
                [w] = torch.autograd.grad(contrastive_loss(e.view(count, count)), e)
            return w

        class Backward:
            def backward(self, loss: Tensor) -> None:
                loss.backward()

        def run() -> None:
            tokens.zero_grad(set_to_none=True)
            matching = Matching(self.denoiser, x0, t, eps, captions, padding, None, pairs_at_once)
            matching.backward(matching.every_pair(), weigh, Backward())

        return run, attachment


def tiny_module(name: str) -> Any:
    """A backbone of the same classes in miniature."""
    from diffusers import SD3Transformer2DModel, UNet2DConditionModel

    if name == "sd3":
        return SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, num_layers=6, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16, out_channels=4,
            pos_embed_max_size=8,
        )  # fmt: skip
    more = {} if name == "sd15" else {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64,
    }  # fmt: skip
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4, norm_num_groups=8, **more,
    )  # fmt: skip


def tiny_vae(channels: int) -> Any:
    from diffusers import AutoencoderKL

    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(**kinds, block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=channels)


def scorer(device: str, tiny: bool) -> tuple[Any, int]:
    """CLIP ViT-H/14's image tower, and the side of its pictures."""
    size = (
        {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        if tiny
        else CLIP_H
    )
    px = 28 if tiny else 224
    config = CLIPVisionConfig(
        **size, patch_size=14, image_size=px, projection_dim=32 if tiny else 1024, hidden_act="gelu"
    )
    with bf16(device):
        return CLIPVisionModelWithProjection(config).requires_grad_(False).eval(), px


def steps_of(bench: Bench, name: str, costs: dict[str, Any], arguments: argparse.Namespace) -> None:
    """All steps of one backbone."""
    model, peak = Model(name, bench.device, arguments.tiny), arguments.peak_tflops
    f, g = costs["denoiser"]["forward_flop"], costs["denoiser"]["gradient_flop"]
    judged = costs["decoder"]["gradient_flop"] + costs["scorer"]["gradient_flop"]
    kept_gb = costs["denoiser"]["kept_bytes"] / 1e9
    for count in arguments.batches or BATCHES[name]:
        facts = {"model": name, "batch": count, "predicted_gb": round(count * kept_gb, 2)}
        bench.measure(
            "supervised", model.supervised(count), pictures=count, flop=count * g, peak=peak, **facts
        )
    if arguments.compile and not arguments.tiny:
        count = BATCHES[name][0]
        whole = model.denoiser.module
        model.denoiser.module = torch.compile(whole)
        facts = {"model": name, "batch": count, "compiled": True}
        bench.measure(
            "supervised", model.supervised(count), pictures=count, flop=count * g, peak=peak, **facts
        )
        model.denoiser.module = whole
    clip, px = scorer(bench.device, arguments.tiny)
    count, steps, some = (2, 4, 2) if arguments.tiny else (4, 25, 5)
    flop = count * (2 * steps * f + 2 * some * g + judged)
    run = model.reward(count, steps, some, clip, px)
    bench.measure("reward", run, pictures=count, flop=flop, peak=peak, turns=1, model=name, batch=count)
    del clip, run
    for count in (2,) if arguments.tiny else SOFT_BATCHES[name]:
        run, attachment = model.soft_tokens(count, arguments.pairs_at_once)
        flop = count**2 * (f + g)
        facts = {"model": name, "batch": count, "pairs_at_once": arguments.pairs_at_once}
        bench.measure("soft tokens", run, pictures=count, flop=flop, peak=peak, turns=2, **facts)
        attachment.detach()


def texts_and_scores(bench: Bench, tiny: bool) -> None:
    """Prompts a second through a text encoder of CLIP-L's size, and pairs a second through CLIP-H's."""
    tokenizer = load_tokenizer("stickers")
    prompts = [text_of(caption(scene(i, objects=(9, 9)), i)) for i in range(8 if tiny else 256)]
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 77, **special}
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    large = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    kind = torch.float32 if bench.device == "cpu" else torch.float16
    with torch.device(bench.device):
        encoder = CLIPTextModel(CLIPTextConfig(**text, **(size if tiny else large))).to(kind).eval()
        config = CLIPConfig(
            text_config={**text, **(size if tiny else CLIP_H_TEXT)},
            vision_config={**(size if tiny else CLIP_H), "patch_size": 14, "image_size": 28 if tiny else 224},
            projection_dim=32 if tiny else 1024,
        )
        clip = CLIPModel(config).to(kind).eval().requires_grad_(False)
    parts = TextParts("sd15", (tokenizer,), (encoder,))
    bench.measure(
        "encode",
        lambda: encode_groups(parts, prompts, strategy="clip-cat"),
        pictures=len(prompts),
        flop=0,
        peak=1,
        batch=len(prompts),
        model="CLIP-L text",
    )
    model = PreferenceModel(clip, tokenizer, Preprocess(28 if tiny else 224))
    pairs = [Pair(render(scene(i)), p, str(i)) for i, p in enumerate(prompts)]
    bench.measure(
        "score",
        lambda: list(score_pairs(model, iter(pairs))),
        pictures=len(pairs),
        flop=0,
        peak=1,
        batch=len(pairs),
        model="CLIP-H",
    )


def gradients_equal(bench: Bench) -> None:
    """Float32 gradients of a small UNet with a LoRA on the CPU and on the device, relative difference."""
    torch.backends.cudnn.allow_tf32 = False  # else convolutions keep ten bits of the mantissa
    found = []
    for device in ("cpu", bench.device):
        torch.manual_seed(0)
        module = tiny_module("sd15").requires_grad_(False)
        trained = lora.attach(module, 4)
        for parameter in trained:
            torch.nn.init.normal_(parameter, std=0.05)
        x, text = torch.randn(4, 4, 8, 8), torch.randn(4, 30, 16)
        module.to(device)
        module(x.to(device), 500, text.to(device)).sample.square().mean().backward()
        found.append(torch.cat([p.grad.flatten().double().cpu() for p in trained if p.grad is not None]))
    torch.backends.cudnn.allow_tf32 = True
    difference = float((found[0] - found[1]).norm() / found[0].norm())
    bench.record(what="gradient, float32, CPU against device", relative_difference=difference)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    add(
        "--batches",
        type=int,
        nargs="+",
        help="of the supervised step; default: 4 to 64, less for the large models",
    )
    add("--pairs-at-once", type=int, default=8)
    add("--peak-tflops", type=float, default=989.0, help="dense bf16 peak of the GPU")
    add("--budget", type=float, default=420.0, help="seconds after which no further measurement begins")
    add("--costs", type=Path, help="output of `benchmarks/costs.py --json`")
    add("--compile", action="store_true", help="the supervised step with torch.compile, too")
    add("--steps-only", action="store_true", help="no rates of encoding and scoring")
    add("--tiny", action="store_true", help="minute sizes")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("no GPU here: add --tiny to see that the script runs, which measures nothing")
    costs = json.loads(arguments.costs.read_text()) if arguments.costs else {}
    bench = Bench(arguments.device, arguments.budget, arguments.out)
    gradients_equal(bench)
    if not arguments.steps_only:
        texts_and_scores(bench, arguments.tiny)
    for name in arguments.models:
        zero = {"forward_flop": 0, "gradient_flop": 0, "kept_bytes": 0}
        none = {"denoiser": zero, "decoder": zero, "scorer": zero}
        of_model = none if arguments.tiny else costs.get(name) or asdict(count_costs(name))
        steps_of(bench, name, of_model, arguments)
        gc.collect()
        if bench.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
