"""The default strategy: a prompt that fits is encoded as the pipeline encodes it, a longer one by segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from segment_encoding import encode as encode_segments
from tiny import tiny_sd3, tiny_sd15, tiny_sdxl

from longalign import LongalignError, encode, encode_groups
from longalign.encoding.encode import fits

LONG = "A red cat sits on the disc. " * 20
MAKE = [tiny_sd15, tiny_sdxl, tiny_sd3]


@pytest.mark.parametrize("make", MAKE)
def test_a_short_prompt_equals_the_pipeline_to_the_bit(make: Callable[[], Any]) -> None:
    """All tensors that the pipeline makes of the prompt, and the picture that it draws from them."""
    pipe = make()
    prompt = "A cat sits on the red disc. It is raining."
    ours = encode(pipe, prompt, "blurry").pipeline_kwargs()
    with torch.no_grad():
        if make is tiny_sd15:
            theirs = pipe.encode_prompt(prompt, "cpu", 1, True, "blurry")
        elif make is tiny_sdxl:
            theirs = pipe.encode_prompt(prompt, negative_prompt="blurry")
        else:
            theirs = pipe.encode_prompt(prompt, None, None, negative_prompt="blurry")
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    for name, tensor in zip(names, theirs, strict=False):
        assert torch.equal(ours[name], tensor), name

    def drawn(**kwargs: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        return pipe(**kwargs, num_inference_steps=2, output_type="np", generator=generator).images

    pipe.set_progress_bar_config(disable=True)
    assert (drawn(**ours) == drawn(prompt=prompt, negative_prompt="blurry")).all()


def test_a_long_prompt_is_encoded_by_segments() -> None:
    pipe = tiny_sd15()
    assert torch.equal(encode(pipe, LONG).embeds, encode_segments(pipe, LONG).embeds)
    # also where it is only the negative prompt that does not fit
    found, expected = encode(pipe, "A cat.", LONG), encode_segments(pipe, "A cat.", LONG)
    assert torch.equal(found.embeds, expected.embeds) and found.embeds.shape[1] == 240


def test_each_prompt_by_itself() -> None:
    """Neighbours have no influence: two groups, each as if its prompt were alone."""
    pipe = tiny_sd15()
    groups = encode_groups(pipe, ["A cat.", LONG, "A dog."], ["", "bad", ""])
    assert [(members, c.embeds.shape[1]) for members, c in groups] == [([0, 2], 77), ([1], 240)]
    torch.testing.assert_close(groups[0][1][1].embeds, encode(pipe, "A dog.").embeds, rtol=1e-4, atol=1e-5)
    assert torch.equal(groups[1][1].negative_embeds, encode(pipe, LONG, "bad").negative_embeds)
    assert fits(pipe, ["A cat.", LONG, "A dog."]) == [True, False, True]
    assert fits(pipe, ["A cat BREAK a dog", "A cat."], syntax="a1111") == [False, True]
    assert fits(pipe, ["A cat sits.", "A"], max_length=4) == [False, True]  # 6 and 3 tokens


def test_pad_together() -> None:
    """One tensor for all: by segments, since the long one needs it, and as long as that one."""
    pipe = tiny_sd15()
    with pytest.raises(LongalignError, match=r"prompt 1: 77 tokens, prompt 2: 240 tokens.*pad_together=True"):
        encode(pipe, ["A cat.", LONG])
    found = encode(pipe, ["A cat.", LONG * 2], pad_together=True)
    assert found.embeds.shape == (2, 480, 32)
    torch.testing.assert_close(found[:1].embeds, encode_segments(pipe, "A cat.", length=480).embeds)
    assert encode(pipe, ["A cat.", "A dog."], pad_together=True).embeds.shape[1] == 77
