"""Repair against best-of-N at equal denoiser calls: true sentences by the oracle, on crowded held-out scenes.

    python benchmarks/repair.py                          # 200 scenes, three models: an hour or two on two cores
    python benchmarks/repair.py --split validation --scenes 24 --models stickers stickers-sdxl \
        --work runs/repair-methods --methods region+weights region+weights+gradient gradient weights region

For each scene (7–9 stickers, split `test`, seed 5) the model draws three pictures: best-of-N takes the first N of them.
Repair starts from the first one; round r may use as many calls as best-of-(r + 1), and stops where the scorer doubts
nothing. Both choose by the same scorer, the embedded Denscore; the oracle alone judges. Lines of scenes are kept in
`--work`: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from longalign.diffusion.pipelines import settings_of
from longalign.diffusion.sampling import set_scheduler
from longalign.metrics.distances import Moments, diversity, frechet_distance
from longalign.metrics.intervals import percentile, resample
from longalign.preference import PreferenceModel
from longalign.repairing import repair
from longalign.repairing.methods import DEFAULT
from longalign.repairing.result import Repaired
from longalign.report import Estimate
from longalign.report.statistics import clustered_wilson
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import render_array, scene
from longalign.versions import VERSION
from longalign.weights.stack import load_pipeline
from longalign.worlds import world

MODELS = ("stickers", "stickers-sdxl", "stickers-sd3")
PICTURES = 3  # of best-of-N
SEED = 5
METHODS = (DEFAULT,)
Line = dict[str, Any]


class Side:
    """A model with the scorer and the judge."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps = name, steps
        self.pipe = load_pipeline(name, device="cpu")
        self.settings = settings_of(name, self.pipe)
        set_scheduler(self.pipe, "auto")
        self.scorer = PreferenceModel.from_pretrained("stickers", device="cpu")
        self.looker = PreferenceModel.from_pretrained("stickers/clip", device="cpu")
        self.judge = world("stickers")

    def run(self, prompt: str, **options: Any) -> Repaired:
        return repair(
            self.pipe,
            prompt,
            scorer=self.scorer,
            steps=self.steps,
            guidance=self.settings.guidance,
            length=self.settings.length,
            strategy="clip-cat",
            **options,
        )

    def seen(self, image: Image.Image, sentences: Sequence[str]) -> Line:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            features = self.looker.image(pixels)[0].tolist()
        marks = [mark == "true" for mark in self.judge.judge(image, sentences)]
        features = [round(x, 5) for x in features]
        return {"true": sum(marks), "marks": marks, "looks": self.judge.looks(image), "features": features}

    def line(self, index: int, split: str, methods: Sequence[str], rounds: int, **options: Any) -> Line:
        """One scene."""
        prompt = text_of(
            caption(
                scene(index, objects=(7, 9), split=split, seed=SEED), np.random.default_rng([index, SEED])
            )
        )
        pool = self.run(prompt, rounds=0, best_of=PICTURES)
        said = [s.text for s in pool.sentences]
        pictures = [
            {**self.seen(a.image, said), "values": a.verdicts.values, "calls": a.calls} for a in pool.attempts
        ]
        found: Line = {"scene": index, "sentences": len(said), "pool": pictures, "methods": {}}
        for method in methods:
            rows = [{**pictures[0], "calls": self.steps}]
            if pool.attempts[0].verdicts.doubtful:
                mended = self.run(prompt, rounds=rounds, method=method, **options)
                best = mended.attempts[0]
                for attempt in mended.attempts[1:]:
                    best = attempt if attempt.accepted else best
                    calls = rows[-1]["calls"] + attempt.calls
                    rows.append(
                        {**self.seen(best.image, said), "values": best.verdicts.values, "calls": calls}
                    )
            found["methods"][method] = rows + [rows[-1]] * (rounds + 1 - len(rows))
        return found


def best(pool: Sequence[Line], choice: str) -> Line:
    def rank(line: Line) -> tuple[float, float]:
        mean, lowest = float(np.mean(line["values"])), min(line["values"])
        return (mean, lowest) if choice == "mean" else (lowest, mean)

    return max(pool, key=rank)


def clean_features(indices: Sequence[int], split: str) -> np.ndarray:
    """(N, D) features of the scenes as they should look."""
    looker = PreferenceModel.from_pretrained("stickers/clip", device="cpu")
    scenes = [scene(i, objects=(7, 9), split=split, seed=SEED) for i in indices]
    pixels = torch.from_numpy(np.stack([render_array(s) for s in scenes])).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return torch.cat([looker.image(part) for part in pixels.split(50)]).numpy()


def to_clean(features: np.ndarray, clean: np.ndarray) -> Line:
    """Fréchet distance to the clean scenes, and diversity."""
    a, b = (Moments.fit(torch.from_numpy(x)) for x in (features, clean))
    distance = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    return {"fid": round(distance, 4), "diversity": round(diversity(features), 4)}


