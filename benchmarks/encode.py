"""Prompts per second of `longalign.encode`, against compel and against the plain published way.

    python benchmarks/encode.py            # everything; about a quarter of an hour on two free cores
    python benchmarks/encode.py --quick    # two-layer encoders, few prompts: does it run, are the results equal?

Text encoders have the sizes of SD1.5's (CLIP-L) and SDXL's (CLIP-L and OpenCLIP bigG), random weights and the
true CLIP vocabulary. Prompts have about 200 tokens in sentences of a seeded grammar; no sentence occurs
twice. The sides:

- ours: ``longalign.encode(parts, prompts, strategy="clip-cat")``. It also encodes the negative prompt (here the
  empty one) and cuts the prompts into sentences, and both are timed.
- compel: ``CompelForSD`` / ``CompelForSDXL``, its present API for long prompts, without a negative prompt.
- plain: one call a sentence, padded to 77, as in LongAlign's published code. Its result must be ours.

All sides run in one process and take turns, each turn begun by another side, so that a load that comes and
goes meets all of them. Times are medians over the turns, with the least and the most; a ratio is the median of
the turns' ratios, likewise. Each side has made one short call before. Tokens and calls of the (last) text
encoder are counted too: no load changes them. The second table has no peer: it shows what sentences that come
back cost. Nor has the third: sentences behind earlier ones (``context=before`` and ``context=referent``, where every
second sentence refers back) against sentences by themselves, at 200 and at 500 tokens.

Needs compel, and open-clip-torch for the vocabulary (`pip install --no-deps open-clip-torch`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers

import longalign
from encode_sides import TOKENS, Grammar, compel_of, make_parts, plain
from longalign.encoding import EncodingCache, TextParts

LENGTH = TOKENS + 100  # of the padded rows, so that all prompts make one batch
Side = Callable[[], Any]


class Work:
    """Calls of a model and tokens through its layers, padding and all."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.calls = self.tokens = 0
        model.register_forward_pre_hook(self._add, with_kwargs=True)

    def _add(self, _: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.calls += 1
        self.tokens += (args[0] if args else kwargs["input_ids"]).numel()


@dataclass
class Timing:
    """One side's turns: seconds of each, and the text encoder's work in the last."""

    seconds: list[float] = field(default_factory=list)
    calls: int = 0
    tokens: int = 0


def take_turns(sides: dict[str, Side], turns: int, work: Work) -> dict[str, Timing]:
    """Times every side once a turn. A side's neighbours change from turn to turn."""
    timings = {name: Timing() for name in sides}
    names = list(sides)
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            calls, tokens = work.calls, work.tokens
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):  # compel prints
                sides[name]()
            timing = timings[name]
            timing.seconds.append(time.perf_counter() - start)
            timing.calls, timing.tokens = work.calls - calls, work.tokens - tokens
    return timings


