"""`edit` from pictures and texts to pictures, on tiny pipelines of every family; the command and its run folder."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from PIL import Image
from tiny import tiny_sd3, tiny_sd15, tiny_sdxl
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.diffusion.pipelines import (
    ModelSettings,
    settings_of,
)
from longalign.editing.edit import EditResult, edit, edit_many, options_for, own_settings
from longalign.editing.pictures import difference
from longalign.editing.run import EditConfig, run_edit
from longalign.errors import LongalignError
from longalign.soft_tokens import SoftTokenConfig, SoftTokens
from longalign.stickers import folder
from longalign.stickers.world import render
from longalign.studies.edit_scenes import scene_edits

CAT, DOG = "a cat sits on the red disc.", "a dog sits on the red disc."
FAMILIES = {"sd15": tiny_sd15, "sdxl": tiny_sdxl, "sd3": tiny_sd3}


def noise_picture(side_px: int = 32, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), np.uint8))


def pixels(result: EditResult) -> np.ndarray:
    return np.asarray(result.image, np.int16)


@pytest.fixture(scope="module")
def sd15() -> Any:
    return tiny_sd15()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_method(family: str) -> None:
    """Same arguments, same picture; another target, another picture; soft tokens take part, and come off again."""
    pipe = FAMILIES[family]()
    backbone = pipe.transformer if family == "sd3" else pipe.unet
    methods = ("flowedit", "flowedit-x0", "ddim") if family == "sd3" else ("flowedit-x0", "ddim")
    for method in methods:

        def run(target: str = DOG, method: str = method) -> EditResult:
            return edit(pipe, noise_picture(), CAT, target, method=method, steps=2, length=77)

        made = run()
        assert made.image.size == made.before.size == made.difference.size == (32, 32)
        assert made.options.method == method
    assert options_for(pipe).method == methods[0]
    tokens = SoftTokens(SoftTokenConfig.of(backbone))
    with torch.no_grad():
        [p.normal_(std=3) for p in tokens.parameters()]
    with tokens.attach(backbone, branches="cond"):
        assert not np.array_equal(pixels(run()), pixels(made))
    assert np.array_equal(pixels(run()), pixels(made))
    assert not np.array_equal(pixels(run("the house is near a tree.")), pixels(made))


def test_a_pipeline_that_was_loaded_from_a_path() -> None:
    """diffusers keeps the `Path` as its name; the folder's own settings are found by it all the same."""
    pipe = StableDiffusionPipeline.from_pretrained(folder())
    assert isinstance(pipe.name_or_path, Path)
    assert own_settings(pipe) == settings_of("stickers")
    now, then = "A fox is in the middle.", "A pig is in the middle."
    assert edit(pipe, noise_picture(96), now, then, steps=1).image.size == (96, 96)


def test_a_picture_does_not_depend_on_its_neighbours(sd15: Any) -> None:
    """Targets of two padded lengths (16 and 32 tokens), three at a time, against each alone; to one grey level."""
    images = [noise_picture(seed=i) for i in range(3)]
    targets = [DOG, " ".join([DOG] * 3), DOG]
    options = options_for(sd15, ModelSettings(guidance=3.0), method="flowedit-x0", steps=3)
    calls: list[int] = []
    together = edit_many(
        sd15, images, [CAT] * 3, targets, [4, 5, 6], options, length=16, batch_size=2, on_step=calls.append
    )
    assert sum(calls) == 3 * options.calls and set(calls) == {1, 2}
    for i, made in enumerate(together):
        [alone] = edit_many(sd15, [images[i]], [CAT], [targets[i]], [4 + i], options, length=16)
        assert np.abs(pixels(alone) - pixels(made)).max() <= 1
    assert np.abs(pixels(together[0]) - pixels(together[2])).max() > 1


def test_no_step_gives_the_picture_through_the_vae(sd15: Any) -> None:
    """And the noise plays no part in it."""
    a, b = (edit(sd15, noise_picture(), CAT, DOG, start=0, seed=s, length=77) for s in (0, 1))
    assert np.array_equal(pixels(a), pixels(b))


def test_a_picture_of_another_size(sd15: Any) -> None:
    """48 × 40 is refused, and with `resize` cut to its middle 40 × 40 and resized."""
    wide = Image.new("RGB", (48, 40), "red")
    wide.paste("blue", (4, 0, 44, 40))
    with pytest.raises(LongalignError, match=r"48 × 40 pixels, and this model edits 32 × 32.*--resize"):
        edit(sd15, wide, CAT, DOG, length=77)
    made = edit(sd15, wide, CAT, DOG, start=0, resize=True, length=77)
    assert made.before.size == (32, 32) and np.asarray(made.before)[..., 0].max() < 16  # no red is left


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        (CAT, CAT, "same text, so there is nothing to change"),
        (CAT, f" {CAT}\n", "same text"),
        (CAT, " ", "target is empty"),
        ("", DOG, "source is empty"),
    ],
)
def test_texts_that_change_nothing(sd15: Any, source: str, target: str, says: str) -> None:
    with pytest.raises(LongalignError, match=says):
        edit(sd15, noise_picture(), source, target)


