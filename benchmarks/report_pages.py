"""How long the folder of pages takes, and how heavy it is: many prompts × columns of synthetic pictures.

    python benchmarks/report_pages.py --out /tmp/pages-check
    python benchmarks/report_pages.py --out /tmp/pages-check --prompts 300 --size 512

Prints the time of a first and of a second call (which keeps the thumbnails), the sizes of pages, and the peak memory of
the process. Pictures that a call before has drawn stay.
"""

from __future__ import annotations

import argparse
import math
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from longalign.report import (
    Curve,
    Estimate,
    Line,
    PageCase,
    PagePanel,
    Report,
    SentenceRow,
    Table,
    worst_first,
    write_pages,
)

COLUMNS = ("plain", "segments", "SFT", "SFT+RFT", "soft tokens", "sticker SDXL", "sticker SD3")
ANIMALS = ("fox", "frog", "whale", "red panda", "hedgehog", "goldfish", "peacock", "tortoise", "lynx")
PLACES = ("top left", "top right", "middle", "bottom left", "bottom right", "left of the old lighthouse")
METRICS = (
    *("oracle", "denscore", "denscore-o", "clipscore", "pickscore", "hpsv2", "imagereward", "aesthetic"),
    *("vqascore", "tit", "dpg", "geneval", "diversity", "looks", "counting", "lpips"),
)
LENGTHS = (15, 60, 120, 240, 500)


def pictures(folder: Path, prompts: int, columns: int, size_px: int) -> None:
    """Smooth random pictures as PNG; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(1, prompts + 1):
        for column in range(columns):
            file = folder / f"{number:05d}-{column}.png"
            if not file.exists():
                noise = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                image = Image.fromarray(noise).resize((size_px, size_px), Image.Resampling.BICUBIC)
                image.filter(ImageFilter.GaussianBlur(1)).save(file, compress_level=1)


def cases(folder: Path, prompts: int, columns: tuple[str, ...]) -> Iterator[PageCase]:
    """A stream of cases. Prompt 3 has a missing picture, prompt 4 a broken one, prompt 5 a blank one."""
    rng = np.random.default_rng(1)
    for number in range(1, prompts + 1):
        texts = [
            f"A {rng.choice(ANIMALS)} in worn leather boots stands in the {rng.choice(PLACES)}, number {k}."
            for k in range(1, 13)
        ]
        panels = [
            PagePanel(name, folder / f"{number:05d}-{k}.png", f"seed {number}")
            for k, name in enumerate(columns)
        ]
        if number == 3:
            panels[1] = PagePanel(columns[1], folder / "missing.png")
        if number == 4:
            (folder / "broken.png").write_bytes(panels[0].file.read_bytes()[:200])
            panels[2] = PagePanel(columns[2], folder / "broken.png")
        if number == 5:
            panels[0] = PagePanel(columns[0], panels[0].file, flagged="blank")
        quality = {name: min(0.55 + 0.06 * k, 0.95) for k, name in enumerate(columns)}
        rows = [
            SentenceRow(
                text,
                k >= 6,
                {
                    name: "true"
                    if rng.random() < quality[name]
                    else "unclear"
                    if rng.random() < 0.2
                    else "false"
                    for name in columns
                },
            )
            for k, text in enumerate(texts)
        ]
        numbers: dict[str, dict[str, str | float]] = {
            name: {
                "oracle": f"{sum(r.marks[name] == 'true' for r in rows) / len(rows):.1%}",
                **{metric: float(rng.normal(20, 4)) for metric in METRICS[1:]},
            }
            for name in columns
        }
        yield PageCase(number, f"scene-{number:05d}", " ".join(texts), panels, rows, numbers)


def report(prompts: int, columns: tuple[str, ...]) -> Report:
    """A wide table and a curve with intervals, as a comparison of runs has them."""
    rng = np.random.default_rng(2)

    def estimate(k: int, column: int) -> Estimate:
        value = 0.5 + 0.05 * k + rng.normal(0, 0.02) if column < 8 else 20 + k + rng.normal(0, 1)
        return Estimate(value, value * 0.98, value * 1.02, prompts, ".1%" if column < 8 else ".2f")

    titles = [f"{metric} {'↓' if metric == 'lpips' else '↑'}" for metric in METRICS]
    table = Table(
        "Runs by metrics",
        ["", "pictures", *titles],
        [
            [name, f"{prompts:,}", *(estimate(k, c) for c in range(len(METRICS)))]
            for k, name in enumerate(columns)
        ],
        note="Arrows: ↑ higher is better, ↓ lower is better. Bold: the best of each metric.",
        better=["", "", *("lower" if metric == "lpips" else "higher" for metric in METRICS)],
        turned=True,
    )
    lines = [
        Line(
            name,
            LENGTHS,
            y := [90 - 10 * math.log(n / 15) * (1 - k / 7) for n in LENGTHS],
            low=[v - 3 for v in y],
            high=[v + 3 for v in y],
        )
        for k, name in enumerate(columns)
    ]
    return Report(
        "Seven runs on crowded scenes",
        intro=f"{prompts:,} synthetic prompts. Nothing here was measured.",
        facts={"command": "python benchmarks/report_pages.py", "seed": "1"},
        tables=[table],
        curves=[Curve("Sentences true (%) over the length of the prompt", "tokens", lines)],
    )


def main() -> None:
    """Draws the pictures, writes the pages twice, and prints what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--size", type=int, default=256, help="side of a picture in pixels")
    given = parser.parse_args()
    columns = COLUMNS[: given.columns]
    pictures(given.out / "images", given.prompts, given.columns, given.size)
    rng = np.random.default_rng(3)
    values = {
        name: {n: float(rng.integers(0, 13)) / 12 for n in range(1, given.prompts + 1)} for name in columns
    }
    lists = [
        worst_first(
            "sft-plain",
            "Where SFT falls behind plain",
            values,
            of="SFT",
            against="plain",
            note="True sentences.",
        ),
        worst_first("sft", "The worst pictures of SFT", values, of="SFT"),
    ]
    shutil.rmtree(given.out / "thumbnails", ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("first call", "second call"):
        start, start_cpu = time.perf_counter(), time.process_time()
        first = write_pages(
            report(given.prompts, columns),
            cases(given.out / "images", given.prompts, columns),
            given.out,
            lists=lists,
        )
        took, took_cpu = time.perf_counter() - start, time.process_time() - start_cpu
        print(f"{name}: {took:.1f} s, {took_cpu:.1f} s of processors", flush=True)
    pages = sorted((given.out / "pages").glob("*.html"), key=lambda file: file.stat().st_size)
    thumbnails = [file.stat().st_size for file in (given.out / "thumbnails").rglob("*.jpg")]
    print(f"report.html: {first.stat().st_size / 1e6:.2f} MB")
    print(
        f"{len(pages)} other pages; the largest is {pages[-1].name}: {pages[-1].stat().st_size / 1e6:.2f} MB"
    )
    print(f"{len(thumbnails):,} thumbnails, {sum(thumbnails) / 1e6:.1f} MB")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"peak memory: {peak / 1024:.0f} MiB, {(peak - before) / 1024:.0f} MiB more than before the first call"
    )


if __name__ == "__main__":
    main()
