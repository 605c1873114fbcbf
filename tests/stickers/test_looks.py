"""How good a picture looks, from its pixels alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from longalign.stickers.looks import LOOKS, looks_of, nearest_scene, worsen
from longalign.stickers.oracle import read
from longalign.stickers.world import Scene, Sticker, render, render_array, scene

SCENES = [scene(i, objects=(1, 9), split="test") for i in range(6)]


def test_every_clean_scene_looks_perfect() -> None:
    """Whatever it shows: truth does not enter. A picture of another size is brought to 96 px first."""
    shown = [*SCENES, Scene("navy", ()), Scene("white", (Sticker("ghost", 4, "red"),))]
    assert [looks_of(render_array(s)) for s in shown] == [0] * len(shown)
    for s in shown:
        found, distance = nearest_scene(read(render(s)))
        assert (found.background, set(found.stickers)) == (s.background, set(s.stickers)) and distance < 1e-6
    assert -0.35 < looks_of(render(SCENES[0], cell_px=128)) < 0


@pytest.mark.parametrize("kind", LOOKS)
def test_looks_fall_with_strength(kind: str) -> None:
    """For the mean over scenes at every step; at full strength they are near −1, as `worsen` counts."""
    strengths = (0.0, 0.3, 0.6, 1.0)
    found = np.array(
        [
            [
                looks_of(worsen(render_array(s), kind, strength, np.random.default_rng(i)))
                for strength in strengths
            ]
            for i, s in enumerate(SCENES)
        ]
    )
    assert (np.diff(found.mean(0)) < -0.05).all()
    assert -1.6 < found[:, -1].mean() < -0.5


def test_washed_out_pictures_are_read_as_what_they_were() -> None:
    """Washing moves every colour by 0.6 · strength · (mean − colour), so twice the strength is twice the difference, as
    long as white is not taken for grey, which is nearer to it in the end."""
    for i in range(12):
        clean = render_array(scene(i, objects=(1, 9), split="test"))
        half, full = (
            looks_of(worsen(clean, "washed", strength, np.random.default_rng(0))) for strength in (0.5, 1.0)
        )
        assert full / half == pytest.approx(2, rel=0.06)  # grey levels are rounded


def test_looks_know_nothing_of_truth() -> None:
    """The same blur on another scene costs about as much: the scenes' spread is small against the fall."""
    found = [looks_of(worsen(render_array(s), "noise", 0.5, np.random.default_rng(0))) for s in SCENES]
    assert np.std(found) < 0.15 * abs(np.mean(found))


def test_what_shows_no_scene_looks_bad() -> None:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8))
    assert looks_of(grey) < -1.2