def of_false(lines: Sequence[Line], split: str) -> Line:
    """Of the sentences that are false in the first pictures: how many the scorer calls true (P ≥ 0.95), how many are
    false in the second picture, too, and how many are of backgrounds."""
    found = {"sentences": 0, "called_true": 0, "false_in_second_picture": 0, "of_backgrounds": 0}
    for line in lines:
        first, second = line["pool"][:2]
        shown = scene(line["scene"], objects=(7, 9), split=split, seed=SEED)
        said = caption(shown, np.random.default_rng([line["scene"], SEED]))
        for i, sentence in enumerate(said):
            if not first["marks"][i]:
                found["sentences"] += 1
                found["called_true"] += first["values"][i] >= 0.95
                found["false_in_second_picture"] += not second["marks"][i]
                found["of_backgrounds"] += sentence.fact.background is not None
    return found


def summary(lines: Sequence[Line], rounds: int, clean: np.ndarray, split: str) -> dict[str, Any]:
    """Of one model: for each way and number of pictures (of calls) the share of true sentences, and differences."""
    counts = np.array([line["sentences"] for line in lines])
    ways: dict[str, list[list[Line]]] = {}
    for choice in ("mean", "lowest"):
        ways[f"best-of-N by the {choice}"] = [
            [best(line["pool"][:n], choice) for line in lines] for n in range(1, PICTURES + 1)
        ]
    for method in lines[0]["methods"]:
        ways[method] = [[line["methods"][method][r] for line in lines] for r in range(rounds + 1)]
    base = {n: ways["best-of-N by the mean"][n] for n in range(PICTURES)}
    steps = lines[0]["pool"][0]["calls"]
    found: dict[str, Any] = {"scenes": len(lines), "sentences": int(counts.sum()), "ways": {}}
    found["diversity_of_clean_scenes"] = round(diversity(clean), 4)
    found["false_in_first_picture"] = of_false(lines, split)
    for way, of_way in ways.items():
        rows = []
        for n, pictures in enumerate(of_way):
            true = np.array([p["true"] for p in pictures])
            calls = float(np.mean([p["calls"] for p in pictures])) if "best" not in way else steps * (n + 1)
            row: Line = {
                "pictures": n + 1,
                "calls": round(calls, 2),
                "true": numbers(clustered_wilson(true, counts)),
                "looks": round(float(np.mean([p["looks"] for p in pictures])), 4),
                **to_clean(np.array([p["features"] for p in pictures]), clean),
            }
            if "best" not in way:
                other = np.array([p["true"] for p in base[n]])
                row["more_than_best_of"] = numbers(difference(true - other, counts))
                looks = np.array([a["looks"] - b["looks"] for a, b in zip(pictures, base[n], strict=True)])
                found_looks = difference(looks, np.ones(len(looks)))
                row["looks_more"] = [
                    round(x, 4) for x in (found_looks.value, found_looks.low, found_looks.high)
                ]
                first = of_way[0]
                row["spoiled"] = sum(
                    sum(a and not b for a, b in zip(x["marks"], y["marks"], strict=True))
                    for x, y in zip(first, pictures, strict=True)
                )
            rows.append(row)
        found["ways"][way] = rows
    return found


def difference(more: np.ndarray, counts: np.ndarray, samples: int = 4000) -> Estimate:
    """The difference of two shares of true sentences over the same scenes; scenes are drawn."""
    draws = np.concatenate([(w @ more) / (w @ counts) for w in resample(len(counts), samples, 0)])
    return percentile(more.sum() / counts.sum(), draws, len(counts), format="+.1%")


def numbers(estimate: Estimate) -> list[float]:
    return [round(100 * x, 2) for x in (estimate.value, estimate.low, estimate.high)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--split", default="test")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--rounds", type=int, default=PICTURES - 1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--set", nargs="*", default=[], help="settings of repair, such as weight=1.5")
    parser.add_argument("--work", type=Path, default=Path("runs/repair-benchmark"))
    parser.add_argument("--out", type=Path, help="such as docs/results/repair.json")
    given = parser.parse_args()
    options = {key: float(value) for key, value in (told.split("=") for told in given.set)}
    given.work.mkdir(parents=True, exist_ok=True)
    told = vars(given) | {"work": None, "out": None, "models": None}
    found: dict[str, Any] = {"settings": {k: v for k, v in told.items() if v is not None}, "models": {}}
    found["version"] = VERSION
    for name in given.models:
        path = given.work / f"{name}.jsonl"
        lines = [json.loads(text) for text in path.read_text().splitlines()] if path.is_file() else []
        if len(lines) < given.scenes:
            side = Side(name, given.steps)
            with open(path, "a", encoding="utf-8") as file:
                for index in range(len(lines), given.scenes):
                    lines.append(side.line(index, given.split, given.methods, given.rounds, **options))
                    file.write(json.dumps(lines[-1]) + "\n")
                    file.flush()
        clean = clean_features([line["scene"] for line in lines[: given.scenes]], given.split)
        found["models"][name] = of_model = summary(lines[: given.scenes], given.rounds, clean, given.split)
        for way, rows in of_model["ways"].items():
            for row in rows:
                print(name, way, json.dumps(row))
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
