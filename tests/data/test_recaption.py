"""Captions by a stand-in for a vision-language model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from captioned_files import COLOURS, pictures, png
from PIL import Image

from longalign.data.entries import CaptionedPicture
from longalign.data.recaption import Captioner, caption_pictures
from longalign.data.sources import (
    open_source,
)
from longalign.errors import LongalignError


class Words:
    """Says the colour of the first pixel, and counts."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        self.seen += len(images)
        return [f"It is {image.getpixel((0, 0))}." for image in images]


def test_captions_become_metadata_that_training_reads(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "data")
    out = folder / "metadata.jsonl"
    words = Words()
    assert vars(caption_pictures([folder], out, words, batch_size=2)) == {
        "written": 3,
        "kept": 0,
        "skipped": 0,
    }
    found = [e for e in open_source(folder) if isinstance(e, CaptionedPicture)]
    assert [e.text for e in found] == [f"It is {c}." for c in COLOURS.values()]
    assert found[0].picture().size == (8, 8)


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """The second line was cut off when the machine went down: it is written anew, the first is kept."""
    folder = pictures(tmp_path)
    out = tmp_path / "captions.jsonl"
    out.write_text('{"file_name": "a.png", "text": "Kept."}\n{"file_name": "b.png", "te')
    words = Words()
    report = caption_pictures([folder], out, words)
    assert (report.written, report.kept, words.seen) == (2, 1, 2)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["file_name"] for r in rows] == ["a.png", "b.png", "c.png"] and rows[0]["text"] == "Kept."


def test_what_cannot_be_captioned(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i:02d}.png").write_bytes(png((i, 0, 0)))
    (tmp_path / "05.png").write_bytes(b"no picture")

    def silent_on_seven(images: Sequence[Image.Image]) -> list[str]:
        return ["" if i.getpixel((0, 0)) == (7, 0, 0) else "Text." for i in images]

    report = caption_pictures([tmp_path], tmp_path / "metadata.jsonl", silent_on_seven, batch_size=40)
    assert (report.written, report.skipped) == (38, 2)
    skipped = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert {s["name"]: s["reason"] for s in skipped}["07.png"] == "the model wrote nothing"
    with pytest.raises(LongalignError, match="no such file or folder"):
        caption_pictures([tmp_path / "none"], tmp_path / "x.jsonl", silent_on_seven)
    (tmp_path / "bad.jsonl").write_text("[1]\n")
    with pytest.raises(LongalignError, match="is no JSONL with file_name"):
        caption_pictures([tmp_path], tmp_path / "bad.jsonl", silent_on_seven)


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """40 pictures in blocks of 8 × 2: the captioner dies in its 11th batch, in block 1. Only blocks 1 and 2 are done
    again, and the files are those of an undisturbed run. A picture that comes later has a round of its own."""
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02d}.png").write_bytes(png((i, 0, 0)))
    (folder / "21.png").write_bytes(b"no picture")
    whole = tmp_path / "whole.jsonl"
    caption_pictures([folder], whole, Words(), batch_size=2)
    listed = (tmp_path / "skipped.jsonl").read_bytes()

    class Dies(Words):
        def __call__(self, images: Sequence[Image.Image]) -> list[str]:
            if self.seen >= 20:
                raise KeyboardInterrupt
            return super().__call__(images)

    out = tmp_path / "killed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        caption_pictures([folder], out, Dies(), batch_size=2)
    assert not out.exists() and (tmp_path / "killed.parts/000000.jsonl").is_file()
    with pytest.raises(LongalignError, match="another --batch-size"):
        caption_pictures([folder], out, Words(), batch_size=4)
    words = Words()
    report = caption_pictures([folder], out, words, batch_size=2)
    assert (report.written, report.skipped, words.seen) == (39, 1, 23)
    assert out.read_bytes() == whole.read_bytes()
    assert (tmp_path / "skipped.jsonl").read_bytes() == listed
    assert not (tmp_path / "killed.parts").exists()
    (folder / "21.png").write_bytes(png((21, 0, 0)))
    again = caption_pictures([folder], out, words, batch_size=2)
    assert (again.written, again.kept) == (1, 39)
    assert json.loads(out.read_text().splitlines()[-1])["file_name"] == "data/21.png"


def test_pictures_of_a_world_are_captioned(tmp_path: Path) -> None:
    """By a work that went through pickle, as Ray sends it."""
    out = tmp_path / "out.jsonl"
    report = caption_pictures(["stickers:3"], out, load=Words, batch_size=2)
    assert report.written == 3
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["file_name"] for r in rows] == ["stickers/000000", "stickers/000001", "stickers/000002"]


def test_the_model_is_asked_by_its_chat_template() -> None:
    """A processor that turns each chat into 3 ids, a model that adds 2 to them: only those 2 are the answer."""
    seen: dict[str, Any] = {}

    class Inputs(dict):
        def to(self, *_: Any) -> Inputs:
            return self

    class Processor:
        tokenizer = type("Tokenizer", (), {"padding_side": "right"})()
        chat_template = "a template"

        def apply_chat_template(self, talks: Any, **options: Any) -> list[str]:
            seen.update(talks=talks, options=options)
            return ["Say it."] * len(talks)

        def __call__(self, text: list[str], images: Any, **options: Any) -> Inputs:
            assert images == [[image]] * 2 and options["padding"]
            return Inputs(input_ids=torch.ones(len(text), 3, dtype=torch.long))

        def batch_decode(self, ids: torch.Tensor, skip_special_tokens: bool) -> list[str]:
            assert skip_special_tokens
            return [" ".join(map(str, row)) + "\n" for row in ids.tolist()]

    class Model:
        device, dtype = torch.device("cpu"), torch.float32

        def generate(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
            seen["generate"] = options
            return torch.cat([input_ids, torch.full((len(input_ids), 2), 7)], dim=1)

    image = Image.new("RGB", (4, 4))
    captioner = Captioner(Model(), Processor(), "Say it.", max_new_tokens=9)
    assert captioner([image, image]) == ["7 7", "7 7"]
    content = seen["talks"][1][0]["content"]
    assert content == [{"type": "image", "image": image}, {"type": "text", "text": "Say it."}]
    assert seen["options"]["add_generation_prompt"] and seen["generate"]["max_new_tokens"] == 9
    assert Processor.tokenizer.padding_side == "left"
