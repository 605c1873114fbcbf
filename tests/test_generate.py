"""`generate` and `demo`: from prompts to a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from longalign.demo import COLUMNS, OBJECTS, accuracy_table, demo, demo_steps
from longalign.errors import LongalignError
from longalign.generate import GenerateConfig, generate
from longalign.judging import Sentences, judge, sentences_of
from longalign.pipelines import load_pipeline
from longalign.report import Estimate
from longalign.segments import Segment
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import Scene, Sticker, render, scene

LONG = text_of(caption(scene(0, objects=(9, 9), split="test"), 0))
SHORT = "A fox is in the top left. The background is navy. It is a lovely evening."
QUICK = GenerateConfig(steps=2, device="cpu")


def test_generate_writes_a_run_folder(tmp_path: Path) -> None:
    made = generate([SHORT, LONG], GenerateConfig(steps=2, num=2, seed=7, device="cpu"), out=tmp_path / "run")
    folder = made.folder
    assert {f.name for f in folder.iterdir()} == {
        "config.yaml",
        "images",
        "metrics.jsonl",
        "report.html",
        "report.jsonl",
    }
    assert sorted(f.name for f in (folder / "images").iterdir()) == [
        "0000-7.png",
        "0000-8.png",
        "0001-7.png",
        "0001-8.png",
    ]
    for picture in made.pictures:
        assert Image.open(folder / picture.file).size == (96, 96)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [SHORT, LONG]
    assert len(lines[1]["sentences"]) == 10
    assert "A fox is in the top left." in (folder / "report.html").read_text()
    json.dumps(made.to_json())


def test_sentences_beyond_the_window_are_marked(tmp_path: Path) -> None:
    made = generate([LONG], QUICK, out=tmp_path / "run")
    beyond = [row.beyond for row in made.rows[0]]
    assert beyond == sorted(beyond) and 0 < sum(beyond) < 10
    assert not made.truncation[0]  # segment-level encoding lost nothing


def test_the_plain_strategy_reports_what_it_cut(tmp_path: Path) -> None:
    """The cut begins inside the first sentence that is marked, or at its beginning."""
    config = GenerateConfig(steps=1, strategy="plain", device="cpu")
    with pytest.warns(UserWarning, match="did not fit"):
        made = generate([LONG], config, out=tmp_path / "run")
    [cut] = made.truncation[0]
    first = next(row for row in made.rows[0] if row.beyond)
    start = LONG.index(first.text)
    assert start <= cut.start < start + len(first.text) and cut.end == len(LONG)
    assert cut.text.split(".")[-2].strip() in (tmp_path / "run" / "report.html").read_text()


def test_sentences_outside_the_world_are_not_judged(tmp_path: Path) -> None:
    rows = generate([SHORT], QUICK, out=tmp_path / "run").rows[0]
    assert rows[2].marks == {"seed 0": "unjudged"}
    assert rows[0].marks["seed 0"] in ("true", "false", "unclear")


def test_judge_on_a_render() -> None:
    picture = render(Scene("navy", (Sticker("fox", 0, "red"),)))
    texts = ["A fox is in the top left.", "It stands on a red disc.", "It is on a blue disc.", "Hello."]
    assert judge(texts, picture, "stickers") == ["true", "true", "false", "unjudged"]
    assert judge(texts, picture, None) == ["unjudged"] * 4


def test_an_earlier_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    generate([SHORT], QUICK, out=tmp_path / "run")
    with pytest.raises(LongalignError, match="already holds files"):
        generate([SHORT], QUICK, out=tmp_path / "run")
    generate([SHORT], QUICK, out=tmp_path / "run", overwrite=True)


def test_pictures_drawn_so_far_outlive_a_crash(tmp_path: Path) -> None:
    """Two batches of one picture; the program dies in the second one's first step."""
    steps: list[int] = []

    def die(pictures: int) -> None:
        steps.append(pictures)
        if len(steps) == 3:
            raise KeyboardInterrupt

    config = GenerateConfig(steps=2, batch_size=1, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        generate([SHORT, SHORT], config, out=tmp_path / "run", on_step=die)
    assert [f.name for f in (tmp_path / "run" / "images").iterdir()] == ["0000-0.png"]
    assert not (tmp_path / "run" / "report.html").exists()


def test_wrong_input_does_not_cost_the_earlier_run(tmp_path: Path) -> None:
    generate([SHORT], QUICK, out=tmp_path / "run")
    with pytest.raises(LongalignError):
        generate([SHORT], GenerateConfig(strategy="none", device="cpu"), out=tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "report.html").exists()


def test_strategies_with_t5_run_on_the_embedded_branch(tmp_path: Path) -> None:
    for strategy in ("t5-mlp", "clip+t5"):
        config = GenerateConfig(steps=1, strategy=strategy, device="cpu")
        assert len(generate([SHORT], config, out=tmp_path / strategy).pictures) == 1


def test_beyond_follows_the_token_window() -> None:
    pipe = load_pipeline("stickers", device="cpu")
    [short, long] = sentences_of(pipe, [SHORT, LONG])
    assert short.beyond == [False] * 3 and any(long.beyond)


def test_accuracy_table_by_hand() -> None:
    """Two scenes, two sentences each, the second beyond the window; one picture is right, the other empty.

    Before: 1 of 2 true. Beyond: 1 of 2. Chance judges each scene's sentences on the other's picture: 0 of 4.
    """
    drawn = Scene("navy", (Sticker("fox", 0), Sticker("star", 1)))
    texts = [
        ["A fox is in the top left.", "A star is in the top centre."],
        ["A pig is in the top right.", "A car is in the middle left."],
    ]
    sentences = [Sentences([Segment(t, 0, len(t)) for t in of_scene], [False, True]) for of_scene in texts]
    images = {"model": [render(drawn), render(Scene("pink", ()))]}
    table = accuracy_table(sentences, images, "stickers")
    values = [[c.value for c in row[1:] if isinstance(c, Estimate)] for row in table.rows]
    assert values == [[0.5, 0.0], [0.5, 0.0], [0.5, 0.0]]


def test_demo_in_small(tmp_path: Path) -> None:
    steps: list[int] = []
    made = demo(scenes=2, steps=2, out=tmp_path / "demo", on_step=steps.append)
    assert sum(steps) == demo_steps(2, 2) == 8
    assert made.accuracy.columns == ["", *COLUMNS, "chance"]
    assert all(OBJECTS[0] + 1 <= len(s.segments) <= OBJECTS[1] + 1 for s in made.sentences)
    assert len(list((tmp_path / "demo" / "images").iterdir())) == 6
    html = (tmp_path / "demo" / "report.html").read_text()
    assert html.count("data:image/png") >= 6 and "http://" not in html.replace("http://www.w3.org", "")
    json.dumps(made.to_json())
