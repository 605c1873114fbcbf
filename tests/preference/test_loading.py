"""Preference models from folders, and from open_clip checkpoints; and what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_clip import IMAGE_PX, WIDTH, open_clip_layout, tiny_clip, tiny_clip_h, tiny_model, tokenizer
from transformers import CLIPTextModel

from longalign.errors import LongalignError
from longalign.preference import PreferenceModel, Preprocess
from longalign.preference.decomposition import FILE_NAME, Decomposition
from longalign.preference.open_clip import clip_of, convert, read_checkpoint
from longalign.stickers import folder as stickers_folder
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import render, scene

TEXT = ["A fox is in the centre."]
PIXELS = torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def embeddings(model: PreferenceModel) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return model.image(PIXELS), model.text(TEXT)


def assert_same(a: PreferenceModel, b: PreferenceModel) -> None:
    for x, y in zip(embeddings(a), embeddings(b), strict=True):
        assert torch.allclose(x, y, atol=1e-6)


def test_saved_and_loaded_it_is_the_same(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Quietly, in evaluation mode and without gradients on the weights."""
    found = PreferenceModel.from_pretrained(saved, device="cpu")
    assert_same(found, tiny_model())
    assert not found.clip.training and not any(p.requires_grad for p in found.clip.parameters())
    assert found.decomposition is None and capfd.readouterr() == ("", "")


def test_preprocessing_and_decomposition_stand_beside_the_weights(tmp_path: Path) -> None:
    v = Decomposition.fit(torch.eye(WIDTH)[:2])
    padded = Preprocess(IMAGE_PX, "pad", mean=(0.5,) * 3, std=(0.5,) * 3)
    PreferenceModel(tiny_clip(), tokenizer(), padded, v).save_pretrained(tmp_path)
    found = PreferenceModel.from_pretrained(tmp_path, device="cpu")
    assert found.preprocess == padded
    assert found.decomposition is not None and torch.equal(found.decomposition.V, v.V)
    given = PreferenceModel.from_pretrained(tmp_path, device="cpu", preprocess=Preprocess(IMAGE_PX))
    assert given.preprocess == Preprocess(IMAGE_PX)


def test_without_a_processor_it_is_clips_own(saved: Path) -> None:
    (saved / "preprocessor_config.json").unlink()
    assert PreferenceModel.from_pretrained(saved, device="cpu").preprocess == Preprocess(IMAGE_PX)


def test_a_tokenizer_from_elsewhere(saved: Path, tmp_path: Path) -> None:
    """PickScore and HPSv2 have none of their own."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.move(saved / name, tmp_path / name)
    with pytest.raises(LongalignError, match=r"no tokenizer in .*model: say where one is"):
        PreferenceModel.from_pretrained(saved, device="cpu")
    assert_same(PreferenceModel.from_pretrained(saved, device="cpu", tokenizer=tmp_path), tiny_model())


def test_half_precision_on_request(saved: Path) -> None:
    found = PreferenceModel.from_pretrained(saved, device="cpu", dtype="bfloat16")
    assert found.clip.dtype == torch.bfloat16
    assert (embeddings(found)[0] * embeddings(tiny_model())[0]).sum(-1).min() > 0.99


def test_folders_that_are_no_preference_models(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="no such model folder"):
        PreferenceModel.from_pretrained(tmp_path / "none", device="cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LongalignError, match=r"no weights \(\*\.safetensors\)"):
        PreferenceModel.from_pretrained(tmp_path / "empty", device="cpu")
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(LongalignError, match="is a 'siglip' model; a preference model must be 'clip'"):
        PreferenceModel.from_pretrained(saved, device="cpu")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    with pytest.raises(LongalignError, match="without a `clip` folder"):
        PreferenceModel.from_pretrained(tmp_path / "pipeline", device="cpu")


def test_weights_of_another_architecture_are_refused(saved: Path) -> None:
    """A text tower alone would leave the image tower at random; weights of other shapes do not load."""
    config = tiny_clip().config.text_config
    state = {f"text_model.{k}": v for k, v in CLIPTextModel(config).state_dict().items()}
    save_file(state, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(LongalignError, match=r"not those of a whole CLIP model: .* missing, such as"):
        PreferenceModel.from_pretrained(saved, device="cpu")
    state = tiny_clip().state_dict()
    state["visual_projection.weight"] = torch.zeros(WIDTH, 40)
    save_file(state, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(LongalignError, match="cannot be loaded"):
        PreferenceModel.from_pretrained(saved, device="cpu")


def test_pickled_weights_are_named_and_not_read(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    (saved / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(LongalignError, match=r"pickled \(pytorch_model\.bin\)"):
        PreferenceModel.from_pretrained(saved, device="cpu")


def test_a_decomposition_of_another_width_is_refused(saved: Path) -> None:
    Decomposition.fit(torch.eye(5)).save(saved / FILE_NAME)
    with pytest.raises(LongalignError, match=r"decomposition\.safetensors: V has width 5, .* width 24"):
        PreferenceModel.from_pretrained(saved, device="cpu")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"epoch": 3, "state_dict": s},
                                  lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])  # fmt: skip
def test_open_clip_names_are_mapped(wrap: Any) -> None:
    """The same weights in open_clip's layout give the same embeddings."""
    clip = tiny_clip(hidden_act="gelu")
    found = clip_of(wrap(open_clip_layout(clip)), vision_heads=3, text_heads=4)
    assert found.state_dict().keys() == clip.state_dict().keys()
    assert all(torch.equal(v, clip.state_dict()[k]) for k, v in found.state_dict().items())
    prepare = Preprocess(IMAGE_PX)
    assert_same(PreferenceModel(found, tokenizer(), prepare), PreferenceModel(clip, tokenizer(), prepare))


