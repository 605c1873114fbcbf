"""The oracle's verdict on each sentence of a prompt, and the shares and differences that are made of them."""

from __future__ import annotations

import numpy as np
import pytest

from longalign.encoding.segments import Segment, Segmenter
from longalign.report import Estimate
from longalign.report.sentences import Sentences, judge, sentences_of
from longalign.stickers.captions import caption, parse_all, text_of
from longalign.stickers.world import Scene, Sticker, render, scene
from longalign.studies.accuracy import (
    accuracy_table,
    mean_estimate,
    ratio_difference,
    share_table,
    table_json,
)
from longalign.weights.stack import (
    load_pipeline,
)


def test_judge_on_a_render() -> None:
    picture = render(Scene("navy", (Sticker("fox", 0, "red"),)))
    texts = ["A fox is in the top left.", "It stands on a red disc.", "It is on a blue disc.", "Hello."]
    assert judge(texts, picture, "stickers") == ["true", "true", "false", "unjudged"]
    assert judge(texts, picture, None) == ["unjudged"] * 4


def test_a_pronoun_is_the_last_sticker_even_with_the_background_in_between() -> None:
    """The disc of "It" is looked for in the top left, where the fox stands: the star has a blue one."""
    picture = render(Scene("navy", (Sticker("fox", 0, "red"), Sticker("star", 8, "blue"))))
    texts = [
        "A star is in the bottom right.",
        "A fox is in the top left.",
        "Behind it all the ground is navy.",
    ]
    for said, verdict in (
        ("It is on a red disc.", "true"),
        ("A red disc is behind it.", "true"),
        ("It stands on a blue disc.", "false"),
    ):
        assert judge([*texts, said], picture, "stickers")[-1] == verdict
    assert judge(["It stands on a red disc."], picture, "stickers") == [
        "unjudged"
    ]  # nothing that "It" could be


def test_referring_captions_are_cut_and_judged_as_they_were_written() -> None:
    """As text through the segmenter, 60 crowded captions give back every fact, and all are true of their scenes."""
    segmenter, discs = Segmenter(), 0
    for i in range(60):
        drawn = scene(i, objects=(7, 9), split="test")
        said = caption(drawn, i, referring=True)
        texts = [s.text for s in segmenter(text_of(said))]
        assert parse_all(texts) == [s.fact for s in said]
        if i < 10:
            assert set(judge(texts, render(drawn), "stickers")) == {"true"}
        discs += sum(
            fact is not None and fact.kind is None and fact.disc is not None for fact in parse_all(texts)
        )
    assert discs > 100


def test_beyond_follows_the_sentences_of_a_referring_caption() -> None:
    """The plain encoding reads 77 tokens: what begins after them is beyond, and once beyond, all that follows."""
    text = text_of(caption(scene(0, objects=(9, 9), split="test"), 0, referring=True))
    [found] = sentences_of(load_pipeline("stickers", device="cpu").tokenizer, [text])
    assert found.beyond == sorted(found.beyond) and 0 < sum(found.beyond) < len(found.beyond)


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


def test_table_for_machines() -> None:
    table = share_table(
        {"a": [np.array([True, False])], "chance": [np.array([False, False])]}, [np.array([False, True])]
    )
    first, second, both = table_json(table, "sentences")
    assert (first["sentences"], first["a"]["value"], second["a"]["value"]) == ("before token 77", 1.0, 0.0)
    assert both["a"]["n"] == 2 and both["chance"]["value"] == 0


def test_the_difference_of_two_shares_is_paired() -> None:
    """b is a with one sentence of ten less in every scene, scenes being anything from bad to good: a − b is 10 % in
    every draw, so the interval is narrow though each share's own is wide."""
    rng = np.random.default_rng(0)
    of = np.full(40, 10)
    good = rng.integers(1, 11, 40)
    found = ratio_difference((good, of), (good - 1, of))
    assert found.value == pytest.approx(0.1) and found.n == 800 and str(found) == "+10.0 points"
    # Nothing varies over 40 scenes, which does not make it certain: 400 of 400 sentences in clusters of 10 count as
    # 400/(1 + 9·0.3) = 108.1, of which Wilson allows z²/(n + z²) = 3.8415/111.95 = 3.4 % to miss.
    assert (found.high - found.low) / 2 == pytest.approx(3.8415 / 111.9496, rel=1e-3)
    varied = ratio_difference((good, of), (good - rng.integers(0, 2, 40), of))
    assert 0.02 < varied.low < varied.value < varied.high < 0.08


def test_a_difference_counts_sentences_and_not_scenes() -> None:
    """Before: 1 of 1 and 0 of 3 are 1/4; beyond: 1 of 2 and 2 of 2 are 3/4."""
    found = ratio_difference((np.array([1, 2]), np.array([2, 2])), (np.array([1, 0]), np.array([1, 3])))
    assert found.value == pytest.approx(0.5)
    nothing = ratio_difference((np.array([1, 2]), np.array([2, 2])), (np.zeros(2, int), np.zeros(2, int)))
    assert str(nothing) == "—"


def test_mean_of_scenes() -> None:
    """The standard error of 100 values of deviation 1 is 0.1, so 95 % are ± 0.196."""
    values = np.repeat([-1.0, 1.0], 50)
    found = mean_estimate(values)
    assert found.value == 0 and found.n == 100
    assert found.high - found.low == pytest.approx(0.392, rel=0.08)