def test_files_that_are_no_pictures(sd15: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    for name, says in (("none.png", "no such image file"), ("a.png", "is no picture")):
        with pytest.raises(LongalignError, match=says):
            edit(sd15, tmp_path / name, CAT, DOG)
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    with pytest.raises(LongalignError, match=r"small\.png has 8 × 8 pixels"):
        edit(sd15, tmp_path / "small.png", CAT, DOG, length=77)
    with pytest.raises(LongalignError, match="needs one of each"):
        edit_many(sd15, [noise_picture()], [CAT], [DOG], [], options_for(sd15, ModelSettings(guidance=1.0)))


def test_the_difference_is_stretched_to_white() -> None:
    """Changes of 10 in red and 5 in green: 255 and 127 or 128; none: black."""
    before = Image.new("RGB", (3, 1))
    after = before.copy()
    after.putpixel((0, 0), (10, 3, 0))
    after.putpixel((1, 0), (0, 5, 0))
    assert list(difference(before, after).getdata()) == [255, 128, 0]
    assert set(difference(before, before).getdata()) == {0}


EDIT = scene_edits(1)[0]
QUICK = EditConfig(steps=2, device="cpu")


def test_the_command_writes_a_run_folder(tmp_path: Path) -> None:
    """In-process: the picture is twice the model's size, so it is resized and the page says so."""
    render(EDIT.before).resize((192, 192)).save(tmp_path / "scene.png")
    (tmp_path / "target.txt").write_text(EDIT.target)
    arguments = ["edit", str(tmp_path / "scene.png"), "--source", EDIT.source, "--resize", "--steps", "2"]
    arguments += [
        "--target",
        f"@{tmp_path / 'target.txt'}",
        "--scorer",
        "stickers/denscore",
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run"), "--json"])
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert {f.name for f in (tmp_path / "run" / "images").iterdir()} == {
        "before.png",
        "after.png",
        "difference.png",
    }
    assert len(made["sentences"]["target"]) == len(EDIT.after.stickers) + 1
    for row in made["sentences"]["source"]:
        assert row["marks"]["before"] == "true" and set(row["scores"]) == {"before", "after"}
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["method"] == "flowedit-x0" and config["target"] == EDIT.target and config["start"] == 0.8
    page = (tmp_path / "run" / "report.html").read_text()
    assert made["verdict"].startswith(("The change happened", "The change did not happen"))
    assert html.escape(made["verdict"], quote=False) in page
    assert "middle square of 192 × 192" in page and page.count(EDIT.target.split(". ")[0]) >= 2


def test_an_edit_with_soft_tokens_and_without(tmp_path: Path) -> None:
    """At scale 0 they change nothing, at scale 1 something."""
    pipe = QUICK.load()
    tokens = SoftTokens(SoftTokenConfig.of(pipe.unet))
    with torch.no_grad():
        tokens.tokens.normal_(std=3)
    tokens.save(tmp_path / "model")  # as `longalign train` leaves a run folder
    plain = run_edit(render(EDIT.before), EDIT.source, EDIT.target, QUICK, out=tmp_path / "plain", pipe=pipe)
    found = {}
    for scale in (0.0, 1.0):
        config = EditConfig(
            steps=2,
            device="cpu",
            soft_tokens=str(tmp_path),
            soft_token_scale=scale,
            soft_token_branches="cond",
        )
        made = run_edit(render(EDIT.before), EDIT.source, EDIT.target, config, out=tmp_path / str(scale))
        found[scale] = pixels(made.result)
        assert yaml.safe_load((made.folder / "config.yaml").read_text())["soft_token_scale"] == scale
    assert np.array_equal(found[0.0], pixels(plain.result))
    assert not np.array_equal(found[1.0], found[0.0])
    assert "soft tokens" in (tmp_path / "1.0" / "report.html").read_text()


def test_wrong_input_makes_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="same text"):
        run_edit(render(EDIT.before), EDIT.source, EDIT.source, QUICK, out=tmp_path / "run")
    with pytest.raises(LongalignError, match="edits 96 × 96"):
        run_edit(noise_picture(), EDIT.source, EDIT.target, QUICK, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