def test_open_clip_checkpoint_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With 16 heads a tower, as ViT-H-14 has; preprocessing is HPSv2.1's."""
    clip = tiny_clip_h()
    torch.save({"epoch": 1, "state_dict": open_clip_layout(clip)}, tmp_path / "HPS.pt")
    tokenizer().save_pretrained(tmp_path / "words")
    found = PreferenceModel.from_pretrained(tmp_path / "HPS.pt", device="cpu", tokenizer=tmp_path / "words")
    assert found.preprocess == Preprocess(IMAGE_PX, "pad") and capfd.readouterr() == ("", "")
    assert_same(found, PreferenceModel(clip, tokenizer(), Preprocess(IMAGE_PX, "pad")))
    with pytest.raises(LongalignError, match=r"no tokenizer in .*HPS\.pt: say where one is"):
        PreferenceModel.from_pretrained(tmp_path / "HPS.pt", device="cpu")


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.mark}'",)


def test_a_pickle_with_code_is_refused_and_the_code_named(tmp_path: Path) -> None:
    torch.save({"state_dict": Evil(tmp_path / "it-ran")}, tmp_path / "bad.pt")
    with pytest.raises(LongalignError, match=r"bad\.pt: refused, since this pickle names posix\.system"):
        PreferenceModel.from_pretrained(tmp_path / "bad.pt", device="cpu")
    assert not (tmp_path / "it-ran").exists()


def test_checkpoints_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="no such checkpoint file"):
        read_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("just words")
    with pytest.raises(LongalignError, match=r"text\.pt: is damaged, or is not a torch checkpoint"):
        read_checkpoint(tmp_path / "text.pt")
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with pytest.raises(LongalignError, match="holds no state dict"):
        read_checkpoint(tmp_path / "tensor.pt")
    with pytest.raises(LongalignError, match="holds no state dict"):
        clip_of({"epoch": 3}, name="x.pt")


def test_open_clip_models_of_another_architecture() -> None:
    state = open_clip_layout(tiny_clip())
    with pytest.raises(LongalignError, match=r"'visual\.attnpool\.q_proj\.weight' is in no ViT model"):
        convert({**state, "visual.attnpool.q_proj.weight": torch.ones(1)})
    with pytest.raises(
        LongalignError, match=r"x\.pt: is no ViT model of open_clip: .*text_projection.*missing"
    ):
        clip_of({k: v for k, v in state.items() if k != "text_projection"}, 3, 4, "x.pt")
    del state["visual.transformer.resblocks.1.mlp.c_proj.bias"]
    with pytest.raises(LongalignError, match=r"1 tensors missing .* 'vision_model.*1\.mlp\.fc2\.bias'"):
        clip_of(state, 3, 4)


def test_the_embedded_clip_tells_scenes_apart() -> None:
    """Among 24 scenes of at most 5 stickers, most captions score highest with their own picture; chance is 1 in 24.

    It reads its tokenizer from the pipeline folder, and pictures as it was trained on them.
    """
    model = PreferenceModel.from_pretrained("stickers/clip", device="cpu")
    scenes = [scene(i, objects=(2, 5), split="test") for i in range(24)]
    pixels = torch.stack([torch.from_numpy(np.array(render(s))).permute(2, 0, 1) / 255 for s in scenes])
    with torch.no_grad():
        scores = (
            model.image(pixels)
            @ model.text([text_of(caption(s, i)) for i, s in enumerate(scenes)], truncate=True).T
        )
    assert (scores.argmax(0) == torch.arange(24)).float().mean() >= 0.75
    assert math.isclose(load_file(stickers_folder() / "clip" / "model.safetensors")["logit_scale"].item(),
                        model.clip.logit_scale.item(), rel_tol=1e-3)  # fmt: skip
