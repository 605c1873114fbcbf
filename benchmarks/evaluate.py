"""The whole evaluation against its metrics one after another, each of which loads pictures and models itself.

    python benchmarks/evaluate.py --prompts 200 --models 3

The pictures are clean and spoilt sticker scenes in folders. *Ours*: `EvaluationJob` with all metrics. *One by one*: for
each metric a loop over the folders in the published way: it loads its model, and for each picture it opens the file,
prepares it and encodes it and its prompt, one picture at a time. Both sides take turns in one process; the numbers of
both are compared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from longalign.data.prompt_rows import read_prompt_rows
from longalign.evaluation.evaluate import EvaluationJob
from longalign.evaluation.settings import EvaluateConfig
from longalign.metrics.distances import cmmd, diversity, fid
from longalign.preference import PreferenceModel
from longalign.preference.images import load_image
from longalign.stickers.looks import worsen
from longalign.worlds import world

METRICS = ("clipscore", "pickscore", "denscore", "denscore_o", "fid", "cmmd", "diversity", "oracle", "looks")


def folders(root: Path, count: int, models: int) -> tuple[list[Path], list[str]]:
    """Folders of ``count`` pictures each; the k-th folder has more noise than the one before."""
    rows = read_prompt_rows(f"stickers:{count}:objects=7-9")
    images = world("stickers").reference([r.prompt for r in rows])
    made = []
    for k in range(models):
        folder = root / f"model-{k}"
        folder.mkdir()
        lines = []
        for i, row in enumerate(rows):
            pixels = np.asarray(images[row.prompt])
            spoilt = worsen(pixels, "noise", 0.1 * k, np.random.default_rng(i)) if k else pixels
            Image.fromarray(spoilt).save(folder / f"{row.id}.png")
            lines.append(f'{{"file_name": "{row.id}.png", "text": {_json(row.prompt)}}}\n')
        (folder / "metadata.jsonl").write_text("".join(lines))
        made.append(folder)
    return made, [r.prompt for r in rows]


def _json(text: str) -> str:
    import json

    return json.dumps(text)


def ours(made: list[Path]) -> dict[tuple[int, str], float]:
    """Every number by one evaluation in memory."""
    config = EvaluateConfig(",".join(METRICS), samples=2, device="cpu")
    found = EvaluationJob([str(f) for f in made], config).run()
    return {(k, key): value for k, run in enumerate(found.runs) for key, value in run.values.items()}


def one_by_one(made: list[Path], prompts: list[str]) -> dict[tuple[int, str], float]:
    """Every number by a loop of its own."""
    found: dict[tuple[int, str], float] = {}
    for name, model in (("clipscore", "stickers/clip"), ("pickscore", "stickers/pickscore")):
        scorer = PreferenceModel.from_pretrained(model, device="cpu")
        scale = 1.0 if name == "clipscore" else float(scorer.clip.logit_scale.exp()) / 100
        for k, folder in enumerate(made):
            values = [single(scorer, load_image(f), p) for f, p in files(folder, prompts)]
            floor = [max(v, 0) if name == "clipscore" else v for v in values]
            found[k, name] = float(np.mean(floor)) * scale
    for name in ("denscore", "aligned", "aligned_cosine"):
        scorer = PreferenceModel.from_pretrained("stickers", device="cpu", late="none")
        for k, folder in enumerate(made):
            values = []
            for file, prompt in files(folder, prompts):
                scores = scorer.score([load_image(file)], [prompt])
                values.append(float({"denscore": scores.overall}.get(name, getattr(scores, name, None))[0]))
            found[k, name] = float(np.mean(values))
    references = world("stickers").reference(prompts)
    for name, formula in (("fid", fid), ("cmmd", cmmd)):
        extractor = PreferenceModel.from_pretrained("stickers/clip", device="cpu")
        goal = torch.cat([embed(extractor, references[p]) for p in prompts])
        for k, folder in enumerate(made):
            x = torch.cat([embed(extractor, load_image(f)) for f, _ in files(folder, prompts)])
            found[k, name] = formula(x, goal)
    extractor = PreferenceModel.from_pretrained("stickers/clip", device="cpu")
    for k, folder in enumerate(made):
        x = torch.cat([embed(extractor, load_image(f)) for f, _ in files(folder, prompts)])
        found[k, "diversity"] = diversity(x)
    for k, folder in enumerate(made):
        marks = [
            mark
            for file, prompt in files(folder, prompts)
            for mark in world("stickers").judge(load_image(file), [f"{s}." for s in prompt[:-1].split(". ")])
        ]
        found[k, "true"] = marks.count("true") / sum(m != "unjudged" for m in marks)
    for k, folder in enumerate(made):
        found[k, "looks"] = float(
            np.mean([world("stickers").looks(load_image(f)) for f, _ in files(folder, prompts)])
        )
    return found


def files(folder: Path, prompts: list[str]) -> list[tuple[Path, str]]:
    """Pictures with their prompts."""
    return list(zip(sorted(folder.glob("*.png")), prompts, strict=True))


@torch.no_grad()
def embed(model: PreferenceModel, image: Image.Image) -> torch.Tensor:
    """(1, D) of one picture."""
    return model.image_prepared(model.preprocess.picture(image))


@torch.no_grad()
def single(model: PreferenceModel, image: Image.Image, prompt: str) -> float:
    """100 · cos of a picture and the first tokens of its prompt."""
    return 100 * float((embed(model, image) * model.text([prompt], truncate=True)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        made, prompts = folders(Path(root), args.prompts, args.models)
        ratios, seconds = [], []
        numbers: list[dict[tuple[int, str], float]] = [{}, {}]
        for _ in range(args.turns):
            took = []
            sides: list[Callable[[], dict[tuple[int, str], float]]] = [
                lambda: ours(made),
                lambda: one_by_one(made, prompts),
            ]
            for side, work in enumerate(sides):
                start = time.perf_counter()
                numbers[side] = work()
                took.append(time.perf_counter() - start)
            ratios.append(took[1] / took[0])
            seconds.append(took)
    worst = max(abs(numbers[0][key] - v) / max(1e-3, abs(v)) for key, v in numbers[1].items())
    print(
        f"{args.prompts} prompts × {args.models} models, {len(METRICS)} metrics, {torch.get_num_threads()} threads"
    )
    for side, name in enumerate(("ours", "one by one")):
        print(f"  {name:10}  {statistics.median(t[side] for t in seconds):7.1f} s")
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"  ratio {middle:.2f} ({low:.2f}–{high:.2f}); largest relative difference of a number {worst:.1e}")


if __name__ == "__main__":
    main()
