"""The model card of a LoRA folder: front matter that hubs read, and what its user needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from tiny import tiny_sd15

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
    """Base, library and tags as the hub spells them, no licence; encoding and recipe can be read back as YAML."""
    folder = folder_of(tmp_path, text=True)
    recipe = {"objective": "supervised", "out": "/home/me/run", "data": {"folder": str(tmp_path)}, "seed": 3}
    assert write_card(folder, base_name="owner/model", made="Trained.", recipe=recipe) == folder / "README.md"
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict() == {
        "base_model": "owner/model",
        "library_name": "diffusers",
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
