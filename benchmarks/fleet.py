"""What 2 million and a billion pictures cost on 1, 8 and 64 GPUs: hours, disk, network. From rates that were measured.

    python benchmarks/fleet.py                      # the tables of docs/scale.md; a second, no GPU

Measured on one GPU (docs/results/gpu.json): scoring, encoding of captions, supervised steps, and the share of the
peak that these steps reach. Where a step was not measured, its counted FLOPs are divided by that share of the peak: the
VAE's encoder, sampling (docs/results/costs.json), and captioning by a LLaVA-Next of 7 billion parameters (2 FLOP a
parameter and token; 2,900 tokens read, 200 written). Work on a fleet is taken as proportional to GPUs; docs/scale.md
says where that ends.
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PEAK_TFLOPS = 989.0  # of an H200 in bfloat16
PICTURES = {"2 M": 2e6, "1 B": 1e9}
GPUS = (1, 8, 64)
LLAVA_TFLOP = 2 * 7.06e9 * (2900 + 200) / 1e12
VAE_TFLOP = {"sd15": 1.12, "sdxl": 4.88}  # encoder, a picture
SAMPLING_TFLOP = {"sd15": 45.3, "sdxl": 369.2}  # 25 steps with guidance
PICTURE_BYTES = 150e3  # a JPEG of 512 px or so
TEXT_BYTES = {"sd15": 181 * 1536, "sdxl": 181 * 4096 + 2560}  # 181 states, as in the section on caches
LATENT_BYTES = {"sd15": 32_768, "sdxl": 131_072}
ROW_BYTES = 153  # of a cache's index
SCORE_BYTES = 279  # a row of parquet, measured on sticker captions (benchmarks/many_rows.py)


def rates() -> dict[str, tuple[float, str]]:
    """Task → pictures a second on one GPU, and how the number came about."""
    rows = json.loads((RESULTS / "gpu.json").read_text())["rows"]

    def best(what: str, model: str) -> dict[str, float]:
        found = [
            r for r in rows if r.get("what") == what and r.get("model") == model and not r.get("compiled")
        ]
        return max(found, key=lambda r: r["per_s"])

    encode, score = best("encode", "CLIP-L text")["per_s"], best("score", "CLIP-H")["per_s"]
    found = {
        "captioning, LLaVA-Next 7B": (
            best("supervised", "sd15")["mfu"] * PEAK_TFLOPS / LLAVA_TFLOP,
            "counted FLOPs",
        )
    }
    for model, name in (("sd15", "SD1.5"), ("sdxl", "SDXL")):
        step = best("supervised", model)
        seconds = VAE_TFLOP[model] / (step["mfu"] * PEAK_TFLOPS) + 1 / encode
        found[f"caching, {name}"] = (1 / seconds, "text measured, VAE counted")
        found[f"supervised, {name}"] = (step["per_s"], "measured")
        found[f"drawing, {name}, 25 steps"] = (
            step["mfu"] * PEAK_TFLOPS / SAMPLING_TFLOP[model],
            "counted FLOPs",
        )
    found["scoring or evaluating, CLIP-H"] = (score, "measured")
    return found


def hours(pictures: float, rate: float, gpus: int) -> str:
    """With two figures."""
    value = pictures / rate / gpus / 3600
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def main() -> None:
    print(
        "| hours | pictures/s on one GPU | "
        + " | ".join(f"{n}, {g} GPU" for n in PICTURES for g in GPUS)
        + " |"
    )
    print("|---" * (2 + len(PICTURES) * len(GPUS)) + "|")
    for task, (rate, how) in rates().items():
        cells = [hours(pictures, rate, gpus) for pictures in PICTURES.values() for gpus in GPUS]
        print(f"| {task} | {rate:,.1f} ({how}) | " + " | ".join(cells) + " |")
    print()
    print("| TB of disk | 2 M | 1 B |")
    print("|---|---|---|")
    for name, size in {
        "pictures": PICTURE_BYTES,
        "cache, SD1.5": LATENT_BYTES["sd15"] + TEXT_BYTES["sd15"] + ROW_BYTES,
        "cache, SDXL": LATENT_BYTES["sdxl"] + TEXT_BYTES["sdxl"] + ROW_BYTES,
        "its index": ROW_BYTES,
        "scores": SCORE_BYTES,
    }.items():
        print(f"| {name} | {2e6 * size / 1e12:.2g} | {1e9 * size / 1e12:.3g} |")
    print()
    rate = rates()["caching, SD1.5"][0]
    write = rate * (LATENT_BYTES["sd15"] + TEXT_BYTES["sd15"])
    print(
        f"caching, SD1.5: a GPU reads {rate * PICTURE_BYTES / 1e6:.0f} MB/s and writes {write / 1e6:.0f} MB/s; "
        f"64 of them {64 * rate * PICTURE_BYTES / 1e9:.1f} and {64 * write / 1e9:.1f} GB/s"
    )


if __name__ == "__main__":
    main()
