"""A backbone of another package: one file and one entry point, and it encodes, samples and takes a supervised step."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from picture_objectives import accelerator, batch_of, gradients, make
from PIL import ImageChops
from segment_encoding import encode

from longalign import plugins
from longalign.backbones import backbone_of
from longalign.diffusion.sampling import sample
from longalign.errors import LongalignError
from longalign.objectives.pictures.supervised import SupervisedObjective

TOY = '''
"""A denoiser that mixes latents by 1 × 1 convolutions and adds the mean of the text."""

import torch
from PIL import ImageChops
from diffusers import ConfigMixin, DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from torch import nn

from longalign.backbones.base import Backbone


class ToyBlock(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.mix, self.read = nn.Conv2d(channels, channels, 1), nn.Linear(width, channels)

    def forward(self, x, text):
        return self.mix(x) + self.read(text.mean(1))[:, :, None, None]


class ToyNet(ModelMixin, ConfigMixin, PeftAdapterMixin):
    @register_to_config
    def __init__(self, in_channels=4, sample_size=16, width=32):
        super().__init__()
        self.block = ToyBlock(in_channels, width)

    def forward(self, x, times, encoder_hidden_states):
        return self.block(x, encoder_hidden_states)


class ToyPipeline(DiffusionPipeline):
    def __init__(self, vae, text_encoder, tokenizer, toy_net, scheduler):
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, toy_net=toy_net, scheduler=scheduler
        )

    @torch.no_grad()
    def __call__(self, prompt_embeds, negative_prompt_embeds, generator, num_inference_steps, guidance_scale=2.0, **_):
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.stack([torch.randn(4, 16, 16, generator=g) for g in generator])
        for t in self.scheduler.timesteps:
            f = self.toy_net(x, t, prompt_embeds)
            null = self.toy_net(x, t, negative_prompt_embeds)
            x = self.scheduler.step(null + guidance_scale * (f - null), t, x).prev_sample
        pixels = self.vae.decode(x / self.vae.config.scaling_factor).sample
        return ImagePipelineOutput((pixels / 2 + 0.5).clamp(0, 1))


class Toy(Backbone):
    """The family of `ToyNet`."""

    family = "toy"
    title = "Toy"
    abbreviation = "Toy"
    component = "toy_net"
    module_class = "ToyNet"
    lora_blocks = ("ToyBlock",)

    def predict(self, module, x, times, embeds, pooled, size_px):
        return module(x, times, encoder_hidden_states=embeds)
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of an installed package with the entry point ``backbone.toy``."""
    (tmp_path / "toy_backbone.py").write_text(TOY)
    info = tmp_path / "toy_backbone-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-backbone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[longalign.plugins]\nbackbone.toy = toy_backbone:Toy\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    of_plugins = plugins._of_plugins  # a test may replace it
    of_plugins.cache_clear()
    yield import_module("toy_backbone")
    of_plugins.cache_clear()


def pipeline(toy: Any) -> Any:
    parts = tiny.tiny_sd15()
    torch.manual_seed(0)
    pipe = toy.ToyPipeline(parts.vae, parts.text_encoder, parts.tokenizer, toy.ToyNet(), parts.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_encode_and_sample(toy: Any) -> None:
    """Sentences of both prompts are encoded, and another prompt gives another picture from the same seed."""
    pipe = pipeline(toy)
    conditioning = encode(pipe, ["A cat sits. A dog runs.", "A red house. A tree."], length=24)
    assert conditioning.family == "toy" and conditioning.embeds.shape == (2, 24, 32)
    one, other = sample(pipe, conditioning, [5, 5], steps=3)
    assert one.size == other.size == (32, 32) and one.tobytes() != other.tobytes()
    [again] = sample(pipe, conditioning[:1], [5], steps=3)
    difference = ImageChops.difference(again, one).getextrema()
    assert max(most for _, most in difference) <= 1  # some CPUs sum a batch of two in another order


def test_a_supervised_step(toy: Any, tmp_path: Path) -> None:
    """The LoRA is on the block's convolution and Linear, gets a gradient, and is saved under the component's name."""
    objective = make(SupervisedObjective, pipe=pipeline(toy), caption_dropout=0)
    objective.backward(batch_of(objective), accelerator())
    found = gradients(objective)
    assert {name.rsplit(".", 3)[0] for name in found} == {"toy_net.block.mix", "toy_net.block.read"}
    assert all(g.abs().max() > 0 for g in found.values())
    objective.save(tmp_path / "lora")
    assert (tmp_path / "lora" / "pytorch_lora_weights.safetensors").is_file()


def test_without_the_package_its_models_are_unknown(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net = toy.ToyNet()
    assert backbone_of(net).family == "toy"
    monkeypatch.setattr(plugins, "_of_plugins", lambda kind: {})
    with pytest.raises(
        LongalignError, match=r"ToyNet is not the model of a known backbone; known are UNet2D"
    ):
        backbone_of(net)
