"""A backbone from another package: encoding, drawing and training by public functions, with no change in longalign."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from picture_objectives import LENGTH, accelerator, batch_of, gradients, make

from longalign import encode, plugins
from longalign.backbones import BACKBONES, backbone_named, backbone_of, components, denoising_module
from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.pipelines import settings_of
from longalign.diffusion.sampling import sample
from longalign.errors import LongalignError
from longalign.objectives.pictures.supervised import SupervisedObjective
from longalign.weights import lora
from longalign.weights.lora_file import LoraFile

HERE = Path(__file__).parents[1] / "helpers" / "toy_backbone.py"
PROMPT = "A red cat sits. A blue dog runs."
WIDTH = 32


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package `toy_pictures`, installed in a temporary folder as pip would leave it: module and dist-info."""
    site = tmp_path / "site"
    package, info = site / "toy_pictures", site / "toy_pictures-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    shutil.copy(HERE, package / "__init__.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-pictures\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[longalign.plugins]\nbackbone.toy = toy_pictures:Toy\n")
    monkeypatch.syspath_prepend(str(site))
    plugins._of_plugins.cache_clear()
    try:
        yield importlib.import_module("toy_pictures")
    finally:
        sys.modules.pop("toy_pictures", None)
        plugins._of_plugins.cache_clear()


@pytest.fixture
def pipe(toy: Any) -> Any:
    return toy.pipeline(tiny._vae(4), tiny.t5_encoder(WIDTH), tiny.t5_tokenizer(), WIDTH)


def test_it_is_found(pipe: Any) -> None:
    assert list(BACKBONES) == ["sd15", "sdxl", "sd3", "toy"]
    assert components() == ("unet", "transformer", "net")
    assert backbone_of(pipe).family == backbone_of(pipe.net).family == "toy"
    assert denoising_module(pipe) is pipe.net
    assert (settings_of("no/such", pipe).guidance, settings_of("no/such", pipe).length) == (2.0, 24)
    with pytest.raises(LongalignError, match="did you mean 'toy'"):
        backbone_named("toys")


def test_it_is_gone_when_its_package_is(tmp_path: Path) -> None:
    assert list(BACKBONES) == ["sd15", "sdxl", "sd3"]
    with pytest.raises(LongalignError, match="Linear is not the model of a known backbone; known are UNet2D"):
        backbone_of(torch.nn.Linear(1, 1))


def test_prompts_are_encoded_by_its_t5(pipe: Any) -> None:
    """The whole prompt in one piece, padded to a multiple of the length; ``plain`` pads to the family's own 16."""
    conditioning = encode(pipe, PROMPT, "A house.", length=LENGTH)
    assert (conditioning.family, conditioning.pooled) == ("toy", None)
    ids = pipe.tokenizer(PROMPT, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(conditioning.embeds, pipe.text_encoder(ids)[0])
    assert [s.text for s in conditioning.segments[0]] == ["A red cat sits.", "A blue dog runs."]
    segment_of = conditioning.segment_of[0]
    text = int((ids != pipe.tokenizer.pad_token_id).sum()) - 1  # without the end token
    assert set(segment_of[:text].tolist()) == {0, 1} and set(segment_of[text:].tolist()) == {-1}
    assert encode(pipe, "A cat.", strategy="plain").embeds.shape == (1, 16, WIDTH)
    with pytest.raises(LongalignError, match="Toy has T5 of its own"):
        encode(pipe, PROMPT, strategy="t5-mlp")


def test_pictures_are_drawn(pipe: Any) -> None:
    """Each picture comes from its seed and its prompt, and the pipeline gets the arguments that it knows."""
    conditioning = encode(pipe, [PROMPT, PROMPT, "A house."], length=LENGTH)
    first, again, other = sample(pipe, conditioning, [1, 1, 1], steps=2)
    assert first.size == (32, 32)
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_a_supervised_step(pipe: Any, tmp_path: Path) -> None:
    """The loss is mean |f − (ε − x_0)|²; a step along its gradient lowers it; the LoRA is saved under ``net``."""
    objective = make(SupervisedObjective, pipe, caption_dropout=0)
    batch = batch_of(objective)
    torch.manual_seed(5)
    before = float(objective.backward(batch, accelerator())["loss"])
    found = gradients(objective)
    assert sorted(found) == [
        f"net.mixer.{layer}.lora_{factor}.supervised.weight" for layer in ("out", "text") for factor in "AB"
    ]
    assert all(bool(g.abs().max() > 0) for g in found.values())
    with torch.no_grad():
        for name, parameter in pipe.net.named_parameters():
            if f"net.{name}" in found:
                parameter -= 0.05 * found[f"net.{name}"]
    torch.manual_seed(5)
    assert float(objective.backward(batch, accelerator())["loss"]) < before

    path = lora.save(pipe.net, tmp_path / "lora")
    file = LoraFile.read(path.parent)
    assert (file.component, sorted(file.layers)) == ("net", ["mixer.out", "mixer.text"])
    x, t, c = torch.randn(1, 4, 16, 16), 500, encode(pipe, PROMPT, length=LENGTH)
    with torch.no_grad():
        expected = Denoiser.of(pipe)(x, t, c)
        lora.merge(pipe.net)
        torch.testing.assert_close(Denoiser.of(pipe)(x, t, c), expected, rtol=1e-4, atol=1e-5)


def test_what_it_does_not_have_is_said(pipe: Any) -> None:
    from longalign.soft_tokens import SoftTokenConfig

    with pytest.raises(LongalignError, match="Toy has no place for soft tokens"):
        SoftTokenConfig.of(pipe.net)
    with pytest.raises(LongalignError, match="soft tokens are for one of sd15, sdxl, sd3, not 'toy'"):
        SoftTokenConfig.published("toy")
