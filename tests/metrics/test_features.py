"""Feature extractors by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_clip import WIDTH, tiny_clip, tiny_model
from transformers import CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

from longalign.errors import LongalignError
from longalign.metrics.features import Features
from longalign.preference import Preprocess
from longalign.runs import atomic_write_text, json_line

PIXELS = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def test_a_preference_model_gives_its_unit_embeddings(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    features = Features.from_pretrained(tmp_path, device="cpu")
    torch.testing.assert_close(features.image(PIXELS), model.image(PIXELS))
    assert str(tmp_path) in features.what and "24 numbers" in features.what and "32 px" in features.what


def test_an_image_tower_alone_gives_the_same_direction(tmp_path: Path) -> None:
    """A `clip_vision_model` folder with the whole CLIP's weights: the same projection, before it is made a unit
    vector; its own preprocessing (here: stretched, bilinear) is read."""
    whole = tiny_clip()
    tower = CLIPVisionModelWithProjection(whole.config.vision_config).eval()
    tower.load_state_dict(whole.state_dict(), strict=False)
    tower.save_pretrained(tmp_path)
    preprocess = Preprocess(32, "stretch", mode="bilinear")
    atomic_write_text(tmp_path / "preprocessor_config.json", json_line(preprocess.to_config()))
    found = Features.from_pretrained(str(tmp_path), device="cpu")
    with torch.no_grad():
        expected = whole.get_image_features(pixel_values=preprocess(PIXELS)).pooler_output
    torch.testing.assert_close(found.image(PIXELS), expected)
    assert found.image(PIXELS).shape == (2, WIDTH) and "stretch to 32 px" in found.what


def test_dinov2(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(tmp_path)
    found = Features.from_pretrained(tmp_path, device="cpu").image(PIXELS)
    assert found.shape == (2, 24) and found.isfinite().all() and not torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("inception-2015-12-05.pt", "may run code"),
        ("./nowhere", "no such model folder"),
        ("stickers/inception", "no embedded preference model"),
    ],
)
def test_what_is_no_extractor_is_refused(name: str, said: str) -> None:
    with pytest.raises(LongalignError, match=said):
        Features.from_pretrained(name)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "config.json", '{"model_type": "bert"}')
    with pytest.raises(LongalignError, match="is a 'bert' model"):
        Features.from_pretrained(tmp_path)
