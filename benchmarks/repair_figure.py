"""The figure of docs/repair.md: before, where attention looked, what was drawn again, after; and the curves.

    python benchmarks/repair_figure.py --results docs/results/repair.json --out docs/repair.png

It draws the first three scenes (split `test`) of the sticker SD1.5 in which a repair was accepted: half a minute.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from longalign.diffusion.attention_maps import heatmap
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import scene
from repair import SEED, Side

COLUMNS = ("before", "attention to the sentence", "drawn again", "after")
NAMES = {"stickers": "SD1.5 stickers", "stickers-sdxl": "SDXL stickers", "stickers-sd3": "SD3 stickers"}


def examples(count: int, steps: int) -> list[tuple[str, list[Any]]]:
    """Of each the doubtful sentence and four pictures."""
    side = Side("stickers", steps)
    found: list[tuple[str, list[Any]]] = []
    index = 0
    while len(found) < count:
        shown = scene(index, objects=(7, 9), split="test", seed=SEED)
        said = caption(shown, np.random.default_rng([index, SEED]))
        index += 1
        done = side.run(text_of(said), rounds=1)
        after = done.after
        if not after.doubtful or said[after.doubtful[0]].fact.background is not None:
            continue
        first = after.doubtful[0]
        assert done.maps is not None
        before = done.before.image
        pictures = [before, heatmap(before, done.maps[first]), after.mask(), after.image]
        found.append((done.sentences[first].text, pictures))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("docs/results/repair.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/repair.png"))
    given = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = json.loads(given.results.read_text("utf-8"))
    rows = examples(3, int(results["settings"]["steps"]))
    figure = pyplot.figure(figsize=(11, 10.5), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.1, 1])
    above, below = parts
    axes = above.subplots(len(rows), len(COLUMNS) + 1, width_ratios=[1.1, 1, 1, 1, 1])
    for k, (text, pictures) in enumerate(rows):
        axes[k, 0].axis("off")
        axes[k, 0].text(1, 0.5, "\n".join(_wrapped(text)), ha="right", va="center", fontsize=11)
        for axis, picture, title in zip(axes[k, 1:], pictures, COLUMNS, strict=True):
            axis.imshow(np.asarray(picture.convert("RGB")), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if k == 0:
                axis.set_title(title, fontsize=11)
    curves = below.subplots(1, len(results["models"]), sharey=True, squeeze=False)[0]
    for axis, (model, found) in zip(curves, results["models"].items(), strict=True):
        for way, colour, name in (
            ("best-of-N by the mean", "#8a6d3b", "best of N"),
            ("region+weights", "#1f6f6b", "repair"),
        ):
            of_way = found["ways"][way]
            calls = [row["calls"] for row in of_way]
            value, low, high = np.array([row["true"] for row in of_way]).T
            axis.plot(calls, value, marker="o", color=colour, label=name)
            axis.fill_between(calls, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_title(f"{NAMES.get(model, model)}, {found['scenes']} scenes", fontsize=11)
        axis.set_xlabel("denoiser calls a picture (mean)")
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right", fontsize=9)
    curves[0].set_ylabel("true sentences, %")
    figure.savefig(given.out, dpi=110)


def _wrapped(text: str, width: int = 22) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


if __name__ == "__main__":
    main()
