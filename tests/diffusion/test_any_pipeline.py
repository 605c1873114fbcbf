"""Any text-to-image pipeline of diffusers: opened by name, checked before it is called, and drawn with."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from diffusers import (
    KandinskyV22CombinedPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
)
from PIL import Image
from tiny import tiny_sd15

from longalign.diffusion.any_pipeline import check_call, draw_any, filtered, open_any
from longalign.errors import LongalignError

PROMPTS = ["a red cat sits on the house", "a dog", "the tree is near the house"]
NO_BINS = {"arguments": {"use_resolution_binning": False}}  # they begin at 256 px
SIDE = {"width": 32, "height": 32}
PIPELINES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "pixart": (tiny.tiny_pixart, NO_BINS),
    "sana": (tiny.tiny_sana, NO_BINS | SIDE),
    "flux": (tiny.tiny_flux, SIDE),
    "kandinsky": (tiny.tiny_kandinsky, SIDE | {"arguments": {"prior_num_inference_steps": 2}}),
}
made = cache(lambda make: make())  # no test changes a pipeline for good


@pytest.mark.parametrize("family", PIPELINES)
def test_a_picture_depends_on_its_prompt_and_seed_alone(family: str) -> None:
    """Three prompts in batches of two; the second one alone, with another seed, and another prompt with its seed."""
    make, options = PIPELINES[family]
    pipe, told = made(make), []
    drawn = draw_any(
        pipe, PROMPTS, [4, 5, 6], steps=2, batch_size=2, on_image=lambda row, _: told.append(row), **options
    )
    assert told == [0, 1, 2] and [image.size for image in drawn] == [(32, 32)] * 3
    assert [filtered(image) for image in drawn] == [None] * 3
    second = np.asarray(drawn[1], np.int64)

    def difference(prompt: str, seed: int) -> int:
        image = draw_any(pipe, [prompt], [seed], steps=2, **options)[0]
        return abs(np.asarray(image, np.int64) - second).max()

    assert difference(PROMPTS[1], 5) <= 1 < 8 < difference(PROMPTS[1], 7)
    assert difference(PROMPTS[0], 5) > 0


def test_options_and_arguments_reach_the_pipeline() -> None:
    """They are what the pipeline's own call with these names gives; texts are repeated for each prompt."""
    pipe = made(tiny.tiny_pixart)
    own = {
        "use_resolution_binning": False,
        "width": 16,
        "height": 48,
        "guidance_scale": 9.0,
        "num_inference_steps": 3,
    }
    expected = pipe(
        PROMPTS[:2],
        negative_prompt=["blurry"] * 2,
        generator=[torch.Generator().manual_seed(i) for i in range(2)],
        **own,
    ).images
    arguments = {"use_resolution_binning": False, "negative_prompt": "blurry"}
    found = draw_any(
        pipe, PROMPTS[:2], [0, 1], steps=3, guidance=9.0, width=16, height=48, arguments=arguments
    )
    assert found[0].size == (16, 48)
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(found, expected, strict=True))


def test_the_halves_of_kandinsky_are_opened_together(tmp_path: Path) -> None:
    """As they are published: the decoder's card names the prior. The same weights draw the same picture."""
    whole, prior, decoder = made(tiny.tiny_kandinsky), tmp_path / "prior", tmp_path / "decoder"
    whole.prior_pipe.save_pretrained(prior)
    whole.decoder_pipe.save_pretrained(decoder)
    (decoder / "README.md").write_text(f"---\nprior:\n- {prior}\n---\n")
    pipe = open_any(decoder, "cpu", "float32")
    assert type(pipe) is KandinskyV22CombinedPipeline
    options = {**SIDE, "arguments": {"prior_num_inference_steps": 2}}
    pictures = [np.asarray(draw_any(p, PROMPTS[:1], [0], steps=2, **options)[0]) for p in (pipe, whole)]
    assert (pictures[0] == pictures[1]).all()
    with pytest.raises(LongalignError, match=r"gives image_embeds, .* instead of 1 pictures"):
        draw_any(whole.prior_pipe, PROMPTS[:1], [0], steps=2)


def test_an_ordinary_model_opens_as_itself() -> None:
    """And draws as it is published, with the first 77 tokens."""
    image = draw_any(open_any("stickers", "cpu"), ["The background is navy."], [0], steps=2)[0]
    assert image.size == (96, 96) and filtered(image) is None


