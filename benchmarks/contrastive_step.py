"""Memory and time of one step of soft tokens by contrast: the two-pass gradient against one graph of all pairs.

    python benchmarks/contrastive_step.py                            # the embedded sticker model; minutes on two cores
    python benchmarks/contrastive_step.py --size tiny --repeats 1    # a UNet of some thousand parameters: does it run?
    python benchmarks/contrastive_step.py --device cuda --precision bf16

A step of B pictures looks at B² pairs of picture and caption and takes the gradient of the contrastive loss to the
soft tokens (SoftREPA; longalign.objectives.contrastive.objective). The sides:

- ours: all errors without gradient, a chunk of pairs at a time, then each chunk again with its weights.
- one graph: the same chunks, all in one graph, as autograd has it; where it is asked for (--graph).

Captions come in two padded lengths, half of them each, and a chunk has one; so chunks of all batches are equally full.
Encoding and the optimiser are not in it: latents and caption states are there before, in memory that grows with the
batch on either side, and is printed apart. Memory is the peak of live tensors beside them and the weights
(live_tensors.py; on a GPU what its allocator counts). Both sides take turns in one process after a short run of
each; times are medians, ratios are medians of the turns' ratios with the least and the most; the gradients are
compared. Claimed: the peak of the largest batch is within 10 % of the smallest's, and ours takes at most 1.6 times as
long as one graph. Exit code 1 if not, unless the size is tiny, which measures nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from live_tensors import LiveTensors
from longalign.data.captioned import CaptionedPictures
from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.pipelines import (
    settings_of,
)
from longalign.losses import contrastive_loss
from longalign.objectives.contrastive.objective import ContrastiveObjective
from longalign.objectives.contrastive.pairs import Matching
from longalign.objectives.contrastive.settings import ContrastiveSettings
from longalign.objectives.random_draws import Draws
from longalign.runtime import (
    pick_device,
)
from longalign.stickers.scene_source import (
    StickerScenes,
)
from longalign.training.processes import make_accelerator
from longalign.weights.stack import (
    load_pipeline,
)

MOST_MEMORY, MOST_TIME = 1.10, 1.6


class Step:
    """One size of batch, with all that a step needs."""

    def __init__(self, objective: ContrastiveObjective, accelerator: Any, count: int) -> None:
        self.objective, self.accelerator, self.count = objective, accelerator, count
        batch = objective.collate([objective.data[i] for i in range(count)])
        self.x0, self.states, self.padding = objective.encode(batch)

    @property
    def given_bytes(self) -> int:
        """Of latents and caption states."""
        parts = [self.x0, *(p for s in self.states for p in (s.own, s.t5, s.pooled) if p is not None)]
        return sum(p.nbytes for p in parts)

    def ours(self) -> None:
        self.objective.reseed(Draws(0, 0, 0, self.count))
        with self.accelerator.autocast():
            self.objective.learn(self.x0, self.states, self.padding, self.accelerator)

    def one_graph(self) -> None:
        objective, settings = self.objective, self.objective.settings
        t, eps = objective._time_and_noise(Draws(0, 0, 0, self.count), self.x0)
        with self.accelerator.autocast():
            matching = Matching(
                objective.denoiser, self.x0, t, eps, self.states, self.padding, None, settings.pairs_at_once
            )
            pairs = matching.every_pair()
            chunks = matching.chunks(pairs)
            errors = torch.cat([matching.errors(pairs[part]) for part in chunks])
            order = torch.cat(chunks).argsort().to(errors.device)
            loss = contrastive_loss(
                errors[order].view(self.count, self.count),
                scale=settings.scale,
                temperature=settings.temperature,
                matched_weight=objective.matched_weight,
            )
        self.accelerator.backward(loss)

    def gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.objective.tokens.parameters() if p.grad is not None])

    def forget(self) -> None:
        """Zeros, not None: the memory of gradients is there on both sides from the beginning."""
        for p in self.objective.tokens.parameters():
            p.grad = torch.zeros_like(p)


def timed(step: Step, side: Callable[[], None]) -> float:
    step.forget()
    synchronize(step.x0.device)
    began = time.perf_counter()
    side()
    synchronize(step.x0.device)
    return time.perf_counter() - began


def peak_bytes(step: Step, side: Callable[[], None]) -> int:
    step.forget()
    if step.x0.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        side()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    module = step.objective.denoiser.module
    there = [*module.parameters(), *module.buffers(), *step.objective.tokens.parameters(), step.x0]
    with LiveTensors(*there) as live:
        side()
    return live.peak_bytes


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def objective_of(size: str, device: str, rows: int, pairs_at_once: int) -> ContrastiveObjective:
    torch.manual_seed(0)
    if size == "tiny":
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))
        import tiny

        pipe, model = tiny.tiny_sd15().to(device), None
    else:
        pipe = load_pipeline("stickers", device=device, dtype="float32")
        model = settings_of("stickers", pipe)
    denoiser = Denoiser.of(pipe)
    source = StickerScenes(rows, objects=((1, 5), (7, 9)))
    data = CaptionedPictures(source, denoiser.side * denoiser.vae_factor)
    return ContrastiveObjective(pipe, ContrastiveSettings(pairs_at_once=pairs_at_once), data, model=model)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    device = pick_device(arguments.device)
    accelerator = make_accelerator(arguments.precision)
    objective = objective_of(arguments.size, device, max(arguments.batches), arguments.pairs_at_once)
    steps = {count: Step(objective, accelerator, count) for count in arguments.batches}
    smallest = steps[min(steps)]
    timed(smallest, smallest.ours)
    memory = {count: peak_bytes(step, step.ours) for count, step in steps.items()}
    step = steps.get(arguments.graph) or Step(objective, accelerator, arguments.graph)
    gradients = []
    for side in (step.ours, step.one_graph):  # they warm up, and leave what they give
        timed(step, side)
        gradients.append(step.gradient().double())
    graph_bytes = peak_bytes(step, step.one_graph)
    turns = [(timed(step, step.ours), timed(step, step.one_graph)) for _ in range(arguments.repeats)]
    ratios = [a / b for a, b in turns]
    return {
        "size": arguments.size,
        "device": torch.cuda.get_device_name()
        if device.startswith("cuda")
        else platform.processor() or device,
        "precision": arguments.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pairs_at_once": arguments.pairs_at_once,
        "peak_bytes": memory,
        "given_bytes": {count: s.given_bytes for count, s in steps.items()},
        "memory_ratio": max(memory.values()) / min(memory.values()),
        "graph_batch": arguments.graph,
        "graph_bytes": graph_bytes,
        "seconds": turns,
        "time_ratio": median(ratios),
        "time_ratios": [min(ratios), max(ratios)],
        "gradient_difference": float((gradients[0] - gradients[1]).norm() / gradients[1].norm()),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", default="stickers", choices=("tiny", "stickers"))
    add("--batches", type=int, nargs="+", default=[4, 16, 64], help="of which the memory is measured")
    add("--graph", type=int, default=16, help="batch of which one graph is made and timed")
    add("--pairs-at-once", type=int, default=8, help="a batch of 4 has 8 pairs of each of two padded lengths")
    add("--repeats", type=int, default=5)
    add("--device", default="auto")
    add("--precision", default="no", choices=("no", "bf16"))
    add("--threads", type=int, help="threads of torch (default: its own choice)")
    add("--json", action="store_true", help="print JSON and nothing else")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    found = measure(arguments)
    if arguments.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['size']}, {found['device']}, {found['precision']}, {found['threads']} threads, torch "
            f"{found['torch']}; {found['pairs_at_once']} pairs at once"
        )
        for count, peak in found["peak_bytes"].items():
            given = found["given_bytes"][count]
            print(
                f"  batch {count:3}: peak {peak / 2**20:8.1f} MiB, beside {given / 2**20:6.1f} MiB of the batch itself"
            )
        print(f"  the most is {found['memory_ratio']:.3f} of the least (claimed: {MOST_MEMORY})")
        ours, plain = (median(turn[k] for turn in found["seconds"]) for k in (0, 1))
        low, high = found["time_ratios"]
        print(
            f"  batch {found['graph_batch']}: {ours:.3f} s, in one graph {plain:.3f} s and "
            f"{found['graph_bytes'] / 2**20:.1f} MiB; ratio {found['time_ratio']:.2f} ({low:.2f} to {high:.2f}, "
            f"claimed: {MOST_TIME})"
        )
        print(f"  gradients differ by {found['gradient_difference']:.1e} of their norm")
    kept = found["memory_ratio"] <= MOST_MEMORY and found["time_ratio"] <= MOST_TIME
    if arguments.size != "tiny" and not kept:
        sys.exit("what is claimed does not hold")


if __name__ == "__main__":
    main()
