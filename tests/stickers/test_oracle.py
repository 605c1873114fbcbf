"""The oracle: right on clean and on spoilt pictures, silent where it cannot know."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.report import Estimate, Table
from longalign.stickers.captions import Fact, facts, lie
from longalign.stickers.oracle import judge, read
from longalign.stickers.world import KIND_NAMES, Scene, Sticker, render, scene
from longalign.studies.check import SPOILS, check_oracle

SCENE = Scene("beige", (Sticker("apple", 0, "red"), Sticker("heart", 1, "red"), Sticker("frog", 8)))


def test_verdicts_on_a_clean_picture() -> None:
    picture = render(SCENE)
    asked = [
        Fact(kind="apple", cell=0, disc="red"),
        Fact(kind="heart", cell=0, disc="red"),  # it is next door
        Fact(kind="frog", cell=8),
        Fact(kind="frog", cell=8, disc="green"),  # it has no disc
        Fact(cell=1, disc="red"),
        Fact(kind="frog", cell=5),  # nothing is there
        Fact(background="beige"),
        Fact(background="white"),
    ]
    assert judge(picture, asked) == ["true", "false", "true", "false", "true", "false", "true", "false"]


def test_kinds_reads_every_cell() -> None:
    assert read(render(SCENE)).kinds() == ["apple", "heart", *[None] * 6, "frog"]


@pytest.mark.parametrize("size", [(48, 48), (192, 192), (512, 512)])
def test_pictures_of_other_sizes_are_read(size: tuple[int, int]) -> None:
    assert judge(render(SCENE).resize(size), [Fact(kind="frog", cell=8)]) == ["true"]


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_other_picture_modes_are_read_without_error(mode: str) -> None:
    assert judge(render(SCENE).convert(mode), [Fact(kind="frog", cell=8)])[0] in ("true", "unclear", "false")


def test_noise_is_unclear_not_false() -> None:
    """Pixels in [0, 1] at random are about 1/12 + (distance of the means)² from any template: far beyond NEAR."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    assert set(judge(noise, facts(SCENE))) == {"unclear"}


def test_half_way_between_two_kinds_is_unclear() -> None:
    other = Scene("beige", (Sticker("house", 8),))
    mixed = Image.blend(render(Scene("beige", (Sticker("frog", 8),))), render(other), 0.5)
    assert judge(mixed, [Fact(kind="frog", cell=8), Fact(kind="house", cell=8)]) == ["unclear", "unclear"]


def test_right_on_every_clean_fact_and_lie() -> None:
    rng = np.random.default_rng(0)
    for i in range(150):
        drawn = scene(i, objects=(1, 9), split="validation")
        reading = read(render(drawn))
        for fact in facts(drawn):
            assert reading.judge(fact) == "true"
            assert reading.judge(lie(drawn, fact, rng)) == "false"


def test_check_meets_its_bounds_without_the_vae() -> None:
    """The full check (10,000 sentences, and the VAE) is `longalign stickers check`."""
    table = check_oracle(500, model=None)
    assert [row[0] for row in table.rows] == list(SPOILS)
    for row in table.rows:
        called, unclear = row[3], row[4]
        assert isinstance(called, Estimate) and isinstance(unclear, Estimate)
        assert called.value >= (0.999 if row[0] == "clean" else 0.99)
        assert unclear.value <= (0 if row[0] == "clean" else 0.05)


def test_every_kind_is_told_from_every_other() -> None:
    """24 × 23 questions on single stickers."""
    for kind in KIND_NAMES:
        reading = read(render(Scene("white", (Sticker(kind, 4),))))
        assert [k for k in KIND_NAMES if reading.judge(Fact(kind=k, cell=4)) == "true"] == [kind]


def test_the_check_prints_strict_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of nothing is NaN, which JSON does not have: it becomes null."""
    nothing = Estimate(float("nan"), 0.0, 1.0, 0)
    table = Table("of the oracle", ["pictures", "right"], [["clean", nothing]])
    monkeypatch.setattr("longalign.studies.check.check_oracle", lambda *given, **named: table)
    printed = CliRunner().invoke(app, ["stickers", "check", "--scenes", "0", "--json"])
    [found] = json.loads(printed.stdout)
    [row] = found["rows"]
    assert printed.exit_code == 0 and row["right"]["value"] is None and row["right"]["high"] == 1
