"""Runs by several metrics at once, on pictures of which everything is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sticker_runs import PROMPTS, SCENES, run_folder
from tiny_clip import tiny_model

from longalign.data.entries import CaptionedPicture
from longalign.errors import LongalignError
from longalign.evaluation.evaluate import EvaluationJob
from longalign.evaluation.of_sets import measure_sets
from longalign.evaluation.page import main_table, plot_table, prompts_in_common, reading_table
from longalign.evaluation.pictures import read_reference
from longalign.evaluation.sets import PictureSet
from longalign.evaluation.settings import EvaluateConfig, parse_metrics
from longalign.metrics.distances import cmmd, diversity, fid
from longalign.metrics.features import Features
from longalign.metrics.prompt_bootstrap import PromptBootstrap
from longalign.preference.images import to_pixels
from longalign.report import Estimate
from longalign.stickers.captions import caption, text_of
from longalign.stickers.looks import worsen
from longalign.stickers.world import Scene, render, render_array, scene

MEANS = Features("means", "means of 4 × 4 blocks", lambda x: x[..., ::24, ::24].flatten(1))


def drawn(label: str, scenes: list[Scene], prompts: list[str] = PROMPTS) -> PictureSet:
    pictures = [
        CaptionedPicture(render(s), p, f"{k}") for k, (s, p) in enumerate(zip(scenes, prompts, strict=True))
    ]
    return PictureSet(label, pictures)


def test_right_pictures_and_those_of_other_prompts() -> None:
    """Right ones: every sentence true, no distance, perfect looks. Moved on by one prompt: the same pictures, so
    the distances, looks and diversity stay, and truth goes."""
    sets = [drawn("right", SCENES), drawn("moved", [*SCENES[1:], SCENES[0]])]
    metrics = ["fid", "cmmd", "oracle", "diversity", "looks"]
    reference = read_reference("stickers", PROMPTS)
    called: list[int] = []
    right, moved = measure_sets(sets, metrics, reference=reference, features=MEANS, on_step=called.append)
    assert sum(called) == 2 * 3 + 3
    assert right.values["true"] == 1 and right.values["looks"] == 0
    assert right.values["fid"] == pytest.approx(0, abs=1e-9) and right.values["cmmd"] < 1e-9
    assert moved.values["true"] < 0.5 and moved.values["fid"] == pytest.approx(0, abs=1e-9)
    x = MEANS.image(torch.stack([to_pixels(render(s)) for s in SCENES]))
    assert right.values["diversity"] == pytest.approx(diversity(x))
    cell = right.cells["true"]
    assert isinstance(cell, Estimate) and cell.low < 1 == cell.high  # three scenes are no certainty


def test_worse_looks_are_seen_by_looks_and_distances_alone() -> None:
    spoilt = [
        CaptionedPicture(
            Image.fromarray(worsen(render_array(s), "noise", 0.4, np.random.default_rng(k))), p, f"{k}"
        )
        for k, (s, p) in enumerate(zip(SCENES, PROMPTS, strict=True))
    ]
    reference = read_reference("stickers", PROMPTS)
    [found] = measure_sets(
        [PictureSet("spoilt", spoilt)],
        ["fid", "cmmd", "oracle", "looks"],
        reference=reference,
        features=MEANS,
    )
    seen, clean = (
        MEANS.image(torch.stack([to_pixels(p.image) for p in of]))  # type: ignore[arg-type]
        for of in (spoilt, reference.pictures)
    )
    assert found.values["fid"] == pytest.approx(fid(seen, clean))
    assert found.values["cmmd"] == pytest.approx(cmmd(seen, clean)) and found.values["cmmd"] > 0
    assert found.values["true"] > 0.9 and -0.8 < found.values["looks"] < -0.2


def test_sentences_past_the_window_are_counted_apart() -> None:
    """Nine stickers: the sentences up to token 77 are true, all later ones false (of an empty scene)."""
    long = scene(3, objects=(9, 9), split="test")
    said = caption(long, 0)
    shown = Scene(
        long.background, tuple(s for s in long.stickers if s.cell in {x.fact.cell for x in said[:4]})
    )
    [found] = measure_sets([drawn("half", [shown, shown], [text_of(said)] * 2)], ["oracle"])
    assert found.values["true_beyond"] < found.values["true"] < 1
    assert found.numbers["oracle"]["judged"].tolist() == [len(said)] * 2
    one = found.cells["true"]  # one prompt alone has no interval
    assert isinstance(one, Estimate) and one.interval == "one prompt: no interval"
    assert set(found.to_json()["true"]) == {"value"}


def test_denscore_is_the_models_own() -> None:
    """Without a stored V there is no Denscore-O."""
    model = tiny_model()
    sets = [drawn("right", SCENES)]
    found = measure_sets(sets, ["denscore"], model=model)
    scores = model.score([render(s) for s in SCENES], PROMPTS)
    assert found[0].values["denscore"] == pytest.approx(float(scores.overall.mean()), abs=1e-4)
    with pytest.raises(LongalignError, match="no stored V"):
        measure_sets(sets, ["denscore_o"], model=model)
    assert main_table(found, []).columns == ["", "pictures", "Denscore ↑"]
    [row] = reading_table(found).rows
    assert row[2] == "100.0% of the characters"


def test_intervals_draw_prompts_with_all_their_pictures() -> None:
    """Two prompts with 1, 1 and 0, 0: every draw is 0, ½ or 1, so the interval is the widest there is. Drawn picture by
    picture, 1 of 16 draws would be 0: nearer."""
    value, cell = PromptBootstrap(["a", "a", "b", "b"]).mean(np.array([1.0, 1, 0, math.nan]), ".2f")
    assert value == pytest.approx(2 / 3)
    assert isinstance(cell, Estimate) and (cell.low, cell.high, cell.n) == (0, 1, 3)
    value, alone = PromptBootstrap(["a", "a"], 100).mean(np.array([1.0, 2]), ".2f")
    assert (value, str(alone)) == (1.5, "1.50")
    assert isinstance(alone, Estimate) and alone.interval == "one prompt: no interval"
    assert PromptBootstrap(["a"], 100).mean(np.array([math.nan]), ".2f")[1] == "—"


def test_unreadable_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    whole = drawn("some", SCENES[:2], PROMPTS[:2])
    torn = PictureSet(
        "some", [CaptionedPicture(tmp_path / "torn.png", PROMPTS[2], "torn.png"), *whole.pictures]
    )
    [found] = measure_sets([torn], ["oracle"])
    assert found.values["true"] == 1 and [f.name for f in found.failed] == ["torn.png"]
    with pytest.raises(LongalignError, match="none of its pictures can be read"):
        measure_sets([PictureSet("torn", torn.pictures[:1])], ["oracle"])


def test_fid_of_few_pictures_is_marked() -> None:
    """48 features (4 × 4 blocks of 3 colours); 4 pictures on both sides have a covariance of rank 3."""
    reference = read_reference("stickers", PROMPTS)
    [found] = measure_sets([drawn("few", SCENES)], ["fid", "cmmd"], reference=reference, features=MEANS)
    assert found.cells["fid"] == "0 (meaningless)" and found.cells["cmmd"] == "0"
    note = main_table([found], []).note
    assert "FID of no more pictures than features is meaningless" in note
    narrow = Features("two", "two numbers", lambda x: x.mean((2, 3))[:, :2])
    [found] = measure_sets([drawn("few", SCENES)], ["fid"], reference=reference, features=narrow)
    assert found.cells["fid"] == "0"


def test_runs_without_a_common_prompt_are_told() -> None:
    """The same prompts: nothing to say. Two of three in common; none in common."""
    a, b = drawn("a", SCENES), drawn("b", SCENES[1:], PROMPTS[1:])
    c = drawn("c", SCENES[:1], PROMPTS[:1])
    measured = {label: measure_sets([s], ["looks"])[0] for label, s in (("a", a), ("b", b), ("c", c))}
    assert prompts_in_common([measured["a"], measured["a"]]) == ""
    assert "share 2 of up to 3 prompts" in prompts_in_common([measured["a"], measured["b"]])
    assert "no prompt in common" in prompts_in_common([measured["b"], measured["c"]])


def test_tables() -> None:
    a, b = drawn("a", SCENES), drawn("b", SCENES[1:], PROMPTS[1:])
    found = measure_sets([a, b], ["oracle", "looks"])
    table = main_table(found, [])
    assert [row[:2] for row in table.rows] == [["a", "3"], ["b", "2"]]
    plot = plot_table(found)
    assert plot is not None and plot.columns == ["", "a", "b"] and plot.rows[0][0] == "true sentences ↑"


def test_metrics_by_name() -> None:
    assert parse_metrics("Looks, oracle,looks") == ["looks", "oracle"]
    with pytest.raises(LongalignError, match="did you mean 'looks'"):
        parse_metrics("fid,look")
    with pytest.raises(LongalignError, match="metric 'foo' is unknown; There are fid"):  # looks is not near
        parse_metrics("foo")
    with pytest.raises(LongalignError, match="no metric"):
        parse_metrics(" ,")


def test_what_a_metric_needs_is_asked_for(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    run_folder(photos, {"seed 0": [0, 1, 2]}, ["A bridge.", "A ship.", "A street at night."])
    for config, said in (
        (EvaluateConfig("oracle"), "sticker pictures only"),
        (EvaluateConfig("fid"), "--reference FOLDER"),
        (EvaluateConfig("diversity"), "--features"),
    ):
        with pytest.raises(LongalignError, match=said):
            EvaluationJob([str(photos)], config).run()
    with pytest.raises(LongalignError, match="fid: needs a reference"):
        measure_sets([drawn("a", SCENES)], ["fid"])
