"""Are verdicts on sentences right? AUC, calibration and verdicts of a preference model on held-out sticker scenes.

    python benchmarks/verdicts.py                 # 500 scenes, clean and degraded, and 500 drawn ones: ten minutes
    python benchmarks/verdicts.py --scenes 20 --drawn 0

Every true sentence of a scene (split `test`, seed 5) is held against one lie in one word. The model was trained and
calibrated on other splits. Drawn pictures come from the base model with the plain encoding; the oracle judges them.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from longalign.diffusion.pipelines import settings_of
from longalign.diffusion.sampling import draw, set_scheduler
from longalign.preference import PreferenceModel
from longalign.preference.calibration import expected_calibration_error, measure
from longalign.stickers.captions import caption, facts, lie, sentence, text_of
from longalign.stickers.looks import worsen
from longalign.stickers.oracle import read
from longalign.stickers.world import render_array, scene
from longalign.weights.stack import load_pipeline

PICTURES = (
    ("clean", "blur", 0.0),
    ("blurred (1 px)", "blur", 0.5),
    ("blurred (2 px)", "blur", 1.0),
    ("washed out", "washed", 1.0),
    ("noisy", "noise", 0.5),
)


def scores(model: PreferenceModel, pixels: np.ndarray, texts: list[str]) -> np.ndarray:
    """100 · S, or the best score that the model has, of each text."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 255
    said = model.score(x.expand(len(texts), -1, -1, -1), texts)
    return np.array([of_text[0].best for of_text in said.segments])


def on_scenes(
    model: PreferenceModel, count: int, kind: str, strength: float, silent: bool
) -> dict[str, float]:
    auc: list[float] = []
    rows: list[tuple[float, int, float]] = []
    for i in range(count):
        rng = np.random.default_rng([i, 99])
        shown = scene(i, objects=(2, 9), split="test", seed=5)
        pixels = worsen(render_array(shown), kind, strength, rng)
        stated = [replace(fact, disc=None) if silent else fact for fact in facts(shown)]
        true = [sentence(fact, rng).text for fact in stated]
        false = [sentence(lie(shown, fact, rng), rng).text for fact in stated]
        found = scores(model, pixels, true + false)
        right, wrong = found[: len(true)], found[len(true) :]
        auc.append(float(((right[:, None] > wrong) + 0.5 * (right[:, None] == wrong)).mean()))
        rows += [(float(s), int(k < len(true)), 1.0) for k, s in enumerate(found)]
    row = {"auc": float(np.mean(auc))}
    if (cal := model.calibration) is not None:
        row |= measure([(cal.probability(s), y, w) for s, y, w in rows], cal.error)
    return row


def on_drawn(model: PreferenceModel, count: int) -> dict[str, Any]:
    cal = model.calibration
    assert cal is not None
    pipe = load_pipeline("stickers", device="cpu")
    settings = settings_of("stickers", pipe)
    set_scheduler(pipe, "auto")
    scenes = [scene(i, objects=(7, 9), split="test", seed=5) for i in range(count)]
    said = [caption(s, np.random.default_rng([i, 5])) for i, s in enumerate(scenes)]
    sampling = {"steps": 25, "batch_size": 50, "guidance": settings.guidance}
    prompts = [text_of(c) for c in said]
    pictures = draw(pipe, prompts, range(count), strategy="plain", length=settings.length, sampling=sampling)
    p, y, confusion = [], [], Counter()  # type: ignore[var-annotated]
    for picture, sentences in zip(pictures, said, strict=True):
        reading = read(picture)
        for s, one in zip(
            scores(model, np.asarray(picture), [q.text for q in sentences]), sentences, strict=True
        ):
            probability, mark = cal.probability(float(s)), reading.judge(one.fact)
            confusion[f"{cal.verdict(probability)}, oracle {mark}"] += 1
            if mark != "unclear":
                p.append(probability)
                y.append(float(mark == "true"))
    agree = float(((np.array(p) > 0.5) == (np.array(y) > 0.5)).mean())
    ece = expected_calibration_error(np.array(p), np.array(y))
    return {"sentences": len(p), "agree": agree, "ece": float(ece), "confusion": dict(confusion)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--drawn", type=int, default=500)
    given = parser.parse_args()
    model = PreferenceModel.from_pretrained(given.model, device="cpu")
    for name, kind, strength in PICTURES:
        for silent in (False, True):
            title = name + (", no discs said" if silent else "")
            print(json.dumps({title: on_scenes(model, given.scenes, kind, strength, silent)}), flush=True)
    if given.drawn:
        print(json.dumps({"drawn": on_drawn(model, given.drawn)}))


if __name__ == "__main__":
    main()
