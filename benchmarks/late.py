"""Pairs a second of scoring with late interaction against pooled scores alone, by one model on the same pairs.

    python benchmarks/late.py            # the embedded Denscore, 256 scenes; half a minute on two cores

Both sides take turns in one process after one turn that warms up; figures are medians with the least and the most. Late
interaction may take at most 1.5 times as long.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import torch

from longalign.preference import PreferenceModel
from longalign.scoring.stream import score_pairs
from longalign.stickers.scene_pairs import scored_pairs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    pairs = list(scored_pairs(given.pairs, objects=(7, 9)))
    sides = {
        "late": PreferenceModel.from_pretrained("stickers", device="cpu"),
        "pooled": PreferenceModel.from_pretrained("stickers", device="cpu", late="none"),
    }
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(given.repeats + 1):
        for side, model in sides.items():
            began = time.perf_counter()
            count = sum(1 for _ in score_pairs(model, iter(pairs)))
            if turn:
                rates[side].append(count / (time.perf_counter() - began))
    ratios = [p / late for late, p in zip(rates["late"], rates["pooled"], strict=True)]
    if given.json:
        print(json.dumps({"pairs_per_s": rates, "times_as_long": ratios, "threads": torch.get_num_threads()}))
        return
    for side, of_side in rates.items():
        print(f"{side:7} {median(of_side):7.1f} pairs/s ({min(of_side):.1f} to {max(of_side):.1f})")
    print(
        f"late takes {median(ratios):.2f} times as long ({min(ratios):.2f} to {max(ratios):.2f}; at most 1.5)"
    )


if __name__ == "__main__":
    main()
