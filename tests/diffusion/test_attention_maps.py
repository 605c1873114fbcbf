"""Attention maps of words: equal to softmax(QKᵀ) by hand, of the right tokens, and without an effect on the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import t5_branch, tiny_sd3, tiny_sd15, tiny_sdxl

from longalign.backbones import denoising_module
from longalign.diffusion.attention_maps import attention_maps, heatmap
from longalign.encoding import encode
from longalign.encoding.word_columns import word_columns
from longalign.errors import LongalignError
from longalign.soft_tokens import SoftTokenConfig, SoftTokens

PROMPT = "A red cat sits on the house. A dog is near the red tree."
# CLIP's tokens of the first sentence: <sot> a red cat sits on the house . → the second one's <sot> is at 8 or 9.
PIPELINES = [tiny_sd15, tiny_sdxl, tiny_sd3]
made = cache(lambda make: make())  # no test changes a pipeline


def sampled(pipe: Any, conditioning: Any, **more: Any) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(i) for i in range(len(conditioning))]
    return pipe(
        **conditioning.pipeline_kwargs(),
        generator=generators,
        num_inference_steps=2,
        output_type="pt",
        **{"width": 16, "height": 24, **more},
    ).images


@pytest.mark.parametrize("make", PIPELINES)
def test_the_model_is_unchanged_and_maps_are_shares(make: Callable[[], Any]) -> None:
    """Pictures with maps on, and after, are those from before, to the bit. Over all tokens a UNet's maps sum to 1; in
    SD3 the picture looks at itself, too. Two prompts, two steps, guidance: the maps are of the conditional half."""
    pipe = made(make)
    conditioning = encode(pipe, [PROMPT, "A dog."], strategy="clip-cat", length=24)
    expected = sampled(pipe, conditioning)
    module = denoising_module(pipe)
    hooks = [len(m._forward_pre_hooks) for m in module.modules()]
    with attention_maps(pipe, range(conditioning.embeds.shape[1])) as maps:
        assert torch.equal(sampled(pipe, conditioning), expected)
    assert torch.equal(sampled(pipe, conditioning), expected)
    assert [len(m._forward_pre_hooks) for m in module.modules()] == hooks
    found = maps.result()
    joint = make is tiny_sd3
    # 24 × 16 pixels are 12 × 8 latents. Attention to text begins at half of them in a UNet, and at patches in SD3.
    assert found.shape == (2, conditioning.embeds.shape[1], 6, 4)
    total = found.sum(1)
    if joint:
        assert (total > 0.1).all() and (total < 0.95).all()
    else:
        torch.testing.assert_close(total, torch.ones_like(total))
    assert not torch.allclose(found[0], found[1])
    alone = conditioning[0]
    with attention_maps(pipe, range(conditioning.embeds.shape[1])) as first:
        sampled(pipe, alone)
    torch.testing.assert_close(first.result()[0], found[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sd3])
def test_equals_the_softmax_by_hand(make: Callable[[], Any]) -> None:
    """Of one layer in the second step: diffusers' own scores, from what the layer was given."""
    pipe = made(make)
    conditioning = encode(pipe, PROMPT, strategy="clip-cat", length=24)
    joint = make is tiny_sd3
    module = denoising_module(pipe)
    layer = (
        module.transformer_blocks[1].attn
        if joint
        else [m for n, m in module.named_modules() if n.endswith("attn2")][1]
    )
    seen: list[Any] = []
    handle = layer.register_forward_pre_hook(lambda _, args, kw: seen.append((args, kw)), with_kwargs=True)
    with attention_maps(pipe, [3, 11], layers={1}, steps={1}) as maps:
        sampled(pipe, conditioning)
    handle.remove()
    args, kwargs = seen[1]  # the second step; rows: unconditional, conditional
    image, text = (args[0] if args else kwargs["hidden_states"]), kwargs["encoder_hidden_states"]
    split = layer.head_to_batch_dim
    with torch.no_grad():
        keys = layer.add_k_proj(text) if joint else layer.to_k(text)
        if joint:
            keys = torch.cat([keys, layer.to_k(image)], dim=1)  # text first here
        scores = layer.get_attention_scores(split(layer.to_q(image)), split(keys))  # (2 heads, N, keys)
    by_hand = scores.unflatten(0, (2, layer.heads))[1].mean(0)[:, [3, 11]].mT
    torch.testing.assert_close(maps.result()[0].flatten(1), by_hand)


def test_soft_tokens_are_not_counted() -> None:
    """Four tokens stand behind the first of the UNet's text. Of what is left to the other tokens, each has the share
    that it has without soft tokens in the first step, since the first layer is given the same picture."""
    pipe = made(tiny_sd15)
    conditioning = encode(pipe, PROMPT, strategy="clip-cat", length=24)
    config = SoftTokenConfig.of(pipe.unet, stages=("down",))
    with attention_maps(pipe, range(24), layers={0}, steps={0}) as without:
        sampled(pipe, conditioning)
    with SoftTokens(config).attach(pipe.unet), attention_maps(pipe, range(24), layers={0}, steps={0}) as maps:
        sampled(pipe, conditioning)
    total = maps.result().sum(1, keepdim=True)
    assert (total < 0.999).all() and (total > 0.1).all()  # the rest is the soft tokens'
    expected = without.result()
    # Shares are those of the mean over heads, and so equal up to the heads' differences.
    torch.testing.assert_close(maps.result() / total, expected, atol=2e-3, rtol=0)
    assert expected.std(1).max() > 4e-3


