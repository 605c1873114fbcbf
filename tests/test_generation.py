"""`generate`: from prompts to a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from longalign.encoding.adapter import TextAdapter
from longalign.errors import Interrupted, LongalignError
from longalign.generation import (
    GenerateConfig,
    generate,
)
from longalign.preference import PreferenceModel
from longalign.report.sentences import sentences_of
from longalign.soft_tokens import SoftTokenConfig, SoftTokens
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import scene
from longalign.weights import lora
from longalign.weights.stack import (
    load_pipeline,
    t5_branch,
)

LONG = text_of(caption(scene(0, objects=(9, 9), split="test"), 0))
SHORT = "A fox is in the top left. The background is navy. It is a lovely evening."
QUICK = GenerateConfig(steps=2, device="cpu")
QUICK_1 = GenerateConfig(steps=1, device="cpu")


def test_generate_writes_a_run_folder(tmp_path: Path) -> None:
    made = generate([SHORT, LONG], GenerateConfig(steps=2, num=2, seed=7, device="cpu"), out=tmp_path / "run")
    folder = made.folder
    assert {f.name for f in folder.iterdir()} == {
        "config.yaml",
        "images",
        "metrics.jsonl",
        "parts",
        "report.html",
        "report.jsonl",
    }
    assert sorted(f.name for f in (folder / "images").iterdir()) == [
        "0000-7.png",
        "0000-8.png",
        "0001-7.png",
        "0001-8.png",
    ]
    for picture in made.pictures:
        assert Image.open(folder / picture.file).size == (96, 96)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [SHORT, LONG]
    assert len(lines[1]["sentences"]) == 10
    assert "A fox is in the top left." in (folder / "report.html").read_text()
    json.dumps(made.to_json())


def test_sentences_beyond_the_window_are_marked(tmp_path: Path) -> None:
    made = generate([LONG], QUICK, out=tmp_path / "run")
    beyond = [row.beyond for row in made.rows[0]]
    assert beyond == sorted(beyond) and 0 < sum(beyond) < 10
    assert not made.truncation[0]  # segment-level encoding lost nothing


def test_the_plain_strategy_reports_what_it_cut(tmp_path: Path) -> None:
    """The cut begins inside the first sentence that is marked, or at its beginning."""
    config = GenerateConfig(steps=1, strategy="plain", device="cpu")
    with pytest.warns(UserWarning, match="did not fit"):
        made = generate([LONG], config, out=tmp_path / "run")
    [cut] = made.truncation[0]
    first = next(row for row in made.rows[0] if row.beyond)
    start = LONG.index(first.text)
    assert start <= cut.start < start + len(first.text) and cut.end == len(LONG)
    assert cut.text.split(".")[-2].strip() in (tmp_path / "run" / "report.html").read_text()


def test_sentences_outside_the_world_are_not_judged(tmp_path: Path) -> None:
    rows = generate([SHORT], QUICK, out=tmp_path / "run").rows[0]
    assert rows[2].marks == {"seed 0": "unjudged"}
    assert rows[0].marks["seed 0"] in ("true", "false", "unclear")


def test_an_earlier_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    """The same run again draws nothing; one with other settings or prompts is refused, and told what differs."""
    generate([SHORT], QUICK, out=tmp_path / "run")
    before = {f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()}
    steps: list[int] = []
    again = generate([SHORT], QUICK, out=tmp_path / "run", on_step=steps.append)
    assert not steps and again.pictures[0].image.size == (96, 96)
    assert {f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()} == before
    with pytest.raises(LongalignError, match="they differ in prompts"):
        generate([LONG], QUICK, out=tmp_path / "run")
    with pytest.raises(LongalignError, match="they differ in steps"):
        generate([SHORT], QUICK_1, out=tmp_path / "run")
    generate([SHORT], QUICK_1, out=tmp_path / "run", overwrite=True)


def test_pictures_drawn_so_far_outlive_a_crash(tmp_path: Path) -> None:
    """Two batches of one picture; the program dies in the second one's first step."""
    steps: list[int] = []

    def die(pictures: int) -> None:
        steps.append(pictures)
        if len(steps) == 3:
            raise KeyboardInterrupt

    config = GenerateConfig(steps=2, batch_size=1, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        generate([SHORT, SHORT], config, out=tmp_path / "run", on_step=die)
    assert [f.name for f in (tmp_path / "run" / "images").iterdir()] == ["0000-0.png"]


def test_ctrl_c_keeps_pictures_and_reports_on_them(tmp_path: Path) -> None:
    """Two pictures, one a batch, stopped in the second one's first step: the page has the first, and the message says
    so. Stopped in the first step of all: nothing is there, and that is said, too."""
    steps: list[int] = []
    limit = 3

    def stop(pictures: int) -> None:
        steps.append(pictures)
        if len(steps) == limit:
            raise KeyboardInterrupt

    config = GenerateConfig(steps=2, batch_size=1, device="cpu")
    with pytest.raises(Interrupted, match=r"1 of 2 pictures are kept, with their report: .*report\.html"):
        generate([SHORT, "A star."], config, out=tmp_path / "run", on_step=stop)
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<article") == 1 and "A star." not in page
    made = generate([SHORT, "A star."], config, out=tmp_path / "run")  # goes on
    whole = generate([SHORT, "A star."], config, out=tmp_path / "whole")
    for mine, its in zip(made.pictures, whole.pictures, strict=True):
        assert mine.path.read_bytes() == its.path.read_bytes()
    steps.clear()
    limit = 1
    with pytest.raises(Interrupted, match="no picture was finished"):
        generate([SHORT], config, out=tmp_path / "none", on_step=stop)
    assert not (tmp_path / "none" / "report.html").exists()


def test_a_preference_model_scores_the_sentences(tmp_path: Path) -> None:
    """Numbers of the embedded Denscore, equal to its own scores of the same picture, in the JSON and on the page."""
    config = GenerateConfig(steps=2, device="cpu", scorer="stickers/denscore")
    made = generate([SHORT], config, out=tmp_path / "run")
    model = PreferenceModel.from_pretrained("stickers/denscore", device="cpu")
    expected = [s.best for s in model.score([made.pictures[0].image], [SHORT]).segments[0]]
    found = [row["scores"]["seed 0"] for row in made.to_json()["prompts"][0]["sentences"]]
    assert found == pytest.approx(expected, abs=1e-4)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "score by stickers/denscore: cosine × 100" in page
    assert f"{expected[0]:.2f}".replace("-", "−") in page


def test_wrong_input_does_not_cost_the_earlier_run(tmp_path: Path) -> None:
    generate([SHORT], QUICK, out=tmp_path / "run")
    with pytest.raises(LongalignError):
        generate([SHORT], GenerateConfig(strategy="none", device="cpu"), out=tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "report.html").exists()


def test_strategies_with_t5_run_on_the_embedded_branch(tmp_path: Path) -> None:
    for strategy in ("t5-mlp", "clip+t5"):
        config = GenerateConfig(steps=1, strategy=strategy, device="cpu")
        assert len(generate([SHORT], config, out=tmp_path / strategy).pictures) == 1


def test_beyond_follows_the_token_window() -> None:
    pipe = load_pipeline("stickers", device="cpu")
    [short, long] = sentences_of(pipe.tokenizer, [SHORT, LONG])
    assert short.beyond == [False] * 3 and any(long.beyond)


@pytest.fixture
def sft(tmp_path: Path) -> Path:
    """A LoRA of the embedded model that changes its pictures, and a text adapter that was trained beside it."""
    unet = load_pipeline("stickers", device="cpu").unet
    own = lora.attach(unet, 2, layers=["mid_block.attentions.0.proj_in"])
    torch.manual_seed(0)
    with torch.no_grad():
        [p.copy_(torch.randn_like(p)) for p in own]
    adapter = TextAdapter(96, 112, 128)
    lora.save(unet, tmp_path / "sft", adapter=adapter, base_name="stickers")
    return tmp_path / "sft"


def test_a_lora_stage_changes_the_picture_and_is_recorded(sft: Path, tmp_path: Path) -> None:
    config = GenerateConfig(steps=1, device="cpu", loras=(str(sft),))
    made, plain = (
        generate([SHORT], config, out=tmp_path / "a"),
        generate([SHORT], QUICK_1, out=tmp_path / "b"),
    )
    assert made.pictures[0].image.tobytes() != plain.pictures[0].image.tobytes()
    assert str(sft) in (tmp_path / "a" / "config.yaml").read_text()
    assert "LoRA" in (tmp_path / "a" / "report.html").read_text()


def test_the_text_adapter_of_a_stage_takes_the_models_place(sft: Path) -> None:
    pipe = load_pipeline("stickers", device="cpu")
    own = t5_branch("stickers", "clip+t5", pipe)
    stage = t5_branch("stickers", "clip+t5", pipe, [str(sft)])
    assert own is not None and stage is not None
    trained = lora.load_text_adapter(sft)
    assert trained is not None
    name = "norm1.weight", "ff1.net.0.proj.weight"
    assert all(torch.equal(stage.adapter.state_dict()[n], trained.state_dict()[n]) for n in name)
    assert not torch.equal(own.adapter.state_dict()[name[1]], stage.adapter.state_dict()[name[1]])
    assert t5_branch("stickers", "clip-cat", pipe, [str(sft)]) is None


def test_lora_folders_that_are_none() -> None:
    for loras, says in (
        (("stickers/sft2",), "no embedded LoRA stickers/sft2"),
        (("/nowhere",), "no such file"),
        ((str(Path(__file__).parent),), "no LoRA folder"),
    ):
        with pytest.raises(LongalignError, match=says):
            generate([SHORT], GenerateConfig(steps=1, device="cpu", loras=loras))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Soft tokens for the embedded model that change its pictures, in a folder as `longalign train` leaves it."""
    found = SoftTokens(SoftTokenConfig.of(load_pipeline("stickers", device="cpu").unet))
    torch.manual_seed(0)
    with torch.no_grad():
        found.tokens.normal_(std=3)
    found.save(tmp_path / "run" / "model")
    return tmp_path / "run"


def test_soft_tokens_change_the_picture_and_are_recorded(tokens: Path, tmp_path: Path) -> None:
    """At scale 0 they change nothing; in one branch alone they do something else than in both."""
    quick: dict[str, Any] = {"steps": 1, "device": "cpu", "guidance": 3.0}
    found = {}
    for name, given in {
        "none": {},
        "off": {"soft_tokens": str(tokens), "soft_token_scale": 0.0},
        "both": {"soft_tokens": str(tokens / "model" / "soft_tokens.safetensors")},
        "cond": {"soft_tokens": str(tokens), "soft_token_branches": "cond"},
        "unguided": {"soft_tokens": str(tokens), "guidance": 1.0},
        "unguided cond": {"soft_tokens": str(tokens), "soft_token_branches": "cond", "guidance": 1.0},
    }.items():
        config = GenerateConfig(**{**quick, **given})
        found[name] = generate([SHORT], config, out=tmp_path / name).pictures[0].image.tobytes()
    assert found["off"] == found["none"]
    assert found["unguided cond"] == found["unguided"]  # there is no other branch
    assert len(set(found.values())) == 4
    assert f"soft_tokens: {tokens}" in (tmp_path / "cond" / "config.yaml").read_text()
    assert "cond alone" in (tmp_path / "cond" / "report.html").read_text()


def test_soft_tokens_that_do_not_fit(tokens: Path, tmp_path: Path) -> None:
    SoftTokens(SoftTokenConfig.published("sdxl")).save(tmp_path / "sdxl")
    for name, given, says in (
        (tmp_path / "sdxl", {}, "are for SDXL.* and the model is"),
        (tmp_path / "none", {}, "none"),
        (tokens, {"soft_token_scale": 1.5}, "between 0 and 1"),
        (tokens, {"soft_token_branches": "half"}, "both, cond, uncond"),
    ):
        config = GenerateConfig(steps=1, device="cpu", soft_tokens=str(name), **given)  # type: ignore[arg-type]
        with pytest.raises(LongalignError, match=says):
            generate([SHORT], config, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
