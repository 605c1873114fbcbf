"""Attention to sentences: sums over their tokens' maps, normalised, and without an effect on the pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_sd3, tiny_sd15, tiny_sdxl

from longalign import LongalignError, attend, encode
from longalign.diffusion import attention_maps as module
from longalign.diffusion.attention_maps import attention_maps
from longalign.encoding.word_columns import span_columns

PROMPTS = ["A red cat sits on the house. A dog is near the red tree.", "A dog."]
CALL = {"num_inference_steps": 2, "width": 16, "height": 24}
made = cache(lambda make: make())  # no test changes a pipeline


def noise(count: int) -> dict[str, Any]:
    return {**CALL, "generator": [torch.Generator().manual_seed(i) for i in range(count)]}


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sdxl, tiny_sd3])
def test_maps_are_sums_over_the_tokens_of_a_sentence(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two prompts, of two sentences and of one. Of each the sum of its tokens' maps, divided by its total; in pieces of
    7 queries, too."""
    pipe = made(make)
    conditioning = encode(pipe, PROMPTS, strategy="clip-cat", length=24)
    images = pipe(**conditioning.pipeline_kwargs(), **noise(2)).images
    with attention_maps(pipe, range(conditioning.embeds.shape[1])) as maps:
        pipe(**conditioning.pipeline_kwargs(), **noise(2))
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", 7 * 2 * 40)
    seen = attend(pipe, conditioning, **noise(2))
    assert all(np.array_equal(a, b) for a, b in zip(seen.images, images, strict=True))
    assert [len(of_prompt) for of_prompt in seen.maps] == [2, 1]
    by_hand = maps.result()[0][conditioning.segment_of[0] == 1].sum(0)
    torch.testing.assert_close(seen.maps[0][1], by_hand / by_hand.sum(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(seen.maps[0].sum((1, 2)), torch.ones(2))
    torch.testing.assert_close(seen.shares(0).sum(0), torch.ones(6, 4))
    assert seen.heatmap(0, 1).size == (16, 24)


def test_sentences_of_one_segment_by_their_characters() -> None:
    """`packed` makes one segment of both sentences. <sot> and 8 tokens, then 8 tokens; a span past the end has none."""
    pipe = made(tiny_sd15)
    prompt = PROMPTS[0]
    options: Any = {"strategy": "clip-cat", "segments": "packed", "length": 24}
    conditioning = encode(pipe, prompt, **options)
    assert len(conditioning.segments[0]) == 1
    spans = [(0, 28), (29, len(prompt)), (len(prompt), len(prompt) + 9)]
    columns = span_columns(pipe, conditioning, prompt, spans, **options)
    assert columns == [list(range(1, 9)), list(range(9, 17)), []]
    seen = attend(pipe, conditioning, columns=[columns], steps=[1], **noise(1))
    assert seen.maps[0].shape == (3, 6, 4)
    assert seen.maps[0].sum((1, 2)).tolist() == pytest.approx([1, 1, 0])
    assert seen.maps[0][0].ne(seen.maps[0][1]).any()


def test_bad_choices() -> None:
    pipe = made(tiny_sd15)
    conditioning = encode(pipe, PROMPTS, strategy="clip-cat", length=24)
    for columns, more, says in (
        ([[[1]]], {}, "columns of 1 prompts do not go with 2 prompts"),
        ([[[1]], [[24]]], {}, "columns must be from 0 to 23"),
        ([[[]], [[]]], {}, "no sentence has a token"),
        (None, {"steps": [9]}, "no attention was seen"),
        (None, {"num_images_per_prompt": 2}, "one picture a prompt"),
    ):
        with pytest.raises(LongalignError, match=says):
            attend(pipe, conditioning, columns=columns, **{**CALL, **more})
    assert not any(m._forward_pre_hooks for m in pipe.unet.modules())