def test_columns_of_words() -> None:
    """`a red cat sits on the house .` has 8 tokens behind <sot>: red is 2, cat 3, house 7. Encoded by segments without
    end tokens, the second sentence's <sot> is at 9 and `a dog is near the red tree .` stands at 10…17: red at 15.
    In one window of 77 there is no second <sot>, so that red is at 14."""
    pipe = made(tiny_sd15)
    for strategy, expected in (
        ("clip-cat", [[2], [15]]),
        ("plain", [[2], [14]]),
        ("clip-cat:sot=first", [[2], [14]]),
        ("clip-cat:eot=keep", [[2], [16]]),
    ):
        conditioning = encode(pipe, PROMPT, strategy=strategy)
        assert word_columns(pipe, conditioning, PROMPT, "RED", strategy=strategy) == expected
    assert word_columns(pipe, encode(pipe, PROMPT), PROMPT, "the house") == [
        [6, 7]
    ]  # auto: it fits, so plain
    together = encode(pipe, ["A dog.", PROMPT], strategy="clip-cat", length=16, pad_together=True)
    assert word_columns(pipe, together, PROMPT, "cat", row=1, strategy="clip-cat", length=16) == [[3]]
    long = " ".join(["A red house is near the tree."] * 20)
    found = word_columns(pipe, encode(pipe, long), long, "tree")
    assert found == [[7 + 9 * i] for i in range(20)]  # <sot> and 8 tokens a sentence


def test_columns_of_words_for_t5() -> None:
    """SD3's row: CLIP's part, padded to 24 here, then T5's. T5 has no start token: `a` is at 24 + 0, `red` at 24 + 1,
    and `cat` is one token of the tiny tokenizer, too."""
    pipe = made(tiny_sd3)
    options = {"strategy": "clip-cat", "length": 24}
    conditioning = encode(pipe, "a red cat", **options)
    assert word_columns(pipe, conditioning, "a red cat", "red", **options) == [[2, 25]]
    branch = t5_branch()
    options = {"strategy": "t5-mlp", "t5": branch, "length": 24}
    pipe = made(tiny_sd15)
    conditioning = encode(pipe, "a red cat", **options)
    assert word_columns(pipe, conditioning, "a red cat", "cat", **options) == [[2]]


def test_words_that_are_not_there() -> None:
    pipe = made(tiny_sd15)
    conditioning = encode(pipe, PROMPT, strategy="clip-cat")
    with pytest.raises(LongalignError, match="does not have the word 'huose'; did you mean 'house'"):
        word_columns(pipe, conditioning, PROMPT, "huose", strategy="clip-cat")
    with pytest.raises(LongalignError, match="does not have the word 'ca'"):
        word_columns(pipe, conditioning, PROMPT, "ca", strategy="clip-cat")
    with pytest.raises(
        LongalignError, match="row 0 of the conditioning is not this prompt with these options"
    ):
        word_columns(pipe, conditioning, PROMPT, "cat", strategy="plain")
    long = "A red house is near the tree. " * 12 + "A cat."
    with pytest.warns(UserWarning, match="did not fit"):
        cut = encode(pipe, long, strategy="plain")
    with pytest.raises(LongalignError, match="'cat' was cut off"):
        word_columns(pipe, cut, long, "cat", strategy="plain")


def test_bad_choices_say_what_there_is() -> None:
    pipe = made(tiny_sd15)
    conditioning = encode(pipe, PROMPT, strategy="clip-cat", length=24)
    for columns, more, says in (
        ([], {}, "no token columns"),
        ([1], {"layers": [99]}, r"the model has \d+, counted from 0"),
        ([24], {}, "token columns must be from 0 to 23"),
        ([1], {"steps": [7]}, "no attention was seen"),
        ([1], {"factors": [64]}, "no attention was seen"),
    ):
        with pytest.raises(LongalignError, match=says), attention_maps(pipe, columns, **more) as maps:
            sampled(pipe, conditioning)
            maps.result()
    with pytest.raises(LongalignError, match="of one call"), attention_maps(pipe, [1]):
        sampled(pipe, conditioning)
        sampled(pipe, encode(pipe, ["A dog.", PROMPT], strategy="clip-cat", length=24))
    assert not any(m._forward_pre_hooks for m in pipe.unet.modules())


def test_a_heatmap_is_red_where_the_map_is_high() -> None:
    """A map whose right half is high, over a black picture at half opacity: half of (220, 0, 0) and of (0, 0, 160)."""
    attention = torch.tensor([[0.1, 0.1, 0.3, 0.3]] * 4)
    shown = heatmap(Image.new("RGB", (64, 64)), attention)
    assert shown.getpixel((63, 10)) == (110, 0, 0) and shown.getpixel((0, 10)) == (0, 0, 80)
    flat = heatmap(Image.new("RGB", (8, 8), "white"), torch.ones(2, 2), opacity=1.0)
    assert flat.getpixel((4, 4)) == (0, 0, 160)
    for map_, opacity in (
        (torch.ones(1, 2, 2), 0.5),
        (torch.tensor([[float("nan")]]), 0.5),
        (torch.ones(2, 2), 2.0),
    ):
        with pytest.raises(LongalignError, match=r"a map is|opacity must be"):
            heatmap(Image.new("RGB", (8, 8)), map_, opacity)
