"""Scenes, captions and lies."""

from __future__ import annotations

import numpy as np
import pytest

from longalign.stickers import captions as c
from longalign.stickers.changes import swap
from longalign.stickers.tokenizers import words
from longalign.stickers.world import (
    BACKGROUNDS,
    CELL_PX,
    KIND_NAMES,
    POSITIONS,
    SCENE_PX,
    Scene,
    Sticker,
    draw_cell,
    render,
    render_array,
    scene,
)

ONE = Scene("navy", (Sticker("fox", 0, "red"), Sticker("star", 4)))


def test_there_are_at_least_24_kinds() -> None:
    assert len(KIND_NAMES) >= 24


def test_a_scene_depends_on_its_number_split_and_seed() -> None:
    assert scene(7) == scene(7)
    others = {scene(8), scene(7, split="test"), scene(7, split="validation"), scene(7, seed=1)}
    assert len(others) == 4 and scene(7) not in others


def test_scenes_of_different_splits_are_different() -> None:
    """Of 300 crowded scenes a split, none is in another: there are about 10^15 of seven stickers or more."""
    splits = [
        {scene(i, objects=(7, 9), split=s) for i in range(300)} for s in ("train", "validation", "test")
    ]
    assert not (splits[0] & splits[1] or splits[0] & splits[2] or splits[1] & splits[2])


def test_stickers_of_a_scene_differ_in_kind_and_cell() -> None:
    for i in range(100):
        stickers = scene(i, objects=(9, 9)).stickers
        assert len({s.kind for s in stickers}) == len({s.cell for s in stickers}) == 9


def test_the_number_of_stickers_covers_its_range() -> None:
    assert {len(scene(i, objects=(2, 4)).stickers) for i in range(100)} == {2, 3, 4}


def test_render_puts_each_cell_where_it_belongs() -> None:
    pixels = render_array(ONE)
    assert pixels.shape == (SCENE_PX, SCENE_PX, 3)
    assert np.array_equal(pixels[:CELL_PX, :CELL_PX], np.asarray(draw_cell("navy", "fox", "red")))
    middle = slice(CELL_PX, 2 * CELL_PX)
    assert np.array_equal(pixels[middle, middle], np.asarray(draw_cell("navy", "star")))
    assert (pixels[:CELL_PX, CELL_PX:] == BACKGROUNDS["navy"]).all()


def test_render_at_another_size() -> None:
    assert render(ONE, cell_px=64).size == (192, 192)


def test_a_caption_states_each_fact_once() -> None:
    said = c.caption(ONE, 0)
    assert sorted(map(repr, (s.fact for s in said))) == sorted(map(repr, c.facts(ONE)))
    assert c.text_of(said).count(".") == 3


def test_full_captions_have_10_sentences_and_more_than_77_tokens() -> None:
    """Nine stickers and the background; a sentence is at least eight tokens, of which five name its place."""
    from longalign.stickers.tokenizers import make_clip_tokenizer

    tokenizer = make_clip_tokenizer()
    for i in range(20):
        said = c.caption(scene(i, objects=(9, 9)), i)
        assert len(said) == 10
        assert 77 < len(tokenizer(c.text_of(said), verbose=False).input_ids) <= 160


@pytest.mark.parametrize("referring", [False, True])
def test_parse_reads_back_every_caption(referring: bool) -> None:
    for i in range(200):
        said = c.caption(scene(i, objects=(0, 9)), i, referring=referring)
        assert c.parse_all([s.text for s in said]) == [s.fact for s in said]


def test_referring_captions_say_discs_in_a_second_sentence() -> None:
    said = c.caption(ONE, 0, referring=True)
    [about_disc] = [s for s in said if s.fact.kind is None and s.fact.disc]
    assert "fox" not in about_disc.text and about_disc.fact == c.Fact(cell=0, disc="red")
    assert said[said.index(about_disc) - 1].fact == c.Fact(kind="fox", cell=0)


def test_parse_knows_what_it_does_not_know() -> None:
    assert c.parse("A red fox sits on a log.") is None  # no place
    assert c.parse("It stands on a red disc.") is None  # nothing before it
    assert c.parse("") is None
    assert c.parse("A FOX is in the Top Left.") == c.Fact(kind="fox", cell=0)


def test_middle_left_is_not_the_middle() -> None:
    assert c.parse("A fox is in the middle left.") == c.Fact(kind="fox", cell=POSITIONS.index("middle left"))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("centre", "middle"),
        ("center", "middle"),
        ("middle of the picture", "middle"),
        ("upper left", "top left"),
        ("top-left corner", "top left"),
        ("top middle", "top centre"),
        ("top center", "top centre"),
        ("lower right", "bottom right"),
        ("bottom middle", "bottom centre"),
        ("center left", "middle left"),
        ("Centre Right", "middle right"),
    ],
)
def test_places_are_read_by_their_usual_names(place: str, name: str) -> None:
    """The oracle's reading alone: captions and vocabularies keep the names of `POSITIONS`."""
    assert c.parse(f"A crab is in the {place}.") == c.parse(f"A crab is in the {name}.")
    assert c.parse(f"A crab is in the {name}.") == c.Fact(kind="crab", cell=POSITIONS.index(name))
    assert "center" not in words() and "upper" not in words()


def test_the_centre_of_something_else_is_not_the_centre() -> None:
    assert c.parse("A crab is in the centre of the top row.") is None


def test_facts_are_true_and_lies_are_false() -> None:
    rng = np.random.default_rng(0)
    for i in range(200):
        drawn = scene(i, objects=(1, 9))
        for fact in c.facts(drawn):
            lie = c.lie(drawn, fact, rng)
            assert c.is_true(fact, drawn) and not c.is_true(lie, drawn)
            changed = [k for k in fact.__slots__ if getattr(fact, k) != getattr(lie, k)]
            assert len(changed) == 1


def test_lies_change_kinds_places_discs_and_backgrounds() -> None:
    rng = np.random.default_rng(0)
    changed = set()
    for i in range(50):
        drawn = scene(i, objects=(3, 5))
        for fact in c.facts(drawn):
            lie = c.lie(drawn, fact, rng)
            changed |= {k for k in fact.__slots__ if getattr(fact, k) != getattr(lie, k)}
    assert changed == {"kind", "cell", "disc", "background"}


def test_swap_exchanges_two_cells() -> None:
    swapped = swap(ONE, 0, 4)
    assert swapped.at(4) == Sticker("fox", 4, "red") and swapped.at(0) == Sticker("star", 0)
    assert swap(swapped, 4, 0) == ONE
