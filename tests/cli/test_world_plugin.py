"""A world of somebody else: an installed package with the entry point `world.dice`, used from the command line.

The package is written into a temporary folder with its dist-info, as pip would leave it. Its pictures show a die, its
captions say how many pips there are, and its judge counts them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from longalign import stickers

MODULE = '''
"""Dice: a picture shows one to six pips, and a sentence says how many."""
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from longalign.data.entries import CaptionedPicture, Source
from longalign.worlds import World

WORDS = ("one", "two", "three", "four", "five", "six")
SENTENCE = re.compile(r"The die shows (one|two|three|four|five|six)[.]")


def draw(pips):
    """96 x 96, white, with black squares of 16 x 16, three in a row."""
    picture = np.full((96, 96, 3), 255, np.uint8)
    for k in range(pips):
        y, x = 8 + 32 * (k // 3), 8 + 32 * (k % 3)
        picture[y : y + 16, x : x + 16] = 0
    return Image.fromarray(picture)


class Throws(Source):
    def __init__(self, count, seed):
        self.pips = np.random.default_rng(seed).integers(1, 7, count)

    def __len__(self):
        return len(self.pips)

    def __getitem__(self, index):
        return CaptionedPicture(self.picture(index), self.text(index), f"throw {index}")

    def picture(self, index):
        return draw(int(self.pips[index]))

    def text(self, index):
        return f"The die shows {WORDS[self.pips[index] - 1]}. It is white."


class DiceWorld(World):
    name = "dice"
    models = ("dice",)

    def model_folder(self, model):
        return Path(os.environ["DICE_MODEL"])

    def pictures(self, count, split="train", seed=0, objects=((1, 9),), referring=0.0):
        return Throws(min(count, 6), seed)

    def knows(self, sentences):
        return [SENTENCE.fullmatch(s) is not None for s in sentences]

    def judge(self, image, sentences):
        dark = (np.asarray(image.convert("L")) < 64).sum() / 16**2
        return [
            "unjudged" if (m := SENTENCE.fullmatch(s)) is None
            else "true" if dark == WORDS.index(m[1]) + 1 else "false"
            for s in sentences
        ]
'''


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder on Python's path with the package in it, and the model of its world."""
    (tmp_path / "dice_world.py").write_text(MODULE)
    info = tmp_path / "dice_world-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dice-world\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[longalign.plugins]\nworld.dice = dice_world:DiceWorld\n")
    model = tmp_path / "model"
    model.mkdir()
    for part in stickers.folder().iterdir():
        if part.name != "longalign.json":
            (model / part.name).symlink_to(part)
    (model / "longalign.json").write_text('{"guidance": 2.0, "length": 77, "oracle": "dice"}')
    return tmp_path


def longalign(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "DICE_MODEL": str(site / "model"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "longalign", *arguments]
    return subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_its_judge_marks_what_generate_draws(site: Path) -> None:
    """It knows the first sentence, and not the second; the sticker world's oracle is not asked."""
    prompt = "The die shows five. A fox is in the top left."
    done = longalign(site, "generate", prompt, "--model", "dice", "--steps", "1", "--json")
    assert done.returncode == 0, done.stderr
    marks = [row["marks"]["seed 0"] for row in json.loads(done.stdout)["prompts"][0]["sentences"]]
    assert marks[0] in ("true", "false") and marks[1] == "unjudged"


@pytest.mark.slow
def test_its_pictures_are_scored_by_name(site: Path) -> None:
    """Six throws, two sentences each."""
    done = longalign(site, "score", "--data", "dice", "--json")
    assert done.returncode == 0, done.stderr
    pairs = json.loads(done.stdout)["pairs"]
    assert [pair["image"] for pair in pairs] == [f"throw {i}" for i in range(6)]
    assert all(len(pair["segments"]) == 2 for pair in pairs)


@pytest.mark.slow
def test_a_recipe_trains_on_its_pictures_and_its_judge_evaluates(site: Path) -> None:
    small = ["train.steps=1", "train.batch_size=2", "train.precision='no'", "train.tracker=none"]
    data = ["data.pictures=dice", "data.held_out=dice", "data.held_out_count=4"]
    light = ["supervised.rank=2", "supervised.oracle_scenes=2", "supervised.sample_pictures=1"]
    done = longalign(
        site, "train", "stickers-sft", "model=dice", *data, *small, *light, "--out", "run", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["evaluation"]["true"] <= 1
    captions = [json.loads(line) for line in (site / "run" / "samples.jsonl").read_text().splitlines()]
    assert any("The die shows" in str(row) for row in captions)


def test_an_unknown_world_is_listed_with_the_others(site: Path) -> None:
    code = "from longalign.worlds import WORLDS; WORLDS['dise']"
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert "world 'dise' is unknown; did you mean 'dice'? There are stickers, dice" in done.stderr
