"""What backbones answer, and what other kinds of families than the three may say of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from longalign import TextParts, encode
from longalign.backbones import BACKBONES, backbone_named, backbone_of, find_backbone
from longalign.backbones.base import Backbone
from longalign.data.text_states import TextSide, join
from longalign.diffusion.denoiser import Denoiser
from longalign.errors import LongalignError
from longalign.soft_tokens import SoftTokenConfig

PIPES = {"sd15": tiny.tiny_sd15, "sdxl": tiny.tiny_sdxl, "sd3": tiny.tiny_sd3}


@pytest.mark.parametrize("family", list(PIPES))
def test_a_model_is_told_by_its_module(family: str) -> None:
    pipe: Any = PIPES[family]()
    backbone = backbone_of(pipe)
    assert backbone.family == family == backbone_of(getattr(pipe, backbone.component)).family
    assert Denoiser.of(pipe).family == encode(pipe, "A cat.").family == family
    assert find_backbone(pipe.vae) is None


def test_sizes() -> None:
    """Latents of 2 px. The UNet halves them once: multiples of 4. SD3: patches of 2, 16 × 16 places, so at most 64."""
    found = {
        family: backbone_named(family).sizes_px(Denoiser.of(make()).module, 2)
        for family, make in PIPES.items()
    }
    assert found == {"sd15": (4, None), "sdxl": (4, None), "sd3": (4, 64)}


def test_pixels_and_back() -> None:
    """With a shift and a scale, as SD3's VAE has them: z = (mean − shift)·scale, and `decode` undoes it."""
    denoiser = Denoiser.of(tiny.tiny_sd3())
    denoiser.vae.register_to_config(shift_factor=0.25, scaling_factor=2.0)
    pixels = torch.rand(3, 3, 32, 32)
    z = denoiser.encode_pixels(pixels, batch_size=2)
    with torch.no_grad():
        mean = denoiser.vae.encode(2 * pixels - 1).latent_dist.mode()
        torch.testing.assert_close(z, (mean - 0.25) * 2)
        expected = (denoiser.vae.decode(mean).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(denoiser.decode(z), expected, rtol=1e-4, atol=1e-5)


def test_only_sdxl_decodes_in_single_precision() -> None:
    """All these VAEs have force_upcast in their configuration, since it is diffusers' default."""
    for family, make in PIPES.items():
        denoiser = Denoiser.of(make())
        denoiser.vae.register_to_config(force_upcast=True)
        denoiser.vae.to(torch.bfloat16)
        denoiser.decode(torch.zeros(1, 4, 16, 16))
        assert denoiser.vae.dtype == (torch.float32 if family == "sdxl" else torch.bfloat16)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(LongalignError, match="did you mean 'sdxl'"):
        backbone_named("sdx")
    with pytest.raises(LongalignError, match="Stable Diffusion 1 or 2"):
        backbone_of(torch.nn.Linear(1, 1))


class PooledClip(Backbone):
    """As Flux reads text: of the CLIP only the vector at its end token, of the T5 the token states."""

    family, title, abbreviation = "pooled-clip", "Pooled CLIP", "PC"
    component, module_class, flow = "transformer", "NoSuchModule", True
    clip_tokens = False
    pooled_clips = (0,)
    t5, t5_length = "text_encoder_2", 8

    def clip_states(self, output: Any) -> tuple[Tensor, Tensor | None]:
        """The pooled vector without a projection."""
        return output.last_hidden_state, output.pooler_output


class T5Alone(Backbone):
    """As PixArt reads text: a T5 and no CLIP."""

    family, title, abbreviation = "t5-alone", "T5 alone", "T5A"
    component, module_class = "transformer", "NoSuchModule"
    clips, clip_tokens = (), False
    t5, t5_length = "text_encoder", 8


@pytest.fixture
def families() -> Iterator[None]:
    own = {"pooled-clip": PooledClip, "t5-alone": T5Alone}
    for name, backbone in own.items():
        BACKBONES[name] = backbone
    yield
    for name in own:
        BACKBONES.pop(name)


@pytest.mark.parametrize(("strategy", "length"), [("clip-cat", 24), ("plain", 8)])
def test_a_clip_that_is_only_pooled(families: None, strategy: str, length: int) -> None:
    """The embeddings are T5's alone, in its width of 40; the CLIP adds its pooled vector of width 32."""
    prompt, clip, t5 = "A cat.", tiny.text_encoder(), tiny.t5_encoder(40)
    parts = TextParts("pooled-clip", (tiny.clip_tokenizer(), tiny.t5_tokenizer()), (clip, t5))
    found = encode(parts, prompt, strategy=strategy, length=24)
    assert found.pooled is not None
    ids = tiny.t5_tokenizer()(prompt, padding="max_length", max_length=length, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(found.embeds, t5(ids)[0])
        ids = tiny.clip_tokenizer()(prompt, return_tensors="pt").input_ids
        torch.testing.assert_close(found.pooled, clip(ids).pooler_output, rtol=1e-4, atol=1e-5)
    assert (found.embeds.shape, found.pooled.shape) == ((1, length, 40), (1, 32))
    assert found.segment_of.shape == (1, length)


def test_a_t5_alone(families: None) -> None:
    """The whole prompt in one piece, with the segment of each token; training joins the same states."""
    prompts = ["A red cat sits. A blue dog runs.", "A house."]
    parts = TextParts("t5-alone", (tiny.t5_tokenizer(),), (tiny.t5_encoder(),))
    found = encode(parts, prompts, "A tree.", strategy="clip-cat", length=24)
    assert found.pooled is None and [s.text for s in found.segments[0]] == [
        "A red cat sits.",
        "A blue dog runs.",
    ]
    ids = tiny.t5_tokenizer()(prompts, padding="max_length", max_length=24, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(found.embeds, parts.text_encoders[0](ids)[0])
    text = int((ids[0] != tiny.t5_tokenizer().pad_token_id).sum()) - 1  # without the end token
    segment_of = found.segment_of[0]
    assert set(segment_of[:text].tolist()) == {0, 1} and set(segment_of[text:].tolist()) == {-1}
    assert encode(parts, "A cat.", strategy="plain").embeds.shape == (1, 8, tiny.WIDTH)
    with pytest.raises(LongalignError, match="T5A has T5 of its own"):
        encode(parts, prompts, strategy="t5-mlp")

    side = TextSide(parts, length=24)
    [(_, joined)] = join(side.encode(prompts), side.padding)
    torch.testing.assert_close(joined.embeds, found.embeds)


def test_no_place_for_soft_tokens(families: None) -> None:
    with pytest.raises(LongalignError, match="soft tokens are for one of sd15, sdxl, sd3, not 't5-alone'"):
        SoftTokenConfig.published("t5-alone")
