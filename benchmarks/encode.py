"""Prompts per second of `longalign.encode`, against compel and against the plain published way.

    python benchmarks/encode.py            # everything; about half an hour on two cores
    python benchmarks/encode.py --quick    # two-layer encoders, few prompts: does it run, are the results
    equal?

Text encoders have the sizes of SD1.5's (CLIP-L) and SDXL's (CLIP-L and OpenCLIP bigG), random weights and the
true CLIP vocabulary. Prompts have about 200 tokens in sentences of a seeded grammar; no sentence occurs
twice. The sides:

- ours: ``longalign.encode(parts, prompts)``. It also encodes the negative prompt (here the empty one) and
  cuts the prompts into sentences, and both are timed.
- compel: ``CompelForSD`` / ``CompelForSDXL``, its present API for long prompts, without a negative prompt.
- plain: one call a sentence, padded to 77, as in LongAlign's published code. Its result must be ours.

All sides run in the same process and take turns; figures are medians over the repeats, with the least and the
most. Each side has made one short call before. The second table has no peer: it shows what sentences that
come back cost.

Needs compel, and open-clip-torch for the vocabulary (`pip install --no-deps open-clip-torch`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers

import longalign
from encode_sides import TOKENS, Grammar, compel_of, make_parts, plain
from longalign.encoding import EncodingCache, TextParts

LENGTH = TOKENS + 100  # of the padded rows, so that all prompts make one batch


def time_sides(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call; the sides take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):  # compel prints
                side()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def warm_up(parts: TextParts, compel: Callable[[list[str]], Any]) -> None:
    """One call of each side. Prompts of different lengths make compel encode its padding, which it keeps."""
    prompts = ["A warm start. It is short.", "cat " * 100]
    longalign.encode(parts, prompts)
    plain(parts, prompts, LENGTH)
    with contextlib.redirect_stdout(io.StringIO()):
        compel(prompts)


class TokenCount:
    """Tokens that go through a model's layers, padding and all: the part of the work that no load changes."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.tokens = 0
        model.register_forward_pre_hook(self._add, with_kwargs=True)

    def _add(self, _: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.tokens += (args[0] if args else kwargs["input_ids"]).numel()

    def of(self, side: Callable[[], Any]) -> int:
        before = self.tokens
        with contextlib.redirect_stdout(io.StringIO()):
            side()
        return self.tokens - before


def compare(
    parts: TextParts,
    count: TokenCount,
    n_prompts: int,
    repeats: int,
    compel: Callable[[list[str]], Any] | None,
) -> list[dict[str, Any]]:
    """One row a side for ``n_prompts`` prompts without a sentence twice; ours alone without compel."""
    grammar = Grammar(seed=n_prompts)
    tokenizer = parts.tokenizers[0]
    split = [grammar.sentences(TOKENS, tokenizer) for _ in range(n_prompts)]
    prompts = [" ".join(sentences) for sentences in split]
    result: dict[str, Any] = {}

    def ours() -> None:
        result["ours"] = longalign.encode(parts, prompts, length=LENGTH)

    def theirs() -> None:
        result["plain"] = plain(parts, prompts, LENGTH)

    sides: dict[str, Callable[[], Any]] = {"ours": ours}
    if compel is not None:
        sides |= {"compel": lambda: compel(prompts), "plain": theirs}
    seconds = time_sides(sides, repeats)
    rows = []
    for name, times in seconds.items():
        rows.append(
            {
                "family": parts.family,
                "prompts": n_prompts,
                "sentences": sum(map(len, split)),
                "tokens_per_prompt": sum(len(tokenizer.tokenize(p)) for p in prompts) / n_prompts,
                "side": name,
                "encoder_tokens_per_prompt": count.of(sides[name]) / n_prompts if n_prompts < 64 else None,
                "seconds": [round(t, 4) for t in times],
                "prompts_per_s": n_prompts / median(times),
                "ours_is_faster": median(times) / median(seconds["ours"]),
            }
        )
    if compel is not None:
        embeds, pooled = result["plain"]
        rows[-1]["difference"] = difference(result["ours"].embeds, embeds)
        if pooled is not None:
            rows[-1]["pooled_difference"] = difference(result["ours"].pooled, pooled)
    return rows


def repetition(parts: TextParts, n_prompts: int, repeats: int) -> list[dict[str, Any]]:
    """What sentences that come back cost, within a call and between calls."""
    grammar = Grammar(seed=1)
    tokenizer = parts.tokenizers[0]
    fresh = [grammar.sentences(TOKENS, tokenizer) for _ in range(n_prompts)]
    half = len(fresh[0]) // 2
    shared = [fresh[0][:half] + sentences[half:] for sentences in fresh]
    cache = EncodingCache()

    def encode(prompts: list[list[str]], cache: EncodingCache | None = None) -> None:
        joined = [" ".join(sentences) for sentences in prompts]
        longalign.encode(parts, joined, length=LENGTH, cache=cache)

    encode(fresh, cache)
    seconds = time_sides(
        {
            "no sentence twice": lambda: encode(fresh),
            "half of each prompt the same in all": lambda: encode(shared),
            "cache: all of it seen before": lambda: encode(fresh, cache),
            "cache: one new sentence in each prompt": lambda: encode(
                [[grammar.sentence(), *sentences[1:]] for sentences in fresh], cache
            ),
        },
        repeats,
    )
    first = median(next(iter(seconds.values())))
    return [
        {
            "family": parts.family,
            "prompts": n_prompts,
            "case": case,
            "seconds": [round(t, 4) for t in times],
            "prompts_per_s": n_prompts / median(times),
            "faster_than_first": first / median(times),
        }
        for case, times in seconds.items()
    ]


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def speed(row: dict[str, Any]) -> str:
    times = row["seconds"]
    return f"{row['prompts_per_s']:8.3f} /s {median(times):7.2f} s ({min(times):.2f} to {max(times):.2f})"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="two-layer encoders, few prompts; not a measurement")
    add("--json", action="store_true", help="print JSON and nothing else")
    add("--threads", type=int, help="threads of torch (default: its own choice)")
    add("--repeats", type=int, help="timed turns of every side (default: 3, quick 1)")
    add("--prompts", type=int, nargs="+", help="prompts in a call (default: 1 and 16, SDXL 1 and 4)")
    add("--alone", type=int, help="prompts in a call of ours alone, SD1.5 (default: 256, quick 8; 0: none)")
    add("--families", nargs="+", choices=("sd15", "sdxl"), default=("sd15", "sdxl"))
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    transformers.logging.set_verbosity_error()  # compel's tokenizer warns of long prompts
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    repeats = arguments.repeats or (1 if arguments.quick else 3)
    alone = (8 if arguments.quick else 256) if arguments.alone is None else arguments.alone
    machine = {"cpu": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    say: Callable[..., None] = (lambda *_: None) if arguments.json else print
    say(f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}; {TOKENS} tokens a prompt")

    against: list[dict[str, Any]] = []
    again: list[dict[str, Any]] = []
    for family in arguments.families:
        parts = make_parts(family, arguments.quick)
        compel, count = compel_of(parts), TokenCount(parts.text_encoders[-1])
        warm_up(parts, compel)
        many = 2 if arguments.quick else 16 if family == "sd15" else 4
        for n_prompts in arguments.prompts or (1, many):
            rows = compare(parts, count, n_prompts, repeats, compel)
            against += rows
            for row in rows:
                ratio = f"  {row['encoder_tokens_per_prompt']:5.0f} tokens a prompt through the encoder"
                if row["side"] != "ours":
                    ratio += f"; ours is {row['ours_is_faster']:.2f}x as fast"
                say(f"{family}  {n_prompts:3} prompts  {row['side']:38} {speed(row)}{ratio}")
            worst = max(rows[-1]["difference"], rows[-1].get("pooled_difference", 0.0))
            say(f"{family}  {n_prompts:3} prompts  largest difference from plain {worst:.1e}, relative")
        if alone and family == "sd15":
            [row] = compare(parts, count, alone, 1, None)
            against.append(row)
            say(f"{family}  {alone:3} prompts  {'ours':38} {speed(row)}")
        rows = repetition(parts, many, repeats)
        again += rows
        for row in rows:
            ratio = f"  {row['faster_than_first']:.2f}x the first"
            say(f"{family}  {many:3} prompts  {row['case']:38} {speed(row)}{ratio}")
    if arguments.json:
        print(json.dumps({"machine": machine, "quick": arguments.quick, "against": against, "again": again}))


if __name__ == "__main__":
    main()
