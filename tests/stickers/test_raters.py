"""Looks that are spoilt, mistakes that are made, and the raters who see both."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError
from longalign.stickers.captions import Fact, is_true, parse_all
from longalign.stickers.changes import CHANGES, alter
from longalign.stickers.looks import LOOKS, worsen
from longalign.stickers.oracle import judge
from longalign.stickers.raters import RaterPairs, Raters, balance, truth
from longalign.stickers.tokenizers import make_clip_tokenizer
from longalign.stickers.world import Scene, Sticker, render_array, scene

FOX_AND_PIG = Scene("grey", (Sticker("fox", 0, "red"), Sticker("pig", 4)))
STATED = [Fact("fox", 0, "red"), Fact("pig", 4), Fact(background="grey")]


@pytest.mark.parametrize("kind", LOOKS)
def test_looks_get_worse_with_strength(kind: str) -> None:
    clean = render_array(scene(3, objects=(7, 7)))
    errors = []
    for strength in (0, 0.25, 0.5, 0.75, 1):
        spoilt = worsen(clean, kind, strength, np.random.default_rng(0))
        assert spoilt.dtype == np.uint8 and spoilt.shape == clean.shape
        errors.append(np.square(spoilt.astype(float) - clean).mean())
    assert errors[0] == 0
    assert (
        errors == sorted(errors) and errors[1] > 4 and errors[-1] > 400
    )  # at the end 20 grey levels (r.m.s.)


@pytest.mark.parametrize("kind", LOOKS)
def test_stickers_can_be_recognised_in_poor_pictures(kind: str) -> None:
    rng = np.random.default_rng(0)
    for i in range(5):
        shown = scene(i, objects=(2, 9))
        stated = [Fact(s.kind, s.cell) for s in shown.stickers]
        verdicts = judge(worsen(render_array(shown), kind, 0.5, rng), stated)
        assert verdicts.count("true") >= 0.8 * len(stated)
        assert "false" not in verdicts


def test_blocks_are_means_of_a_mosaic() -> None:
    """48 px are blocks of 2 px. Columns 0, 10, 20, 40, … give blocks of mean 5, 30, …; at half strength the first
    column is half-way from 0 to 5: 2 (2.5 is rounded to even)."""
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[:, 1], picture[:, 2], picture[:, 3] = 10, 20, 40
    rng = np.random.default_rng(0)
    assert worsen(picture, "blocks", 1, rng)[7, :4, 0].tolist() == [5, 5, 30, 30]
    assert worsen(picture, "blocks", 0.5, rng)[7, :4, 0].tolist() == [2, 8, 25, 35]


@pytest.mark.parametrize(
    ("kind", "strength", "picture", "message"),
    [
        ("smear", 0.5, np.zeros((4, 4, 3), np.uint8), "unknown kind of looks 'smear'"),
        ("blur", 1.5, np.zeros((4, 4, 3), np.uint8), "between 0 and 1, not 1.5"),
        ("blur", float("nan"), np.zeros((4, 4, 3), np.uint8), "between 0 and 1"),
        ("blur", 0.5, np.zeros((4, 4)), "not float64"),
    ],
)
def test_looks_refuse(kind: str, strength: float, picture: np.ndarray, message: str) -> None:
    with pytest.raises(LongalignError, match=message):
        worsen(picture, kind, strength, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("stickers", "true"),
    [
        ((Sticker("fox", 0, "red"), Sticker("pig", 4)), 3),
        ((Sticker("fox", 4, "red"), Sticker("pig", 0)), 1),  # swapped: the background alone is right
        ((Sticker("fox", 0, "blue"), Sticker("pig", 4)), 2),  # another disc
        ((Sticker("fox", 0, "red"), Sticker("pig", 4, "blue")), 3),  # a disc that nothing was said of
        ((Sticker("fox", 0, "red"),), 2),  # missing
        ((Sticker("fox", 0, "red"), Sticker("crab", 4)), 2),  # another kind
        ((Sticker("fox", 0, "red"), Sticker("pig", 5)), 2),  # moved
    ],
)
def test_truth_is_the_share_of_true_sentences(stickers: tuple[Sticker, ...], true: int) -> None:
    assert truth(STATED, replace(FOX_AND_PIG, stickers=stickers)) == true / 3


def test_alter_makes_each_of_the_six_mistakes() -> None:
    """Told by what is left: another ground; fewer stickers; another set of kinds; other discs; kinds in other cells."""
    shown, made = FOX_AND_PIG, set()
    rng = np.random.default_rng(0)
    before = {(s.kind, s.disc): s.cell for s in shown.stickers}
    for _ in range(100):
        altered = alter(shown, rng, {0, None})
        after = {(s.kind, s.disc): s.cell for s in altered.stickers}
        if altered.background != shown.background:
            assert after == before
            made.add("repaint")
        elif len(after) < 2:
            assert list(after) == [("pig", None)]  # it is the fox that is missing
            made.add("remove")
        elif {k for k, _ in after} != {"fox", "pig"}:
            assert after[("pig", None)] == 4
            made.add("replace")
        elif after.keys() != before.keys():
            assert ("fox", "red") not in after and after[("pig", None)] == 4
            made.add("recolour")
        elif after == {("fox", "red"): 4, ("pig", None): 0}:
            made.add("swap")
        else:
            assert after[("pig", None)] == 4 and after[("fox", "red")] not in (0, 4)
            made.add("move")
    assert made == set(CHANGES)


def test_a_ground_that_nobody_spoke_of_stays() -> None:
    rng = np.random.default_rng(0)
    assert {alter(FOX_AND_PIG, rng, {0}).background for _ in range(50)} == {FOX_AND_PIG.background}
    assert (
        len({alter(FOX_AND_PIG, rng).background for _ in range(200)}) == 5
    )  # anywhere: all five colours come up


@pytest.mark.parametrize(
    "start", [FOX_AND_PIG, Scene("white", (Sticker("fox", 8),)), scene(0, objects=(9, 9))]
)
def test_scenes_stay_scenes(start: Scene) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        shown = start
        for _ in range(4):
            shown = alter(shown, rng, {0, 1})
            assert shown.stickers
            assert (
                len({s.cell for s in shown.stickers})
                == len(shown.stickers)
                == len({s.kind for s in shown.stickers})
            )


def test_a_pair_depends_on_split_seed_and_index_alone() -> None:
    def same(one: object, other: object) -> bool:
        return all(
            np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
        )

    some, more = RaterPairs(4), RaterPairs(1000)
    assert all(same(some[i], more[i]) for i in (3, 1, 0))
    assert not same(some[0], some[1])
    assert not same(some[0], RaterPairs(4, seed=1)[0])
    assert not same(some[0], RaterPairs(4, "validation")[0])
    with pytest.raises(IndexError):
        some[4]


def test_pairs_stay_what_they_were() -> None:
    """The shipped preference model was trained on these pairs: a draw more, or in another order, would change them."""
    pairs = RaterPairs(200)
    planned = "\n".join(repr(pairs.plan(index)) for index in range(200))
    assert hashlib.sha256(planned.encode()).hexdigest()[:16] == "078f061b547f2b05"


def test_texts_say_what_is_asked_for_and_what_is_there() -> None:
    """Read back from the text alone: every caption is wholly true, and the prompt as true as `truth` says."""
    pairs, tokenizer, cut = RaterPairs(40), make_clip_tokenizer(), Segmenter()
    for i in range(40):
        row, (_, a, b, preferred) = pairs[i], pairs.plan(i)
        assert (row.preferred, row.truth_a, row.looks_b) == (preferred, a.truth, -b.strength)
        assert pairs.texts(i) == [row.caption_a, row.caption_b]
        assert len(tokenizer(row.prompt).input_ids) <= 77
        for version in (a, b):
            said = parse_all([s.text for s in cut(version.caption)])
            assert len(said) == len(version.scene.stickers) + 1
            assert all(fact is not None and is_true(fact, version.scene) for fact in said)
            asked = [fact for fact in parse_all([s.text for s in cut(row.prompt)]) if fact is not None]
            assert 2 <= len(asked) <= 5
            assert version.truth == sum(is_true(fact, version.scene) for fact in asked) / len(asked)


def test_pictures_are_those_of_the_versions() -> None:
    pairs = RaterPairs(30)
    for i in range(30):
        row, (_, a, b, _) = pairs[i], pairs.plan(i)
        for image, version in ((row.image_a, a), (row.image_b, b)):
            assert np.array_equal(image, render_array(version.scene)) == (version.strength == 0)


def test_chances_of_raters() -> None:
    """Utilities 8·1 + 6·(−½) = 5 and 8·¼ + 6·0 = 2 differ by 3. With τ = 0.3: σ(2.7) = 1/(1 + e^−2.7) = 0.9370,
    σ(−3.3) = 0.0356, a tie in the remaining 0.0275 of cases."""
    raters = Raters(w_truth=8, w_looks=6, tie=0.3)
    u_a, u_b = raters.utility(1, -0.5), raters.utility(0.25, 0)
    assert (u_a, u_b) == (5, 2)
    chances = raters.chances(u_a, u_b)
    assert chances == pytest.approx((0.93703, 0.03557, 0.02740), abs=1e-5)
    assert Raters(tie=0).chances(1, 1) == pytest.approx((0.5, 0.5, 0))
    rng = np.random.default_rng(0)
    rated = [raters.rate(u_a, u_b, rng) for _ in range(4000)]
    for rating, chance in zip((1, 0, 0.5), chances, strict=True):
        deviation = (chance * (1 - chance) / 4000) ** 0.5
        assert rated.count(rating) / 4000 == pytest.approx(chance, abs=4 * deviation)


def test_without_siblings_truth_and_looks_decide_about_equally() -> None:
    """On 2,000 pairs: truth 42 %, looks 40 %, noise 12 %, ties 5 %. Here 500, so within 4·√(¼/500) = 9 %."""
    found = balance(RaterPairs(500, siblings=0))
    assert found["by_truth"] == pytest.approx(0.42, abs=0.09)
    assert found["by_looks"] == pytest.approx(0.40, abs=0.09)
    assert found["by_truth"] + found["by_looks"] + found["by_noise"] + found["ties"] == pytest.approx(1)
    assert 0.82 < found["best"] < 0.92
    assert found["truth_only"] > 0.04 and found["looks_only"] > 0.2


def test_siblings_differ_in_one_mistake_alone() -> None:
    """One mistake changes one sticker, two swapped ones, or the background; looks stay, whoever comes first."""
    pairs = RaterPairs(60, siblings=1)
    first = 0
    for index in range(60):
        _, a, b, _ = pairs.plan(index)
        assert (a.kind, a.strength) == (b.kind, b.strength)
        changed = set(a.scene.stickers) ^ set(b.scene.stickers)
        repainted = a.scene.background != b.scene.background
        assert (len(changed), repainted) in {(0, True), (1, False), (2, False), (4, False)}
        first += a.truth > b.truth
    assert 5 < first < 55


def test_siblings_come_as_often_as_asked() -> None:
    """40 % of 500, within 4·√(0.24/500) = 9 %; others have the same looks by chance only when both are clean."""
    pairs = RaterPairs(500, clean=0)
    alike = [a.strength == b.strength for _, a, b, _ in map(pairs.plan, range(500))]
    assert np.mean(alike) == pytest.approx(0.4, abs=0.09)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "at least one pair"),
        ({"split": "dev"}, "split 'dev' is unknown; There are train"),
        ({"objects": (0, 9)}, "objects must be a range within 1–9"),
        ({"stated": (2, 6)}, "stated must be a range within 1–5, not 2–6"),
        ({"changes": (3, 1)}, "changes must be a range"),
    ],
)
def test_raters_refuse(arguments: dict, message: str) -> None:
    with pytest.raises(LongalignError, match=message):
        RaterPairs(**{"count": 5, **arguments})
