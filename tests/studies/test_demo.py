"""`demo`: plain → segments → and the stages that are shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from longalign import stickers
from longalign.errors import Interrupted, LongalignError
from longalign.soft_tokens import SoftTokenConfig, SoftTokens, attached
from longalign.studies.compare import (
    PLAIN,
    RFT,
    SEGMENTS,
    SFT,
    SOFT,
    Column,
    Drawer,
    draw_columns,
    file_name,
    shipped_columns,
)
from longalign.studies.demo import OBJECTS, demo, demo_steps
from longalign.weights import lora
from longalign.weights.lora_file import (
    resolve_lora,
)
from longalign.weights.stack import (
    load_pipeline,
)

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


def ship_tokens(weights: Path, name: str = "softrepa", family: str = "sd15") -> SoftTokens:
    """In fp16 and large enough to change pictures."""
    stages = {} if family == "sd3" else {"stages": ("down",)}
    tokens = SoftTokens(SoftTokenConfig(family, 128, **stages))  # type: ignore[arg-type]
    torch.manual_seed(len(name))
    with torch.no_grad():
        [p.copy_(torch.randn_like(p)) for p in tokens.parameters()]
    tokens.half().save(weights / "tokens" / family / name)
    return tokens


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
    assert "trained on pictures with long captions" in (tmp_path / "demo" / "report.html").read_text()


def test_the_same_picture_whatever_was_drawn_before(ships: Path) -> None:
    """A stage is taken off again for the next column, and all columns start from the same noise."""
    ship(ships, "sft")
    tuned = Column("clip-cat", ("stickers/sft",))
    sampling = {"length": 77, "steps": 1, "guidance": 2.0}
    found = draw_columns(Drawer(), {"a": Column(), "b": tuned, "c": Column()}, PROMPTS, **sampling)
    assert [x.tobytes() for x in found["a"]] == [x.tobytes() for x in found["c"]]
    assert found["a"][0].tobytes() != found["b"][0].tobytes()


def test_soft_tokens_are_taken_off_again(ships: Path) -> None:
    """Half their effect, and none, are other pictures than all of it; the pipeline stays the same one."""
    ship_tokens(ships)
    columns = {str(s): Column(soft_tokens="stickers/softrepa", scale=s) for s in (1.0, 0.5, 0.0)}
    drawer, sampling = Drawer(), {"length": 77, "steps": 1, "guidance": 2.0}
    found = draw_columns(drawer, {**columns, "none": Column()}, PROMPTS[:1], **sampling)
    whole, half, nothing, without = (found[label][0].tobytes() for label in found)
    assert nothing == without and len({whole, half, without}) == 3
    pipe = drawer.pipe()
    assert attached(pipe.unet) is None
    drawer.draw(columns["1.0"], PROMPTS[:1], [0], **sampling)
    assert drawer.pipe() is pipe and attached(pipe.unet) is None


def test_embedded_soft_tokens_by_name(ships: Path) -> None:
    """SoftREPA first; in fp16 on disk and float32 in memory; an unknown name is answered with those there are."""
    assert stickers.token_names() == [] and stickers.token_names("my/model") == []
    with pytest.raises(LongalignError, match="ships none for stickers"):
        SoftTokens.from_pretrained("stickers/softrepa")
    for family, name in (("sd15", "agsm"), ("sd15", "softrepa"), ("sd3", "agsm")):
        ship_tokens(ships, name, family)
    assert stickers.token_names() == ["softrepa", "agsm"] and stickers.token_names("stickers-sdxl") == []
    assert SoftTokens.from_pretrained("stickers-sd3/agsm").config.backbone == "sd3"
    made = ship_tokens(ships)
    found = SoftTokens.from_pretrained("stickers/softrepa")
    assert found.tokens.dtype == torch.float32 and torch.equal(found.tokens, made.tokens.float())
    with pytest.raises(
        LongalignError, match=r"tokens stickers/dog; .* ships stickers/softrepa, stickers/agsm"
    ):
        SoftTokens.from_pretrained("stickers/dog")


def test_embedded_soft_tokens_are_a_column_when_they_are_there(tmp_path: Path, ships: Path) -> None:
    ship(ships, "sft")
    ship_tokens(ships, "agsm")
    assert list(shipped_columns()) == [PLAIN, SEGMENTS, SFT]  # no SoftREPA
    ship_tokens(ships)
    ship_tokens(ships, family="sdxl")
    assert list(shipped_columns("stickers-sdxl")) == [PLAIN, SEGMENTS, SOFT]
    assert list(shipped_columns()) == [PLAIN, SEGMENTS, SOFT, SFT]
    made = demo(scenes=1, steps=1, out=tmp_path / "demo")
    assert made.accuracy.columns == ["", PLAIN, SEGMENTS, SOFT, SFT, "chance"]
    assert len({made.images[c][0].tobytes() for c in (SEGMENTS, SOFT, SFT)}) == 3
    assert (tmp_path / "demo" / "images" / "00-soft-tokens.png").is_file()
    assert (
        "were trained to tell captions of different scenes apart"
        in (tmp_path / "demo" / "report.html").read_text()
    )


def test_names_of_files() -> None:
    soft = Column(soft_tokens="x")
    assert {file_name(label, soft) for label in ("SoftREPA", "A")} == {"softrepa", "a"}
    assert str(Column("plain", ("a",), "x", 0.5)) == "plain + a + soft tokens x, scale 0.5"
    assert file_name(PLAIN, Column("plain")) == "plain"
    assert file_name("clip+t5", Column("clip+t5")) == "clip-t5"
    assert file_name("SFT+RFT (ω=0.3)", Column("clip-cat", ("a",))) == "sft-rft-0.3"


def test_the_page_has_denscores_verdicts(tmp_path: Path) -> None:
    """Beside the oracle's marks stands P(true), and a table counts verdicts against marks: one for each sentence."""
    made = demo(scenes=1, steps=2, out=tmp_path / "demo")
    [line] = [row for row in (tmp_path / "demo" / "report.jsonl").read_text().splitlines() if '"case"' in row]
    sentences = json.loads(line)["sentences"]
    assert len(sentences) == len(made.sentences[0].segments)
    assert all(0 <= row["scores"][SEGMENTS] <= 1 for row in sentences)
    assert (
        "Denscore&#39;s verdict against the oracle&#39;s" in (tmp_path / "demo" / "report.html").read_text()
    )


def test_ctrl_c_keeps_the_columns_that_are_done(tmp_path: Path, ships: Path) -> None:
    """Two scenes in two columns of two steps, stopped in the second column: the first one gets its report."""
    steps: list[int] = []

    def stop(pictures: int) -> None:
        steps.append(pictures)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=rf"1 of 2 columns are kept \({PLAIN}\), with their report"):
        demo(scenes=2, steps=2, out=tmp_path / "demo", on_step=stop)
    page = (tmp_path / "demo" / "report.html").read_text()
    assert PLAIN in page and "each sentence is encoded alone" not in page
    steps[:] = [0, 0]
    with pytest.raises(Interrupted, match="no column was finished"):
        demo(scenes=2, steps=2, out=tmp_path / "none", on_step=stop)
