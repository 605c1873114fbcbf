"""Training of the tiny models: one loop for all parts.

    longalign stickers train all --out runs/stickers

Every part draws scenes from the `train` split whose captions fit 77 tokens (1–5 stickers), but for the VAE, which
reads no captions and sees 2–9. The learning curve goes to `<out>/<part>.jsonl`, the state to `<out>/<part>.pt`
every two minutes; calling again resumes. `sdxl` and `sd3` (`FURTHER`) are trained on the embedded model's parts.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from longalign.stickers.making.denoising import Adapter, UNet
from longalign.stickers.making.parts import CLIP, T5, VAE, Part

CHECKPOINT_EVERY_S = 120.0
LOG_EVERY_STEPS = 50

PARTS: dict[str, Callable[[torch.device, Path, int], Part]] = {
    "vae": VAE,
    "clip": CLIP,
    "t5": T5,
    "unet": UNet,
    "adapter": Adapter,
}


def _sdxl(device: torch.device, out: Path, steps: int) -> Part:
    from longalign.stickers.making.sdxl_sd3 import SDXL

    return SDXL(device, out, steps)


def _sd3(device: torch.device, out: Path, steps: int) -> Part:
    from longalign.stickers.making.sdxl_sd3 import SD3

    return SD3(device, out, steps)


def _denscore(device: torch.device, out: Path, steps: int) -> Part:
    from longalign.stickers.making.denscore_part import Denscore

    return Denscore(device, out, steps)


# What stands on the embedded model's parts: not in `all`, since that model has to be packed before.
FURTHER: dict[str, Callable[[torch.device, Path, int], Part]] = {
    "sdxl": _sdxl,
    "sd3": _sd3,
    "denscore": _denscore,
}

# How long each part is trained unless asked otherwise.
STEPS: dict[str, int] = {
    "vae": 6000,
    "clip": 1500,
    "t5": 800,
    "unet": 3000,
    "adapter": 600,
    "sdxl": 600,
    "sd3": 2500,
    "denscore": 4000,  # for an accelerator; on a CPU 1,000 with a batch of 64 bring almost as much
}


def schedule(progress: float, warmup: float = 0.02) -> float:
    """Learning rate over its peak, at a share of the run: linear warm-up, cosine to 1 %."""
    if progress < warmup:
        return progress / warmup
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))) / 2


def fit(
    name: str,
    out: Path,
    *,
    steps: int,
    seed: int = 0,
    device: str = "cpu",
    ema: float = 0.998,
    init: dict[str, Tensor] | None = None,
    say: Callable[[dict[str, Any]], None] = lambda row: None,
    on_step: Callable[[int], None] = lambda steps: None,
) -> None:
    """Train one part for a number of steps, resuming from `<out>/<name>.pt` where there is one."""
    torch.manual_seed(seed)  # for the initial weights
    out.mkdir(parents=True, exist_ok=True)
    part = {**PARTS, **FURTHER}[name](torch.device(device), out, steps)
    if init is not None:
        part.module.load_state_dict(init)
    trainable = [p for p in part.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=part.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    average = [p.detach().clone() for p in trainable]
    state, step, spent = out / f"{name}.pt", 0, 0.0
    if state.exists():
        saved = torch.load(state, weights_only=True, map_location=device)
        part.module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        average, step, spent = saved["average"], saved["step"], saved["seconds"]
        on_step(step)
    began = time.monotonic() - spent
    checks = {round(share * steps) for share in getattr(part, "check_at", ())}
    saved_at = time.monotonic()
    with (out / f"{name}.jsonl").open("a") as curve:
        while step < steps:
            rng = np.random.default_rng([seed, step])
            torch.manual_seed(seed * steps + step)  # so that a resumed run is the undisturbed one
            for group in optimizer.param_groups:
                group["lr"] = part.learning_rate * schedule(step / steps)
            with sdpa_kernel(SDPBackend.MATH):  # on CPUs the fused kernel's backward is the slower one here
                loss, logged = part.loss(step * part.batch_size, rng)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            norm = nn.utils.clip_grad_norm_(trainable, 1.0)
            if torch.isfinite(norm):
                optimizer.step()
            step += 1
            on_step(1)
            decay = min(ema, step / (step + 10))
            torch._foreach_lerp_(average, [p.detach() for p in trainable], 1 - decay)
            if step in checks:
                with _averaged(trainable, average):
                    logged |= part.check()  # type: ignore[attr-defined]  # whatever has times for it has the check
            if step % LOG_EVERY_STEPS == 0 or step == steps or step in checks:
                row = {
                    "step": step,
                    "samples": step * part.batch_size,
                    "seconds": round(time.monotonic() - began, 1),
                    "loss": round(loss.item(), 5),
                    **{k: round(v, 5) for k, v in logged.items()},
                }
                curve.write(json.dumps(row) + "\n")
                curve.flush()
                say(row)
            if time.monotonic() - saved_at > CHECKPOINT_EVERY_S or step == steps:
                checkpoint = {
                    "module": part.module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average,
                    "step": step,
                    "seconds": time.monotonic() - began,
                }
                torch.save(checkpoint, state.with_suffix(".tmp"))
                state.with_suffix(".tmp").replace(state)
                with _averaged(trainable, average):
                    part.save(part.module, out)
                saved_at = time.monotonic()


@contextmanager
def _averaged(trainable: list[nn.Parameter], average: list[Tensor]) -> Iterator[None]:
    """The averaged weights in place of the last ones."""
    raw = [p.detach().clone() for p in trainable]
    with torch.no_grad():
        for p, a in zip(trainable, average, strict=True):
            p.copy_(a)
    yield
    with torch.no_grad():
        for p, r in zip(trainable, raw, strict=True):
            p.copy_(r)