def test_folders_that_draw_nothing_from_a_prompt(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match=r"no-such-model"):
        open_any("./no-such-model", "cpu")
    tmp_path.joinpath("model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    with pytest.raises(LongalignError, match=r"DDPMPipeline takes no prompt \(it takes batch_size"):
        open_any(tmp_path, "cpu")


def test_what_a_pipeline_needs_besides_a_prompt_is_named() -> None:
    """Diffusers gives pictures the default None and refuses it later, with a message about types."""
    parts = made(tiny_sd15).components
    img2img = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    with pytest.raises(LongalignError, match="StableDiffusionImg2ImgPipeline needs image, which nobody gave"):
        draw_any(img2img, PROMPTS, [0, 1, 2], steps=2)
    for kind in (StableDiffusionControlNetPipeline, StableDiffusionInstructPix2PixPipeline):
        with pytest.raises(LongalignError, match="needs image, which"):
            check_call(kind, {"image": None})
    check_call(img2img, {"image": Image.new("RGB", (32, 32))})

    class Needy:
        def __call__(self, prompt: list[str], mood: str, *, speed: float, **more: Any) -> None: ...

    with pytest.raises(LongalignError, match="Needy needs mood and speed, which nobody gave"):
        check_call(Needy(), {"whatever": 1})
    with pytest.raises(LongalignError, match="KandinskyV22Pipeline takes no prompt"):
        check_call(tiny.tiny_kandinsky_decoder(), {})


BAD = [
    (
        {"arguments": {"guidance": 3}},
        "PixArtAlphaPipeline has no argument 'guidance'; did you mean 'guidance_scale'",
    ),
    ({"arguments": {"zzz": 3}}, r"no argument 'zzz' \(it has prompt, negative_prompt"),
    ({"steps": 2, "arguments": {"num_inference_steps": 3}}, "num_inference_steps is given twice"),
    ({"arguments": {"generator": 3}}, "generator cannot be given as an argument: give seeds"),
    ({"width": 33, **NO_BINS}, "PixArtAlphaPipeline refuses its arguments: .*height.* and .*width"),
    ({"batch_size": 0}, "batch size must be at least 1"),
]


@pytest.mark.parametrize(("options", "says"), BAD)
def test_wrong_arguments_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(LongalignError, match=says):
        draw_any(made(tiny.tiny_pixart), ["a cat"], [0], **options)
    with pytest.raises(LongalignError, match="1 prompts need as many seeds, not 2"):
        draw_any(None, ["a cat"], [0, 1])


class Fixed:
    """A pipeline that draws given pictures: (B, H, W, 3) in [0, 1]."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __call__(self, prompt: list[str]) -> SimpleNamespace:
        return SimpleNamespace(images=self.images)


def test_filtered_pictures_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a safety checker, or all black for another reason; grey is a picture."""
    pipe = made(tiny_sd15)

    def check(pixels: torch.Tensor, *_: Any) -> tuple[torch.Tensor, list[bool]]:
        return pixels * torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1), [False, True]

    monkeypatch.setattr(pipe, "run_safety_checker", check)
    drawn = draw_any(pipe, PROMPTS[:2], [0, 1], steps=2, **SIDE)
    assert [filtered(image) for image in drawn] == [None, "safety checker"]
    shades = np.ones((2, 4, 4, 3), np.float32) * np.array([0.0, 0.5], np.float32).reshape(2, 1, 1, 1)
    assert [filtered(image) for image in draw_any(Fixed(shades), PROMPTS[:2], [0, 1])] == ["all black", None]
    grey = draw_any(Fixed([Image.new("L", (4, 4), 128)]), PROMPTS[:1], [0])[0]
    assert grey.mode == "RGB" and grey.getpixel((0, 0)) == (128, 128, 128)


def test_pictures_with_nan_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = made(tiny_sd15)
    last = pipe.vae.decoder.conv_out
    monkeypatch.setattr(last, "bias", torch.nn.Parameter(torch.full_like(last.bias, float("nan"))))
    with pytest.raises(LongalignError, match="the image has NaN in it"):
        draw_any(pipe, PROMPTS[:1], [0], steps=1, **SIDE)
    with pytest.raises(LongalignError, match="Fixed gives SimpleNamespace instead of 1 pictures"):
        draw_any(Fixed(None), PROMPTS[:1], [0])
