"""Captions by a stand-in for a vision-language model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from captioned_files import COLOURS, pictures, png
from file_limit import file_limit
from PIL import Image
from tiny_vlm import save_llava
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.data.entries import CaptionedPicture
from longalign.data.recaption import Captioner, caption_pictures
from longalign.data.sources import (
    open_source,
)
from longalign.errors import Interrupted, LongalignError


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
    with pytest.raises(
        Interrupted, match=r"16 of 40 pictures are done; .*killed\.parts\. The same command goes on"
    ):
        caption_pictures([folder], out, Dies(), batch_size=2)
    assert not out.exists() and (tmp_path / "killed.parts/000000.jsonl").is_file()
    with pytest.raises(LongalignError, match="run with another batch_size"):
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


class Separated(Words):
    """Its captions hold characters at which `str.splitlines` cuts."""

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        return [f"{text}\u2028\x85Another \x0b paragraph." for text in super().__call__(images)]


def stopped(folder: Path, out: Path, **options: Any) -> None:
    """A round of three pictures, one a block, in which the last one is missing."""

    class Dies(Separated):
        def __call__(self, images: Sequence[Image.Image]) -> list[str]:
            if self.seen == 2:
                raise KeyboardInterrupt
            return super().__call__(images)

    with pytest.raises(Interrupted):
        caption_pictures([folder], out, Dies(), batch_size=1, **options)


def test_a_round_goes_on_with_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model, and the same file of captions: what was captioned is never thrown away. From elsewhere, too."""
    monkeypatch.setattr("longalign.data.recaption._BATCHES", 1)
    folder, out = pictures(tmp_path / "data"), tmp_path / "out.jsonl"
    out.write_text('{"file_name": "other.png", "text": "Other."}\n')
    model = {"model": "one", "max_new_tokens": 8}
    stopped(folder, out, settings=model)
    with pytest.raises(LongalignError, match="run with another model and max_new_tokens"):
        caption_pictures([folder], out, Words(), batch_size=1, settings={"model": "two", "max_new_tokens": 9})
    before = out.read_bytes()
    out.write_text("")
    with pytest.raises(LongalignError, match=r"out\.jsonl: was changed .*whose captions are in .*out\.parts"):
        caption_pictures([folder], out, Words(), batch_size=1, settings=model)
    out.write_bytes(before)
    shutil.copytree(tmp_path / "out.parts", tmp_path / "saved")
    monkeypatch.chdir(folder)
    words = Separated()
    report = caption_pictures(["."], out, words, batch_size=1, settings=model)
    assert (report.written, words.seen) == (3, 1)
    rows = [json.loads(line) for line in out.read_text().split("\n") if line]
    assert [row["file_name"] for row in rows] == ["other.png", "data/a.png", "data/b.png", "data/c.png"]
    assert rows[3]["text"].endswith(".\u2028\x85Another \x0b paragraph.")


def test_a_round_that_was_killed_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its captions were added to the file, while the folder of parts was still there: nothing is added twice."""
    monkeypatch.setattr("longalign.data.recaption._BATCHES", 1)
    folder, out = pictures(tmp_path / "data"), tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr("longalign.data.recaption.shutil.rmtree", lambda folder: None)
        caption_pictures([folder], out, Separated(), batch_size=1)
    assert (tmp_path / "out.parts").is_dir()
    whole = out.read_bytes()
    (tmp_path / ".out-0123abcd.jsonl").write_text("begun")
    report = caption_pictures([folder], out, Words(), batch_size=1)
    assert (report.written, report.kept) == (0, 3)
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out.jsonl"]


def test_a_full_disk_keeps_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for each part, and none for all captions together."""
    monkeypatch.setattr("longalign.data.recaption._BATCHES", 1)
    folder, out = pictures(tmp_path / "data"), tmp_path / "out.jsonl"
    with file_limit(1500), pytest.raises(LongalignError, match=r"Cannot write .*out\.jsonl"):
        caption_pictures([folder], out, lambda images: ["x" * 1000], batch_size=1)
    assert not out.exists()
    words = Words()
    assert caption_pictures([folder], out, words, batch_size=1).written == 3
    assert words.seen == 0 and out.read_text().count("x" * 1000) == 3


def test_pictures_of_a_world_are_named_by_their_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other options mean other pictures; a folder of the world's name is meant first."""
    pictures(tmp_path / "stickers")
    monkeypatch.chdir(tmp_path)
    assert caption_pictures(["stickers"], "folder.jsonl", Words()).written == 3
    out = tmp_path / "out.jsonl"
    report = caption_pictures(["stickers:1", "stickers:1:seed=1", "stickers:2"], out, Words())
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    names = ["stickers/000000", "stickers:seed=1/000000", "stickers/000001"]
    assert [row["file_name"] for row in rows] == names and report.written == 3


def test_the_command_captions_by_a_model_in_a_folder(tmp_path: Path) -> None:
    """A LLaVA of random weights. A second call finds nothing to do; a new picture is captioned alone."""
    folder, model = pictures(tmp_path / "data"), save_llava(tmp_path / "llava")
    given = [
        "caption",
        str(folder),
        "--model",
        str(model),
        "--max-new-tokens",
        "4",
        "--device",
        "cpu",
        "--json",
    ]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "written": 3,
        "kept": 0,
        "skipped": 0,
        "out": str(folder / "metadata.jsonl"),
    }
    before = (folder / "metadata.jsonl").read_bytes()
    assert len(before.splitlines()) == 3
    (folder / "d.png").write_bytes(png((1, 2, 3)))
    again = json.loads(CliRunner().invoke(app, given).stdout)
    assert (again["written"], again["kept"]) == (1, 3)
    assert (folder / "metadata.jsonl").read_bytes().startswith(before)


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