def ratios(of: Timing, to: Timing) -> list[float]:
    """How many times as long, turn by turn."""
    return [a / b for a, b in zip(of.seconds, to.seconds, strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def warm_up(parts: TextParts, compel: Callable[[list[str]], Any]) -> None:
    """One call of each side. Prompts of different lengths make compel encode its padding, which it keeps."""
    prompts = ["A warm start. It is short.", "cat " * 100]
    longalign.encode(parts, prompts, strategy="clip-cat")
    plain(parts, prompts, LENGTH)
    with contextlib.redirect_stdout(io.StringIO()):
        compel(prompts)


def row_of(parts: TextParts, n_prompts: int, name: str, timing: Timing) -> dict[str, Any]:
    return {
        "family": parts.family,
        "prompts": n_prompts,
        "side": name,
        "seconds": [round(s, 4) for s in timing.seconds],
        "prompts_per_s": n_prompts / median(timing.seconds),
        "encoder_calls": timing.calls,
        "encoder_tokens_per_prompt": timing.tokens / n_prompts,
    }


def compare(
    parts: TextParts, work: Work, n_prompts: int, turns: int, compel: Callable[[list[str]], Any] | None
) -> list[dict[str, Any]]:
    """One row a side for ``n_prompts`` prompts without a sentence twice; ours alone without compel."""
    grammar = Grammar(seed=n_prompts)
    tokenizer = parts.tokenizers[0]
    split = [grammar.sentences(TOKENS, tokenizer) for _ in range(n_prompts)]
    prompts = [" ".join(sentences) for sentences in split]
    result: dict[str, Any] = {}

    def ours() -> None:
        result["ours"] = longalign.encode(parts, prompts, strategy="clip-cat", length=LENGTH)

    def published() -> None:
        result["plain"] = plain(parts, prompts, LENGTH)

    sides: dict[str, Side] = {"ours": ours}
    if compel is not None:
        sides |= {"compel": lambda: compel(prompts), "plain": published}
    timings = take_turns(sides, turns, work)
    rows = [row_of(parts, n_prompts, name, timing) for name, timing in timings.items()]
    rows[0]["sentences"] = sum(map(len, split))
    rows[0]["tokens_per_prompt"] = sum(len(tokenizer.tokenize(p)) for p in prompts) / n_prompts
    for row in rows[1:]:
        row["ours_is_faster"] = ratios(timings[row["side"]], timings["ours"])
    if compel is not None:
        embeds, pooled = result["plain"]
        differences = [difference(result["ours"].embeds, embeds)]
        if pooled is not None:
            differences.append(difference(result["ours"].pooled, pooled))
        rows[-1]["difference"] = max(differences)
    return rows


def repetition(parts: TextParts, work: Work, n_prompts: int, turns: int) -> list[dict[str, Any]]:
    """What sentences that come back cost, within a call and between calls."""
    grammar = Grammar(seed=1)
    tokenizer = parts.tokenizers[0]
    fresh = [grammar.sentences(TOKENS, tokenizer) for _ in range(n_prompts)]
    half = len(fresh[0]) // 2
    shared = [fresh[0][:half] + sentences[half:] for sentences in fresh]
    cache = EncodingCache()

    def encode(prompts: list[list[str]], cache: EncodingCache | None = None) -> None:
        joined = [" ".join(sentences) for sentences in prompts]
        longalign.encode(parts, joined, strategy="clip-cat", length=LENGTH, cache=cache)

    def one_new_each() -> None:
        encode([[grammar.sentence(), *sentences[1:]] for sentences in fresh], cache)

    encode(fresh, cache)
    sides: dict[str, Side] = {
        "no sentence twice": lambda: encode(fresh),
        "half of each prompt the same in all": lambda: encode(shared),
        "cache: all of it seen before": lambda: encode(fresh, cache),
        "cache: one new sentence in each prompt": one_new_each,
    }
    timings = take_turns(sides, turns, work)
    rows = [row_of(parts, n_prompts, name, timing) for name, timing in timings.items()]
    for row in rows[1:]:
        row["faster_than_first"] = ratios(timings["no sentence twice"], timings[row["side"]])
    return rows


def contexts(parts: TextParts, work: Work, n_prompts: int, turns: int) -> list[dict[str, Any]]:
    """What it costs to encode sentences behind earlier ones."""
    rows = []
    for tokens in (TOKENS, 500):
        grammar = Grammar(seed=tokens)
        prompts = []
        for _ in range(n_prompts):
            said = grammar.sentences(tokens, parts.tokenizers[0])
            said[1::2] = [f"It has {sentence[0].lower()}{sentence[1:]}" for sentence in said[1::2]]
            prompts.append(" ".join(said))

        def encode(context: str, prompts: list[str] = prompts, length: int = tokens + 200) -> None:
            longalign.encode(parts, prompts, strategy=f"clip-cat:context={context}", length=length)

        sides: dict[str, Side] = {
            f"{tokens} tokens, context={context}": partial(encode, context)
            for context in ("none", "referent", "before")
        }
        timings = take_turns(sides, turns, work)
        own = [row_of(parts, n_prompts, name, timing) for name, timing in timings.items()]
        first = next(iter(timings.values()))
        for row in own[1:]:
            row["faster_than_first"] = ratios(first, timings[row["side"]])
        rows += own
    return rows


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def line(row: dict[str, Any]) -> str:
    """A row of either table for the terminal."""
    text = (
        f"{row['family']}  {row['prompts']:3} prompts  {row['side']:38} {row['prompts_per_s']:8.3f} /s  "
        f"{spread(row['seconds']):24} s  {row['encoder_calls']:4} calls  "
        f"{row['encoder_tokens_per_prompt']:5.0f} tokens a prompt"
    )
    if "ours_is_faster" in row:
        text += f"  ours is {spread(row['ours_is_faster'])} times as fast"
    if "faster_than_first" in row:
        text += f"  {spread(row['faster_than_first'], 1)} times as fast as the first"
    if "difference" in row:
        text += f"; the results differ by {row['difference']:.1e}, relative"
    return text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="two-layer encoders, few prompts; not a measurement")
    add("--json", action="store_true", help="print JSON (progress goes to stderr)")
    add("--threads", type=int, help="threads of torch (default: its own choice)")
    add("--repeats", type=int, help="turns of every side (default: 3, quick 1)")
    add(
        "--prompts",
        type=int,
        nargs="+",
        help="prompts in a call (default: 1 and 16, SDXL 1 and 4; quick 1 and 2)",
    )
    add("--alone", type=int, help="prompts in one call of ours alone, SD1.5 (default: 256, quick 8; 0: none)")
    add("--contexts", action="store_true", help="the third table alone")
    add("--families", nargs="+", choices=("sd15", "sdxl"), default=("sd15", "sdxl"))
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    transformers.logging.set_verbosity_error()  # compel's tokenizer warns of long prompts
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    turns = arguments.repeats or (1 if arguments.quick else 3)
    alone = (8 if arguments.quick else 256) if arguments.alone is None else arguments.alone
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    machine = {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "load_before": load,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

    def say(text: str) -> None:
        print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)

    say(f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}; {TOKENS} tokens a prompt")
    if load is not None and load > 0.5:
        say(
            f"the machine is busy with other work (load {load:.1f}): times are too long, and ratios uncertain"
        )

    against: list[dict[str, Any]] = []
    again: list[dict[str, Any]] = []
    behind: list[dict[str, Any]] = []

    def add(table: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        table += rows
        for row in rows:
            say(line(row))

    for family in arguments.families:
        parts = make_parts(family, arguments.quick)
        work = Work(parts.text_encoders[-1])
        many = 2 if arguments.quick else 16 if family == "sd15" else 4
        add(behind, contexts(parts, work, min(many, 4), turns))
        if arguments.contexts:
            continue
        compel = compel_of(parts)
        warm_up(parts, compel)
        for n_prompts in arguments.prompts or (1, many):
            add(against, compare(parts, work, n_prompts, turns, compel))
        if alone and family == "sd15":
            add(against, compare(parts, work, alone, 1, None))
        add(again, repetition(parts, work, many, turns))
    if arguments.json:
        print(
            json.dumps(
                {
                    "machine": machine,
                    "quick": arguments.quick,
                    "against": against,
                    "again": again,
                    "behind": behind,
                }
            )
        )


if __name__ == "__main__":
    main()
