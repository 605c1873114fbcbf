"""Texts for several encoders, skipped layers, repaired text, and the small conveniences of `Conditioning`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from segment_encoding import encode as encode_segments
from tiny import tiny_sd3, tiny_sd15, tiny_sdxl
from transformers import CLIPTextModel

from longalign import LongalignError, encode

PROMPT = "A red cat sits on a log."


def own_encoding(pipe: Any, make: Callable[[], Any], **kwargs: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        if make is tiny_sd15:
            return pipe.encode_prompt(PROMPT, "cpu", 1, True, "blurry", **kwargs)
        if make is tiny_sd3:
            kwargs = {"prompt_2": None, "prompt_3": None, **kwargs}
        return pipe.encode_prompt(PROMPT, negative_prompt="blurry", **kwargs)


def assert_equal(found: Any, theirs: list[torch.Tensor]) -> None:
    ours = (found.embeds, found.negative_embeds, found.pooled, found.negative_pooled)
    for a, b in zip(ours, theirs, strict=False):
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sdxl, tiny_sd3])
@pytest.mark.parametrize("clip_skip", [0, 1])
def test_clip_skip_as_in_diffusers(
    make: Callable[[], Any], clip_skip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # diffusers asks for `text_model`, which transformers 5 no longer has
    monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)
    pipe = make()
    found = encode(pipe, PROMPT, "blurry", clip_skip=clip_skip)
    assert_equal(found, own_encoding(pipe, make, clip_skip=clip_skip))


def test_clip_skip_in_segments_has_its_own_pads() -> None:
    """pad* is of the same layer as the text: the mean over the pads of the empty prompt."""
    pipe = tiny_sd15()
    found = encode_segments(pipe, PROMPT, clip_skip=1).embeds[0, -1]
    expected = encode(pipe, "", clip_skip=1, strategy="plain").embeds[0, 2:].mean(dim=0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(LongalignError, match=r"clip_skip=3: text_encoder has 2 layers: choose 0 to 2"):
        encode(pipe, PROMPT, clip_skip=3)


@pytest.mark.parametrize("make", [tiny_sdxl, tiny_sd3])
def test_other_texts_for_other_encoders(make: Callable[[], Any]) -> None:
    pipe = make()
    texts = {"prompt_2": "A dog runs.", "negative_prompt_2": "dark"}
    if make is tiny_sd3:
        texts |= {"prompt_3": "a house", "negative_prompt_3": "a tree"}
    assert_equal(encode(pipe, PROMPT, "blurry", **texts), own_encoding(pipe, make, **texts))  # type: ignore[arg-type]


def test_other_texts_by_segments() -> None:
    """The first 32 features are the first CLIP's, of one sentence; the others the second's, of two sentences.

    "A cat." has 4 tokens with <sot>; "A dog runs. A house." has 5 + 4.
    """
    pipe = tiny_sdxl()
    found = encode_segments(pipe, ["A cat."], prompt_2=["A dog runs. A house."])
    width = pipe.text_encoder.config.hidden_size
    first, second = encode_segments(pipe, "A cat."), encode_segments(pipe, "A dog runs. A house.")
    assert torch.equal(found.embeds[..., :width], first.embeds[..., :width])
    assert torch.equal(found.embeds[..., width:], second.embeds[..., width:])
    assert found.pooled is not None and torch.equal(found.pooled, second.pooled)
    assert [s.text for s in found.segments[0]] == ["A cat."]


def test_texts_for_encoders_that_are_not_there() -> None:
    with pytest.raises(LongalignError, match=r"prompt_2 is for text_encoder_2.*with text_encoder: leave it"):
        encode(tiny_sd15(), PROMPT, prompt_2="A dog.")
    with pytest.raises(LongalignError, match="prompt_3 is for text_encoder_3"):
        encode(tiny_sdxl(), PROMPT, prompt_3="A dog.")
    with pytest.raises(LongalignError, match="go with a negative_prompt"):
        encode(tiny_sdxl(), PROMPT, negative_prompt_2="A dog.")
    with pytest.raises(LongalignError, match="2 prompt_2s do not go with 1 prompts"):
        encode(tiny_sdxl(), PROMPT, prompt_2=["A dog.", "A cat."])


def test_text_is_repaired_for_segments_only() -> None:
    """The curly quotes become straight ones in segments; `plain` is the pipeline's own; `clean=False` leaves them."""
    pipe = tiny_sd15()
    curly, straight = "A sign reads “open” &amp; “new”.", 'A sign reads "open" & "new".'
    assert torch.equal(encode_segments(pipe, curly).embeds, encode_segments(pipe, straight).embeds)
    assert not torch.equal(
        encode_segments(pipe, curly, clean=False).embeds, encode_segments(pipe, straight).embeds
    )
    plain = encode(pipe, curly, strategy="plain").embeds
    with torch.no_grad():
        assert torch.equal(plain, pipe.encode_prompt(curly, "cpu", 1, False)[0])


def test_offsets_point_into_what_was_written() -> None:
    """max_length 8 holds <sot> and 7 tokens of ``a ﬁne “fox” on a log``: a fine " fox " on a; "log" is cut."""
    pipe = tiny_sd15()
    prompt = "a ﬁne “fox” on a log"
    with pytest.warns(UserWarning, match="did not fit"):
        found = encode_segments(pipe, prompt, max_length=8)
    [[cut]] = found.truncation
    assert prompt[cut.start : cut.end] == cut.text == "log"
    assert found.segments[0][0].text == prompt


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sdxl, tiny_sd3])
def test_several_pictures_a_prompt(make: Callable[[], Any]) -> None:
    """Two prompts, two pictures each, in diffusers' order; every pipeline draws them."""
    pipe = make()
    found = encode(pipe, ["A cat.", "A dog."])
    kwargs = found.pipeline_kwargs(num_images_per_prompt=2)
    for name, tensor in kwargs.items():
        single = found.pipeline_kwargs()[name]
        assert torch.equal(tensor, single[[0, 0, 1, 1]]), name
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe(**kwargs, num_inference_steps=1, output_type="np").images) == 4
    with pytest.raises(LongalignError, match="num_images_per_prompt must be 1 or more, not 0"):
        found.pipeline_kwargs(num_images_per_prompt=0)


def test_small_conveniences() -> None:
    found = encode(tiny_sd15(), ["A cat. It sits.", "A dog."])
    assert repr(found) == (
        "Conditioning(sd15: 2 prompts, 3 segments, 77 tokens of width 32, nothing cut, float32 on cpu)"
    )
    half = found.to(torch.float16)
    assert half.dtype == half.negative_embeds.dtype == torch.float16 and half.segment_of.dtype == torch.int64
    assert found.to("cpu", torch.bfloat16).dtype == torch.bfloat16 and found.to("cpu").dtype == torch.float32


def test_an_unknown_option_names_the_function() -> None:
    with pytest.raises(
        TypeError, match=r"encode: option 'negativ_prompt' is unknown; did you mean 'negative_prompt'"
    ):
        encode(tiny_sd15(), "A cat.", negativ_prompt="bad")  # type: ignore[call-arg]
