"""`demo`: plain → segments → and the stages that are shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from longalign import lora, stickers
from longalign.columns import (
    PLAIN,
    RFT,
    SEGMENTS,
    SFT,
    Column,
    Drawer,
    draw_columns,
    file_name,
    shipped_columns,
)
from longalign.demo import OBJECTS, demo, demo_steps
from longalign.errors import LongalignError
from longalign.pipelines import load_pipeline, resolve_lora

PROMPTS = ["A fox is in the top left. The background is navy.", "A star is in the middle."]


@pytest.fixture
def ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships no LoRA, whatever this one does; with the embedded model."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "sd15").symlink_to(stickers.folder())
    monkeypatch.setattr(stickers, "folder", lambda name="sd15": tmp_path / "weights" / "sd15")
    return tmp_path / "weights"


def ship(weights: Path, name: str, size: float = 0.5) -> None:
    unet = load_pipeline("stickers", device="cpu").unet
    own = lora.attach(unet, 2, layers=["mid_block.attentions.0.proj_in"])
    torch.manual_seed(len(name))
    with torch.no_grad():
        [p.copy_(size * torch.randn_like(p)) for p in own]
    lora.save(unet, weights / name, base_name="stickers")


def test_demo_in_small(tmp_path: Path, ships: Path) -> None:
    steps: list[int] = []
    made = demo(scenes=2, steps=2, out=tmp_path / "demo", on_step=steps.append)
    assert sum(steps) == demo_steps(2, 2) == 8
    assert made.accuracy.columns == ["", PLAIN, SEGMENTS, "chance"]
    assert all(OBJECTS[0] + 1 <= len(s.segments) <= OBJECTS[1] + 1 for s in made.sentences)
    names = {f.name.split("-", 1)[1] for f in (tmp_path / "demo" / "images").iterdir()}
    assert names == {"reference.png", "plain.png", "clip-cat.png"}
    html = (tmp_path / "demo" / "report.html").read_text()
    assert html.count("data:image/png") >= 6 and "http://" not in html.replace("http://www.w3.org", "")
    assert [row["sentences"] for row in made.to_json()["accuracy"]][-1] == "all sentences"
    json.dumps(made.to_json())


def test_embedded_stages_become_columns_when_they_are_there(tmp_path: Path, ships: Path) -> None:
    with pytest.raises(LongalignError, match=r"stickers/sft is not shipped in this version; train it"):
        resolve_lora("stickers/sft")
    assert list(shipped_columns()) == [PLAIN, SEGMENTS]
    ship(ships, "sft")
    assert list(shipped_columns()) == [PLAIN, SEGMENTS, SFT]
    ship(ships, "reward")
    assert shipped_columns()[RFT] == Column("clip-cat", ("stickers/sft", "stickers/reward"))
    made = demo(scenes=1, steps=1, out=tmp_path / "demo")
    assert made.accuracy.columns == ["", PLAIN, SEGMENTS, SFT, RFT, "chance"]
    pictures = [made.images[c][0].tobytes() for c in (SEGMENTS, SFT, RFT)]
    assert len(set(pictures)) == 3
    assert "trained on long captions" in (tmp_path / "demo" / "report.html").read_text()


def test_the_same_picture_whatever_was_drawn_before(ships: Path) -> None:
    """A stage is taken off again for the next column, and all columns start from the same noise."""
    ship(ships, "sft")
    tuned = Column("clip-cat", ("stickers/sft",))
    sampling = {"length": 77, "steps": 1, "guidance": 2.0}
    found = draw_columns(Drawer(), {"a": Column(), "b": tuned, "c": Column()}, PROMPTS, **sampling)
    assert [x.tobytes() for x in found["a"]] == [x.tobytes() for x in found["c"]]
    assert found["a"][0].tobytes() != found["b"][0].tobytes()


def test_names_of_files() -> None:
    assert file_name(PLAIN, Column("plain")) == "plain"
    assert file_name("clip+t5", Column("clip+t5")) == "clip-t5"
    assert file_name("SFT+RFT (ω=0.3)", Column("clip-cat", ("a",))) == "sft-rft-0.3"
