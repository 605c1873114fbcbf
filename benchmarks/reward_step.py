"""Memory and time of one step of reward fine-tuning: the closed-form gradient against autograd.

    python benchmarks/reward_step.py                            # the embedded sticker model; minutes on two cores
    python benchmarks/reward_step.py --size tiny --repeats 1    # a UNet of some thousand parameters: does it run?
    python benchmarks/reward_step.py --size sd15 --device cuda  # SD1.5, VAE, CLIP-H; random weights, bf16; wants a GPU
    python benchmarks/reward_step.py --size sd15 --flops        # counts its FLOPs on the meta device; some minutes

One step is: sample pictures with guidance, score them, gradient to a LoRA through 5 predictions with detached inputs
(DRTune). The sides:

- ours: `longalign.objectives.reward.gradient`, pictures decoded and scored one by one; also with the guidance branches
  one after the other (split), with all pictures scored together, with more and fewer gradient steps, and with UniPC-25
  in place of DDIM-50.
- plain: all 5 predictions in one graph through the chain, as autograd makes it.
- checkpointed: the same with `torch.utils.checkpoint` around each of them.

All sides run in one process, after a short run of each, and take turns; times are medians, ratios are medians of the
turns' ratios with the least and the most. Memory is the peak of live tensors beside weights, inputs and the LoRA's
gradients (see live_tensors.py; on a GPU what its allocator counts). With the same steps all sides give the same
gradient, and its difference from the first side's is printed. At the end stand the ratios that are claimed, with the
most that each may be; exit code 1 if one is more, unless the size is tiny, which measures nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from live_tensors import LiveTensors
from reward_step_models import SIZES, Case
from reward_step_sides import Names, Side, sides_of


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


@dataclass(frozen=True)
class Claim:
    """A ratio, and the most that it may be."""

    text: str
    ratio: float
    most: float

    @property
    def holds(self) -> bool:
        return self.ratio <= self.most

    def __str__(self) -> str:
        return f"{self.text:56} {self.ratio:.3f}, at most {self.most}: {'yes' if self.holds else 'NO'}"


def claims(results: dict[str, Result], names: Names) -> list[Claim]:
    """Those of one method over the other, as far as there are figures."""

    def flop(one: str, other: str) -> float:
        return results[one].flop / results[other].flop

    def peak_of(one: str, other: str) -> float:
        return results[one].peak_bytes / results[other].peak_bytes

    def time_of(one: str, other: str) -> float:
        return median(a / b for a, b in zip(results[one].seconds, results[other].seconds, strict=True))

    found = [Claim("FLOPs: UniPC over DDIM", flop(names.fast, names.ours), 0.7)]
    if not results[names.ours].seconds:
        return found
    return [
        Claim("peak: many gradient steps over few", peak_of(names.many, names.few), 1.01),
        Claim("peak: ours over checkpointed autograd", peak_of(names.ours, names.checkpointed), 1.02),
        Claim("peak: ours, split, over checkpointed autograd", peak_of(names.split, names.checkpointed), 0.7),
        Claim("peak: ours over plain autograd", peak_of(names.ours, names.plain), 0.3),
        Claim(
            "time: ours over checkpointed autograd, equal steps",
            time_of(names.ours, names.checkpointed),
            1.05,
        ),
        Claim("time: UniPC over DDIM", time_of(names.fast, names.ours), 0.7),
        *found,
    ]


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
    steps, counts = tuple(given.steps), tuple(given.gradient_steps)
    case = SIZES[given.size](given.batch, "meta" if given.flops else given.device)
    names, sides = Names.of(steps, counts), sides_of(case, steps, counts)
    if given.flops:  # the other sides have those of the first one, or lie on a line with it
        counted = (names.ours, names.fast, names.plain, names.checkpointed)
        results = {name: Result(flop=flops(sides[name])) for name in counted}
    else:
        results = measure(case, sides, given.repeats)
    machine = {"device": str(case.noise.device), "torch": torch.__version__, "cpu": platform.machine()}
    if case.noise.is_cuda:
        machine["gpu"] = torch.cuda.get_device_name()
    rows, claimed = rows_of(results, given.batch), claims(results, names)
    out = sys.stderr if given.json else sys.stdout
    print(f"{given.size}, {given.batch} pictures, {machine}", file=out)
    for row in rows:
        print(line(row, given.peak_tflops and given.peak_tflops * 1e12, given.batch), file=out)
    for claim in claimed:
        print(claim, file=out)
    if given.json:
        said = [{**asdict(claim), "holds": claim.holds} for claim in claimed]
        print(
            json.dumps(
                {"machine": machine, "size": given.size, "batch": given.batch, "rows": rows, "claims": said}
            )
        )
    if given.size != "tiny" and not all(claim.holds for claim in claimed):
        sys.exit("a ratio is more than was claimed")


if __name__ == "__main__":
    main()
