"""Prompts and settings in picture files: ours, A1111's and ComfyUI's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from longalign.errors import LongalignError
from longalign.picture_info import PictureInfo, png_text, prompt_of, read_info


def png(path: Path, **chunks: str) -> Path:
    info = PngImagePlugin.PngInfo()
    for key, value in chunks.items():
        info.add_text(key, value)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def test_ours_is_read_back_whole(tmp_path: Path) -> None:
    made = PictureInfo(
        "A fox, “red”.\nA log: brown.", "blurry, dark", {"steps": 25, "seed": 3, "model": "a,b"}
    )
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=png_text(made))
    assert read_info(tmp_path / "a.png") == made


def test_ours_is_read_by_those_who_know_a1111(tmp_path: Path) -> None:
    """Without our own chunk, the other says the same of the prompt and the settings that A1111 has names for."""
    made = PictureInfo("A fox.\nA log.", "blurry", {"steps": 25, "seed": 3, "model": "a, b", "guidance": 7.5})
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=png_text(made))
    with Image.open(tmp_path / "a.png") as image:
        text = image.info["parameters"]
    assert (
        text == 'A fox.\nA log.\nNegative prompt: blurry\nSteps: 25, Seed: 3, Model: "a, b", CFG scale: 7.5'
    )
    found = read_info(png(tmp_path / "b.png", parameters=text))
    assert found is not None and found.source == "a1111"
    assert (found.prompt, found.negative_prompt) == (made.prompt, "blurry")
    assert found.settings == {"Steps": "25", "Seed": "3", "Model": "a, b", "CFG scale": "7.5"}


def test_a1111_without_a_negative_prompt(tmp_path: Path) -> None:
    found = read_info(
        png(tmp_path / "a.png", parameters="a (red:1.2) fox\nSteps: 20, Sampler: Euler a, Size: 512x512")
    )
    assert found is not None
    assert found.prompt == "a (red:1.2) fox" and found.negative_prompt is None
    assert found.settings["Sampler"] == "Euler a"


def test_comfyui_follows_the_sampler(tmp_path: Path) -> None:
    """The positive input leads over a LoRA's node to the text; another text in the graph is longer and is not it."""
    graph = {
        "3": {
            "class_type": "KSampler",
            "inputs": {"seed": 5, "positive": ["8", 0], "negative": ["7", 0], "steps": 20},
        },
        "8": {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["6", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
        "9": {"class_type": "Note", "inputs": {"text": "this is a long note about nothing"}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x"}},
    }
    found = read_info(png(tmp_path / "a.png", prompt=json.dumps(graph)))
    assert found is not None and found.source == "comfyui"
    assert (found.prompt, found.negative_prompt, found.settings["seed"]) == ("a red fox", "blurry", 5)


@pytest.mark.parametrize("text", ["[1, 2]", "{oops", '{"1": {"inputs": {"positive": ["1", 0]}}}', "[" * 5000])
def test_hostile_graphs_say_nothing(tmp_path: Path, text: str) -> None:
    assert read_info(png(tmp_path / "a.png", prompt=text)) is None


def test_pictures_without_a_prompt(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match=r"has no prompt in it .*give the prompt itself"):
        prompt_of(png(tmp_path / "a.png"))
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(LongalignError, match="cannot be read as a picture"):
        prompt_of(tmp_path / "b.png")
    with pytest.raises(LongalignError, match="no such image file"):
        prompt_of(tmp_path / "c.png")


def test_jpeg_comment(tmp_path: Path) -> None:
    """A1111 writes its parameters into the Exif block of JPEG files."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a red fox\nSteps: 20".encode("utf-16-be")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=exif)
    found = read_info(tmp_path / "a.jpg")
    assert found is not None and found.prompt == "a red fox" and found.settings == {"Steps": "20"}
