"""Memory and time of one step of reward fine-tuning: the closed-form gradient against autograd.

    python benchmarks/reward_step.py                            # the embedded sticker model; minutes on two cores
    python benchmarks/reward_step.py --size tiny --repeats 1    # a UNet of some thousand parameters: does it run?
    python benchmarks/reward_step.py --size sd15 --device cuda  # SD1.5, VAE, CLIP-H; random weights, bf16; wants a GPU
    python benchmarks/reward_step.py --size sd15 --flops        # counts its FLOPs without computing anything

One step is: sample pictures with guidance, score them, gradient to a LoRA through 5 predictions with detached inputs
(DRTune). The sides:

- ours: `longalign.objectives.reward_chain`, pictures decoded and scored one by one; also with the guidance branches
  one after the other (split), with all pictures scored together, with more and fewer gradient steps, and with UniPC-25
  in place of DDIM-50.
- plain: all 5 predictions in one graph through the chain, as autograd makes it.
- checkpointed: the same with `torch.utils.checkpoint` around each of them.

All sides run in one process, after a short run of each, and take turns; times are medians, ratios are medians of the
turns' ratios with the least and the most. Memory is the peak of live tensors beside weights, inputs and the LoRA's
gradients (see live_tensors.py; on a GPU what its allocator counts). With the same steps all sides give the same
gradient, and its difference from the first side's is printed.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from live_tensors import LiveTensors
from longalign.objectives.reward_chain import Plan, backpropagate, sample_keeping
from longalign.solver import LinearSolver
from reward_step_models import SIZES, Case

Side = Callable[[], None]


def spread_out(total: int, count: int) -> Plan:
    """DRTune's steps from a fixed start."""
    return Plan(tuple((total // 2 + i * total) // count for i in range(count)))


def ours(case: Case, solver: LinearSolver, count: int, split: bool = False, at_once: int = 1) -> None:
    def terms(_: int, x: Tensor, t: Tensor) -> Iterator[tuple[float, Tensor]]:
        return case.denoiser.terms(x, t, case.conditioning, case.guidance, split=split)

    plan = spread_out(len(solver), count)
    sampled = sample_keeping(solver, terms, case.noise, plan)
    g = torch.empty_like(sampled.x0)
    for rows in (slice(i, i + at_once) for i in range(0, len(g), at_once)):
        latents = sampled.x0[rows].detach().requires_grad_()
        [g[rows]] = torch.autograd.grad(case.loss(latents, rows), latents)
    backpropagate(solver, terms, sampled, plan, g)


def by_autograd(case: Case, solver: LinearSolver, count: int, checkpointed: bool) -> None:
    plan = spread_out(len(solver), count)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        return case.denoiser.guided(x, t, case.conditioning, case.guidance)

    def predict(i: int, x: Tensor, t: Tensor) -> Tensor:
        with torch.set_grad_enabled(i in plan.steps):
            if i in plan.steps and checkpointed:
                return checkpoint(guided, x.detach(), t, use_reentrant=False)
            return guided(x.detach(), t)

    case.loss(solver.sample(predict, case.noise)).backward()


@dataclass
class Result:
    """One side: seconds of each turn, peak in bytes, FLOPs, and the gradient."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    flop: int = 0
    gradient: Tensor | None = None


def timed(case: Case, side: Side) -> float:
    case.forget_gradients()
    case.synchronize()
    start = time.perf_counter()
    side()
    case.synchronize()
    return time.perf_counter() - start


def peak(case: Case, side: Side) -> int:
    """Most bytes beside what was there before."""
    case.forget_gradients()
    gc.collect()
    if case.noise.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        side()
        return torch.cuda.max_memory_allocated() - before
    with LiveTensors(*case.tensors()) as live:
        side()
    return live.peak_bytes


def flops(side: Side) -> int:
    with FlopCounterMode(display=False) as counter:
        side()
    return counter.get_total_flops()


def sides_of(case: Case, steps: tuple[int, int], counts: tuple[int, int, int]) -> dict[str, Side]:
    ddim, unipc = case.solver("ddim", steps[0]), case.solver("unipc", steps[1])
    few, some, many = counts
    slow, fast = f"DDIM-{steps[0]}", f"UniPC-{steps[1]}"
    return {
        f"ours, {slow}, {some} gradient steps": lambda: ours(case, ddim, some),
        "ours, split": lambda: ours(case, ddim, some, split=True),
        "ours, all pictures scored together": lambda: ours(case, ddim, some, at_once=len(case.noise)),
        f"ours, {few} gradient step{'s' if few > 1 else ''}": lambda: ours(case, ddim, few),
        f"ours, {many} gradient steps": lambda: ours(case, ddim, many),
        f"ours, {fast}, {some} gradient steps": lambda: ours(case, unipc, some),
        "autograd, plain": lambda: by_autograd(case, ddim, some, False),
        "autograd, checkpointed": lambda: by_autograd(case, ddim, some, True),
    }


def measure(case: Case, sides: dict[str, Side], repeats: int) -> dict[str, Result]:
    results = {name: Result() for name in sides}
    for name, side in sides.items():
        results[name].peak_bytes = peak(case, side)
        results[name].gradient = case.gradient()
        case.forget_gradients()
        results[name].flop = flops(side)
    names = list(sides)
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:  # a side's neighbours change from turn to turn
            results[name].seconds.append(timed(case, sides[name]))
    return results


def rows_of(results: dict[str, Result], pictures: int) -> list[dict[str, Any]]:
    """Each side, and it over the first one (ours); `difference` is of gradients over the same steps."""
    first, *_ = results.values()
    rows = []
    for name, result in results.items():
        row: dict[str, Any] = {"side": name, "tflop_per_picture": result.flop / pictures / 1e12}
        if result.seconds:
            row |= {"peak_bytes": result.peak_bytes, "seconds": [round(s, 4) for s in result.seconds]}
            row["peak_of_ours"] = result.peak_bytes / first.peak_bytes
            row["time_of_ours"] = [a / b for a, b in zip(result.seconds, first.seconds, strict=True)]
            if not any(char.isdigit() for char in name):  # so named, it takes the first side's steps
                assert result.gradient is not None and first.gradient is not None
                apart = (result.gradient - first.gradient).norm() / first.gradient.norm()
                row["difference"] = float(apart)
        row["flop_of_ours"] = result.flop / first.flop
        rows.append(row)
    return rows


def line(row: dict[str, Any], peak_flops: float | None, pictures: int) -> str:
    text = f"{row['side']:36} {row['tflop_per_picture']:9.4f} TFLOP/picture ({row['flop_of_ours']:.2f}×)"
    if "seconds" in row:
        ratios = row["time_of_ours"]
        text += (
            f"  {row['peak_bytes'] / 2**20:9.2f} MiB ({row['peak_of_ours']:.2f}×)  {median(row['seconds']):8.3f} s "
            f"({median(ratios):.2f}×, {min(ratios):.2f}–{max(ratios):.2f})"
        )
        if peak_flops:
            used = row["tflop_per_picture"] * 1e12 * pictures / median(row["seconds"]) / peak_flops
            text += f"  {used:.0%} of peak FLOPs"
    if "difference" in row:
        text += f"  gradient differs by {row['difference']:.1e}"
    return text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=tuple(SIZES), default="stickers")
    add("--device", default="cpu", help="cpu or cuda")
    add("--batch", type=int, default=4, help="pictures (default: 4)")
    add("--steps", type=int, nargs=2, default=(50, 25), help="of DDIM and of UniPC (default: 50 25)")
    add("--gradient-steps", type=int, nargs=3, default=(1, 5, 10), help="few, some, many (default: 1 5 10)")
    add("--repeats", type=int, default=3, help="turns of every side (default: 3)")
    add("--flops", action="store_true", help="count FLOPs on the meta device; no memory, no times")
    add("--peak-tflops", type=float, help="of the device, to print model FLOPs over the peak")
    add("--json", action="store_true", help="print JSON (progress goes to stderr)")
    return parser.parse_args()


def main() -> None:
    given = parse()
    case = SIZES[given.size](given.batch, "meta" if given.flops else given.device)
    sides = sides_of(case, tuple(given.steps), tuple(given.gradient_steps))
    if given.flops:
        results = {name: Result(flop=flops(side)) for name, side in sides.items()}
    else:
        results = measure(case, sides, given.repeats)
    machine = {"device": str(case.noise.device), "torch": torch.__version__, "cpu": platform.machine()}
    if case.noise.is_cuda:
        machine["gpu"] = torch.cuda.get_device_name()
    rows = rows_of(results, given.batch)
    out = sys.stderr if given.json else sys.stdout
    print(f"{given.size}, {given.batch} pictures, {machine}", file=out)
    for row in rows:
        print(line(row, given.peak_tflops and given.peak_tflops * 1e12, given.batch), file=out)
    if given.json:
        print(json.dumps({"machine": machine, "size": given.size, "batch": given.batch, "rows": rows}))


if __name__ == "__main__":
    main()
