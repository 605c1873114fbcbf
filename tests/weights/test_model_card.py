"""Model cards of LoRAs, soft tokens and preference models: front matter that hubs read, and what their users need."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from tiny import tiny_sd15

from longalign.errors import LongalignError
from longalign.preference import PreferenceModel
from longalign.soft_tokens import SoftTokens
from longalign.weights import lora, text_lora
from longalign.weights.merge import merge_loras
from longalign.weights.model_card import write_card


def folder_of(tmp_path: Path, *, text: bool = False) -> Path:
    pipe = tiny_sd15()
    for part in [pipe.unet, *([pipe.text_encoder] if text else [])]:
        lora.attach(part, rank=2)
    lora.save(pipe.unet, tmp_path / "lora", base_name="owner/model", strategy="clip-cat", length=120)
    if text:
        text_lora.save_text(text_lora.clips_of(pipe), tmp_path / "lora")
    return tmp_path / "lora"


def code_of(text: str) -> list[str]:
    """Its Python blocks."""
    return [block.partition("```")[0] for block in text.split("```python\n")[1:]]


def test_front_matter_and_content(tmp_path: Path) -> None:
    """Base, library and tags as the hub spells them, unknown licence; encoding and recipe can be read back as YAML."""
    folder = folder_of(tmp_path, text=True)
    recipe = {"objective": "supervised", "out": "/home/me/run", "data": {"folder": str(tmp_path)}, "seed": 3}
    assert write_card(folder, base_name="owner/model", made="Trained.", recipe=recipe) == folder / "README.md"
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict() == {
        "base_model": "owner/model",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "license": "unknown",
        "pipeline_tag": "text-to-image",
        "tags": ["lora", "text-to-image"],
    }
    encoding, shown = (yaml.safe_load(b.partition("```")[0]) for b in card.text.split("```yaml\n")[1:])
    assert encoding == {"strategy": "clip-cat", "segments": "sentence", "length": 120}
    assert shown == {"objective": "supervised", "data": {"folder": tmp_path.name}, "seed": 3}
    assert str(tmp_path) not in card.text and "/home" not in card.text


def test_its_code_for_diffusers_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the folder's name put in, on the model itself: all LoRAs are active."""
    folder = folder_of(tmp_path, text=True)
    write_card(folder, base_name="owner/model", made="Trained.")
    [_, code] = code_of((folder / "README.md").read_text())
    lines = [
        line for line in code.replace("THIS_FOLDER", str(folder)).splitlines() if line.startswith("pipe.")
    ]
    pipe = tiny_sd15()
    exec("\n".join(lines), {"pipe": pipe})
    assert pipe.get_list_adapters() == {"unet": ["unet"], "text_encoder": ["text_encoder"]}


def test_a_card_that_is_there_stays(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "README.md").write_text("mine")
    assert write_card(folder, made="Trained.") is None
    assert (folder / "README.md").read_text() == "mine"
    assert write_card(tmp_path, made="Trained.") is None  # no LoRA: no card
    assert not (tmp_path / "README.md").exists()


def test_a_merge_has_one_too(tmp_path: Path) -> None:
    merge_loras(["stickers/sft", "stickers/reward"], tmp_path / "both")
    text = (tmp_path / "both" / "README.md").read_text()
    assert "2 LoRAs, merged by longalign" in text and "strategy: clip-cat" in text


def card_of(folder: Path) -> tuple[dict[str, object], str]:
    """Front matter and text, read by the hub's own library."""
    card = ModelCard.load(folder / "README.md")
    return card.data.to_dict(), card.text


def test_the_card_of_soft_tokens(tmp_path: Path) -> None:
    """The embedded tokens: what they are, and code that runs."""
    SoftTokens.from_pretrained("stickers/softrepa").save(tmp_path)
    assert write_card(tmp_path, base_name="stickers", made="Trained.", license="apache-2.0") is not None
    data, text = card_of(tmp_path)
    assert data == {
        "base_model": "stickers",
        "base_model_relation": "adapter",
        "library_name": "longalign",
        "license": "apache-2.0",
        "pipeline_tag": "text-to-image",
        "tags": ["soft-tokens", "softrepa", "sd15", "text-to-image"],
    }
    tokens = SoftTokens.from_pretrained(tmp_path)
    assert f"{sum(p.numel() for p in tokens.parameters()):,} parameters" in text
    assert "4 trained text tokens of width 128" in text and "before the text of the down blocks" in text
    [code] = code_of(text)
    given: dict[str, object] = {}
    exec(
        code.replace("THIS_FOLDER", str(tmp_path)).replace(
            "pipeline_kwargs())", "pipeline_kwargs(), num_inference_steps=1)"
        ),
        given,
    )
    assert given["image"].size == (96, 96)  # type: ignore[attr-defined]


def test_the_card_of_a_preference_model(tmp_path: Path) -> None:
    """The embedded Denscore with its V, head and calibration; the folder loads as it is."""
    model = PreferenceModel.from_pretrained("stickers")
    model.save_pretrained(tmp_path)
    write_card(tmp_path, base_name=str(tmp_path), made="Trained.", recipe={"model": str(tmp_path), "seed": 1})
    data, text = card_of(tmp_path)
    assert data == {
        "base_model": tmp_path.name,
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "license": "unknown",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["preference-model", "clip", "text-to-image"],
    }
    assert text.count("| yes |") == 3 and "promises at most 5% wrong verdicts" in text
    assert str(tmp_path) not in text and f"model: {tmp_path.name}" in text
    [code] = code_of(text)
    from longalign.stickers.world import render, scene

    render(scene(0)).save(tmp_path / "picture.png")
    at = str(tmp_path)
    exec(code.replace("THIS_FOLDER", at).replace("picture.png", f"{at}/picture.png"), {})


def test_other_folders_and_wrong_licences(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert write_card(tmp_path) is None
    with pytest.raises(LongalignError, match=r"such as apache-2\.0"):
        write_card(tmp_path, license="Apache 2.0")


def test_a_licence_is_given_later(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    write_card(folder, made="Trained.")
    assert write_card(folder, license="openrail++") is None
    write_card(folder, license="openrail++", overwrite=True)
    assert card_of(folder)[0]["license"] == "openrail++"
