"""Samples per second of a supervised step, data live against data cached, and the bytes that a cached sample takes.

    python benchmarks/supervised_step.py                  # the embedded sticker model
    python benchmarks/supervised_step.py --json
    python benchmarks/supervised_step.py --model FOLDER --micro-batch 8 --precision bf16      # on a GPU

Both sides train the same LoRA by the same objective on the same sticker scenes (rendered at the model's size), step by
step in turns in one process: reading rows, encoding, forward, backward; the optimiser is not in it. Live renders
scenes, and encodes pictures by the VAE and captions by the text encoders; cached reads what `longalign cache` has
stored in bfloat16. Losses of both sides are compared as well. The least ratio wanted is 1.5; exit code 1 if it is less,
unless --quick.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from longalign.data.cache import CacheBuilder, CacheReport
from longalign.data.cached import CachedPictures
from longalign.data.captioned import CaptionedPictures
from longalign.data.text_states import TextSide
from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.pipelines import (
    settings_of,
)
from longalign.objectives.pictures.settings import SupervisedSettings
from longalign.objectives.pictures.supervised import SupervisedObjective
from longalign.runtime import (
    pick_device,
)
from longalign.stickers.scene_source import (
    StickerScenes,
)
from longalign.training.processes import make_accelerator
from longalign.weights.stack import (
    load_pipeline,
    t5_branch,
)

WANTED = 1.5


def make(name: str, device: str, strategy: str, rows: Any) -> SupervisedObjective:
    torch.manual_seed(0)
    pipe = load_pipeline(name, device=device, dtype="float32")
    return SupervisedObjective(
        pipe,
        SupervisedSettings(strategy=strategy),
        rows,
        model=settings_of(name, pipe),
        t5=t5_branch(name, strategy, pipe),
    )


def cached(
    name: str, device: str, strategy: str, source: StickerScenes, folder: Path
) -> tuple[int, CacheReport]:
    """Fills the cache; the side of its pictures, and what it says of itself."""
    pipe = load_pipeline(name, device=device, dtype="float32")
    denoiser = Denoiser.of(pipe)
    size_px = denoiser.side * denoiser.vae_factor
    texts = TextSide(pipe, strategy, settings_of(name, pipe).length, t5_branch(name, strategy, pipe))
    return size_px, CacheBuilder(folder, pipe, texts, size_px, model=name).build(source)


def step(objective: SupervisedObjective, accelerator: Any, first: int, count: int) -> tuple[float, float]:
    """Seconds and loss of a micro-batch."""
    torch.manual_seed(first)
    began = time.perf_counter()
    batch = objective.collate([objective.data[i] for i in range(first, first + count)])
    with accelerator.autocast():
        loss = objective.backward(batch, accelerator)["loss"]
    found = float(loss)  # waits for the device
    seconds = time.perf_counter() - began
    for module in objective.modules().values():
        module.zero_grad(set_to_none=True)
    return seconds, found


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    device = pick_device(arguments.device)
    accelerator = make_accelerator(arguments.precision)
    rows = arguments.micro_batch * (arguments.steps + 1)
    source = StickerScenes(rows, objects=((1, 9), (7, 9)))
    began = time.perf_counter()
    size_px, report = cached(arguments.model, device, arguments.strategy, source, folder)
    caching_s = time.perf_counter() - began
    sides = {
        "live": make(arguments.model, device, arguments.strategy, CaptionedPictures(source, size_px)),
        "cached": make(arguments.model, device, arguments.strategy, CachedPictures(folder)),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    losses: dict[str, list[float]] = {side: [] for side in sides}
    for k in range(arguments.steps + 1):  # the first one warms up
        for side, objective in sides.items():
            taken, loss = step(objective, accelerator, k * arguments.micro_batch, arguments.micro_batch)
            if k:
                seconds[side].append(taken)
                losses[side].append(loss)
    rate = {side: arguments.micro_batch / median(times) for side, times in seconds.items()}
    return {
        "model": arguments.model,
        "strategy": arguments.strategy,
        "device": device,
        "precision": arguments.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "micro_batch": arguments.micro_batch,
        "seconds": {side: [round(t, 4) for t in times] for side, times in seconds.items()},
        "samples_per_s": rate,
        "cached_is_faster": rate["cached"] / rate["live"],
        "caching_samples_per_s": rows / caching_s,
        "loss_difference": max(abs(a - b) for a, b in zip(losses["live"], losses["cached"], strict=True)),
        "loss": median(losses["live"]),
        **report.to_json(),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="two small steps; not a measurement")
    add("--json", action="store_true", help="print JSON and nothing else")
    add("--model", default="stickers")
    add("--strategy", default="clip-cat")
    add("--device", default="auto")
    add("--precision", default="bf16", choices=("no", "bf16", "fp16"))
    add("--threads", type=int, help="threads of torch (default: its own choice)")
    add("--micro-batch", type=int, help="rows (default: 24, quick 4)")
    add("--steps", type=int, help="timed steps of each side (default: 10, quick 2)")
    arguments = parser.parse_args()
    arguments.micro_batch = arguments.micro_batch or (4 if arguments.quick else 24)
    arguments.steps = arguments.steps or (2 if arguments.quick else 10)
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        row = compare(arguments, Path(folder))
    if arguments.json:
        print(json.dumps(row))
    else:
        print(
            f"{row['model']}, {row['strategy']}, {row['micro_batch']} rows a step, {row['device']}, "
            f"{row['precision']}, {row['threads']} threads, torch {row['torch']}"
        )
        for side, times in row["seconds"].items():
            print(
                f"  {side:7}{row['samples_per_s'][side]:9.2f} samples/s   {median(times):.3f} s a step "
                f"({min(times):.3f} to {max(times):.3f})"
            )
        print(f"  cached is {row['cached_is_faster']:.2f}x as fast (wanted: {WANTED}x)")
        print(f"  making the cache: {row['caching_samples_per_s']:.2f} samples/s, loading the model included")
        print(
            f"  bytes a sample: {row['latent_bytes']:,} of latents, {row['text_bytes']:,} of text "
            f"({row['padded_text_bytes']:,} padded)"
        )
        print(f"  losses differ by at most {row['loss_difference']:.1e}, of {row['loss']:.3f}")
    if not arguments.quick and row["cached_is_faster"] < WANTED:
        sys.exit(f"cached is {row['cached_is_faster']:.2f}x as fast as live, and {WANTED}x was wanted")


if __name__ == "__main__":
    main()
