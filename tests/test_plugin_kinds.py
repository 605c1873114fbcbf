"""Sources and preference models of other packages, used from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from plugin_package import install, run_command

CODE = """
from PIL import Image
from longalign.data.entries import CaptionedPicture, Source
from longalign.preference import PreferenceModel


class Squares(Source):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        picture = Image.new("RGB", (96, 96), (80 * index, 0, 0))
        return CaptionedPicture(picture, f"A square. It has number {index}.", f"square {index}")


class Twice(PreferenceModel):
    def text(self, texts, *, truncate=False):
        return super().text([text.lower() for text in texts], truncate=truncate)


def twice(device, dtype):
    made = PreferenceModel.from_pretrained("stickers/clip", device=device, dtype=dtype)
    return Twice(made.clip, made.tokenizer, made.preprocess, made.decomposition)
"""


def test_a_source_is_cached_by_name(tmp_path: Path) -> None:
    """`longalign cache squares` finds the three pictures of the package's source."""
    install(tmp_path, "square_source", CODE, source="squares = Squares")
    done = run_command(tmp_path, "cache", "squares", "--out", "cached", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 3


def test_a_preference_model_scores_by_name(tmp_path: Path) -> None:
    install(tmp_path, "twice_model", CODE, preference="twice = twice")

    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")
    prompt = "The background is navy. A fox is in the top left."
    done = run_command(tmp_path, "score", "a.png", "--prompt", prompt, "--model", "twice", "--json")
    assert done.returncode == 0, done.stderr
    [image] = json.loads(done.stdout)["images"]
    assert len(image["segments"]) == 2
