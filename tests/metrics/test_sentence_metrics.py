"""Denscore, Denscore-O, P(true) and counting as an evaluation computes them, against plain formulas.

Scores are compared to 1e-4 of the cosine's scale of 100 (batches differ in the last bits).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import IMAGE_PX, WIDTH, tiny_clip, tokenizer

from longalign.errors import LongalignError
from longalign.metrics.counting import Counting
from longalign.metrics.denscore import Denscore, DenscoreOptions
from longalign.metrics.denscore_o import DenscoreO
from longalign.metrics.metric import SENTENCES, PictureBatch, Tools
from longalign.metrics.verdict import Verdict
from longalign.preference import Calibration, LateHead, PreferenceModel, Preprocess
from longalign.preference.decomposition import Decomposition
from longalign.preference.images import to_pixels
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import Scene, Sticker, render
from longalign.worlds import world

SENTENCES_OF = [["A fox is in the middle.", "The background is navy."], ["A red disc."]]
PROMPTS = [" ".join(of) for of in SENTENCES_OF]


def tools_with(**parts: object) -> tuple[Tools, PreferenceModel]:
    torch.manual_seed(0)
    model = PreferenceModel(tiny_clip(), tokenizer(), Preprocess(IMAGE_PX), **parts)  # type: ignore[arg-type]
    tools = Tools(device="cpu")
    tools.add_preference("tiny", model)
    return tools, model


def batch(tools: Tools) -> PictureBatch:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), np.uint8)) for _ in PROMPTS]
    return PictureBatch(pictures, PROMPTS, tools)


def embeddings(model: PreferenceModel, images: list[Image.Image]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Unit C_X of each picture and unit C_P of each sentence alone, in float64."""
    with torch.no_grad():
        x = torch.cat([model.image_prepared(model.preprocess.picture(image)) for image in images])
        p = [torch.cat([model.text([sentence]) for sentence in of]) for of in SENTENCES_OF]
    return x.double().numpy(), [of.double().numpy() for of in p]


def test_denscore_and_denscore_o_are_the_papers_formulas() -> None:
    """C_P^seg = mean of C_P(p̂_k); Denscore = 100 C_X·C_P^seg; C⊥ = C_P^seg − (C_P^seg·V) V; Denscore-O = 100 C_X·C⊥.

    V is a unit vector of its own choice here.
    """
    v = torch.nn.functional.normalize(torch.arange(1.0, WIDTH + 1), dim=0)
    tools, model = tools_with(decomposition=Decomposition.fit(torch.stack([v, v])))
    of_batch = batch(tools)
    dense = Denscore(tools, DenscoreOptions("tiny")).measure(of_batch)
    aligned = DenscoreO(tools, DenscoreOptions("tiny")).measure(of_batch)
    x, p = embeddings(model, list(of_batch.images))
    unit = v.double().numpy()
    for k in range(2):
        mean = p[k].mean(0)
        perpendicular = mean - (mean @ unit) * unit
        assert dense[k]["denscore"] == pytest.approx(100 * x[k] @ mean, abs=1e-4)
        assert dense[k][SENTENCES] == pytest.approx((100 * p[k] @ x[k]).tolist(), abs=1e-4)
        assert aligned[k]["aligned"] == pytest.approx(100 * x[k] @ perpendicular, abs=1e-4)
        cosine = 100 * x[k] @ perpendicular / np.linalg.norm(perpendicular)
        assert aligned[k]["aligned_cosine"] == pytest.approx(cosine, abs=1e-4)
        of_sentences = [100 * x[k] @ (one - (one @ unit) * unit) for one in p[k]]
        assert aligned[k][SENTENCES] == pytest.approx(of_sentences, abs=1e-4)


def test_verdicts_are_the_calibrated_late_scores() -> None:
    """P = σ((s − offset) / temperature), s = 100 Σ_t w_t max over patches of a token's cosine."""
    torch.manual_seed(0)
    tools, model = tools_with(late=LateHead(48, 32, 16), calibration=Calibration("late", 20.0, 50.0))
    of_batch = batch(tools)
    values = Verdict(tools, DenscoreOptions("tiny")).measure(of_batch)
    for k, image in enumerate(of_batch.images):
        with torch.no_grad():
            patches = model.patches(to_pixels(image)[None])[0]
            of_sentences = [model.tokens([sentence]) for sentence in SENTENCES_OF[k]]
        wanted = []
        for tokens in of_sentences:
            best = (tokens.embeddings[0].detach() @ patches.T).amax(-1)
            score = 100 * float((best * tokens.weights[0].detach()).sum())
            wanted.append(1 / (1 + math.exp(-(score - 50.0) / 20.0)))
        assert values[k][SENTENCES] == pytest.approx(wanted, abs=1e-3)
        assert all(0.1 < p < 0.9 for p in wanted), "not saturated"
        assert values[k]["p_true"] == pytest.approx(sum(wanted) / len(wanted), abs=1e-3)
    plain, _ = tools_with()
    with pytest.raises(LongalignError, match="tiny has no calibration"):
        Verdict(plain, DenscoreOptions("tiny"))


def test_counting_by_hand() -> None:
    """Asked for: a fox and a pig. Drawn: two foxes: a copy in a cell that should be empty (surplus 1), and no pig.

    A prompt that says less than a whole picture is not counted.
    """
    wanted = Scene("navy", (Sticker("fox", 0), Sticker("pig", 4)))
    prompt = text_of(caption(wanted, 0))
    of_world = world("stickers")
    tools = Tools(world=of_world, device="cpu")
    metric = Counting(tools)
    drawn = Scene("navy", (Sticker("fox", 0), Sticker("fox", 8)))
    found = metric.measure(
        PictureBatch([render(wanted), render(drawn), render(drawn)], [prompt, prompt, "A fox."], tools)
    )
    keys = [column.key for column in Counting.columns]
    assert [[of[key] for key in keys] for of in found[:2]] == [[0, 0, 0], [1, 1, 1]] and found[2] == {}
    assert (
        metric.share_read([prompt, prompt, "A fox."]) == "50.0% of the prompts"
        and metric.share_read([]) == "—"
    )
