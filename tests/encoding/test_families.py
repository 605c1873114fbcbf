"""SDXL, SD3 and the T5 branch: joined as their pipelines join, checked against direct calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from segment_encoding import encode
from tiny import save_t5_branch, t5_branch, tiny_sd3, tiny_sd15, tiny_sdxl

from longalign.encoding import T5Branch, TextParts, TruncationWarning
from longalign.errors import LongalignError

SENTENCES = ["A cat sits on the red disc!", "The dog runs."]
PROMPT = " ".join(SENTENCES)
LONG = " ".join(
    f"A {a} {n} stands near the {b} tree."
    for a in ("red", "old")
    for n in ("cat", "dog")
    for b in ("tall", "dry", "big", "odd", "low", "new")
)


@pytest.fixture(scope="module")
def sdxl() -> Any:
    return tiny_sdxl()


@pytest.fixture(scope="module")
def sd3() -> Any:
    return tiny_sd3()


@pytest.fixture(scope="module")
def branch() -> T5Branch:
    return t5_branch()


@torch.no_grad()
def clip_call(pipe: Any, suffix: str, text: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(77, D) penultimate states, the model's first output, and the number of text tokens."""
    settings = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}
    inputs = getattr(pipe, "tokenizer" + suffix)(text, **settings)
    output = getattr(pipe, "text_encoder" + suffix)(inputs.input_ids, output_hidden_states=True)
    return output.hidden_states[-2][0], output[0][0], int(inputs.attention_mask.sum()) - 2


def naive_clip_rows(pipe: Any, sentences: list[str], length: int) -> torch.Tensor:
    """(length, D1 + D2): each sentence through both CLIPs, states side by side, pad* of both at the end."""
    rows = []
    for sentence in sentences:
        (left, _, n), (right, _, m) = clip_call(pipe, "", sentence), clip_call(pipe, "_2", sentence)
        assert n == m
        rows.append(torch.cat([left[: n + 1], right[: n + 1]], dim=-1))
    star = torch.cat([clip_call(pipe, suffix, "")[0][2:].mean(0) for suffix in ("", "_2")])
    n = sum(map(len, rows))
    return torch.cat([*rows, star.expand(length - n, -1)])


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


# --- SDXL ---


def test_sdxl_joins_two_encoders_token_by_token(sdxl: Any) -> None:
    """The second tokenizer pads with "!"; the "!" of the prompt stays all the same."""
    conditioning = encode(sdxl, PROMPT)
    assert_close(conditioning.embeds[0], naive_clip_rows(sdxl, SENTENCES, 240))
    assert conditioning.segment_of[0].tolist() == [0] * 9 + [1] * 5 + [-1] * 226


@pytest.mark.parametrize("policy", ["whole", "first", "mean"])
def test_sdxl_pooled_vector(sdxl: Any, policy: str) -> None:
    whole = clip_call(sdxl, "_2", PROMPT)[1]
    of_sentences = [clip_call(sdxl, "_2", sentence)[1] for sentence in SENTENCES]
    expected = {"whole": whole, "first": of_sentences[0], "mean": sum(of_sentences) / 2}[policy]
    assert_close(encode(sdxl, PROMPT, pooled=policy).pooled[0], expected)


def test_whole_reads_the_first_window_of_a_long_prompt(sdxl: Any) -> None:
    assert_close(encode(sdxl, LONG, length=480).pooled[0], clip_call(sdxl, "_2", LONG)[1])


def test_sdxl_negative_of_none_is_zeros_and_empty_is_encoded(sdxl: Any) -> None:
    none, empty = encode(sdxl, PROMPT), encode(sdxl, PROMPT, "")
    assert not none.negative_embeds.any() and not none.negative_pooled.any()
    assert none.negative_segment_of.eq(-1).all()
    assert_close(empty.negative_embeds[0], naive_clip_rows(sdxl, [""], 240))
    assert_close(empty.negative_pooled[0], clip_call(sdxl, "_2", "")[1])
    without = encode(tiny_sdxl(force_zeros_for_empty_prompt=False), PROMPT)
    assert_close(without.negative_embeds, empty.negative_embeds)


def test_a_token_that_only_one_encoder_knows(sdxl: Any) -> None:
    """ "<toy>" is one token of the first CLIP and three ("<", "toy", ">") of the second. The first's row
    is filled with its pad*: <sot> A <toy> . pad* pad* | beside <sot> A < toy > ."""
    pipe = tiny_sdxl()
    pipe.tokenizer.add_tokens(["<toy>"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    conditioning = encode(pipe, "A <toy>. A cat.")
    (left, _, n), (right, _, m) = clip_call(pipe, "", "A <toy>."), clip_call(pipe, "_2", "A <toy>.")
    assert (n, m) == (3, 5)
    star = clip_call(pipe, "", "")[0][2:].mean(0)
    assert_close(conditioning.embeds[0, :6, :32], torch.cat([left[:4], star.expand(2, -1)]))
    assert_close(conditioning.embeds[0, :6, 32:], right[:6])
    assert_close(conditioning.embeds[0, 6:10, :32], clip_call(pipe, "", "A cat.")[0][:4])
    kept = encode(pipe, "A <toy>.", strategy="clip-cat:eot=keep")
    assert_close(kept.embeds[0, 6], torch.cat([left[4], right[6]]))  # the end tokens stand side by side


def test_relatives_and_the_refiner_are_told_by_their_components(sdxl: Any) -> None:
    relative = StableDiffusionXLImg2ImgPipeline(**sdxl.components)
    assert torch.equal(encode(relative, PROMPT).embeds, encode(sdxl, PROMPT).embeds)
    parts = {**sdxl.components, "text_encoder": None, "tokenizer": None}
    refiner = StableDiffusionXLPipeline(**parts)
    conditioning = encode(refiner, PROMPT)
    assert_close(conditioning.embeds[0], naive_clip_rows(sdxl, SENTENCES, 240)[:, 32:])
    plain = encode(refiner, "A cat.", strategy="plain")
    with torch.no_grad():
        assert torch.equal(plain.embeds, refiner.encode_prompt(["A cat."])[0])


def test_pooling_at_a_token_that_no_text_has_is_noticed() -> None:
    """A small-vocabulary CLIP whose configuration keeps 49407 pools at place 0, for every text."""
    pipe = tiny_sdxl()
    pipe.text_encoder_2.config.eos_token_id = 49_000
    with pytest.warns(UserWarning, match="text_encoder_2 pools at token id 49000"):
        encode(pipe, PROMPT)


# --- SD3 ---


@torch.no_grad()
def t5_call(tokenizer: Any, encoder: Any, text: str, length: int) -> torch.Tensor:
    """(length, D), padded and not masked."""
    inputs = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return encoder(inputs.input_ids)[0][0]


def test_sd3_puts_t5_behind_the_clips(sd3: Any) -> None:
    """Width 80 = 72 of the CLIPs and 8 zeros. T5 reads the whole prompt."""
    conditioning = encode(sd3, PROMPT, "blue dog")
    clips, t5 = conditioning.embeds[0].split([240, 240])
    assert_close(clips[:, :72], naive_clip_rows(sd3, SENTENCES, 240))
    assert not clips[:, 72:].any()
    assert_close(t5, t5_call(sd3.tokenizer_3, sd3.text_encoder_3, PROMPT, 240))
    assert_close(
        conditioning.negative_embeds[0, 240:], t5_call(sd3.tokenizer_3, sd3.text_encoder_3, "blue dog", 240)
    )
    pooled = torch.cat([clip_call(sd3, suffix, PROMPT)[1] for suffix in ("", "_2")])
    assert_close(conditioning.pooled[0], pooled)


def test_t5_tokens_know_their_segment(sd3: Any) -> None:
    """Place 240 is where T5's part begins. Its tokens are those of the first sentence, then the second's,
    then </s>, which is nobody's."""
    conditioning = encode(sd3, PROMPT)
    first, second = (len(sd3.tokenizer_3(s, add_special_tokens=False).input_ids) for s in SENTENCES)
    t5 = conditioning.segment_of[0, 240:].tolist()
    assert t5 == [0] * first + [1] * second + [-1] * (240 - first - second)


def test_sd3_without_t5_has_zeros_there() -> None:
    conditioning = encode(tiny_sd3(with_t5=False), PROMPT)
    assert conditioning.embeds.shape == (1, 480, 80)
    assert not conditioning.embeds[:, 240:].any() and conditioning.embeds[:, :240, :72].any()


def test_t5_goes_as_far_as_its_tokenizer_states(sd3: Any) -> None:
    """512 tokens, one of them </s>: "cat " 511 times, cut at 4 · 511 = 2044 of 600 · 4 − 1 = 2399. In
    multiples of 240 that is 720. CLIP has no limit: 600 words are 8 windows of 75, and 608 with <sot>."""
    with pytest.warns(TruncationWarning, match="text_encoder_3"):
        conditioning = encode(sd3, "cat " * 600)
    assert conditioning.embeds.shape[1] == 720 + 720
    assert [(c.start, c.end, c.where) for c in conditioning.truncation[0]] == [(2044, 2399, "text_encoder_3")]


# --- the T5 branch of SD1.5 ---


def test_t5_mlp_and_clip_with_t5(branch: T5Branch) -> None:
    pipe = tiny_sd15()
    with torch.no_grad():
        expected = branch.adapter(t5_call(branch.tokenizer, branch.encoder, PROMPT, 240))
    alone = encode(pipe, PROMPT, strategy="t5-mlp", t5=branch)
    assert_close(alone.embeds[0], expected)
    both = encode(pipe, PROMPT, strategy="clip+t5", t5=branch)
    assert both.embeds.shape == both.negative_embeds.shape == (1, 480, 32)
    assert_close(both.embeds[0, 240:], expected)
    assert torch.equal(both.embeds[:, :240], encode(pipe, PROMPT).embeds)
    by_rule = encode(pipe, PROMPT, strategy="clip+t5:eot=keep", t5=branch)
    assert torch.equal(by_rule.embeds[:, :240], encode(pipe, PROMPT, strategy="clip-cat:eot=keep").embeds)


def test_each_part_has_its_own_length(branch: T5Branch) -> None:
    """Words that T5's small vocabulary lacks are spelt out there: its part grows, CLIP's does not."""
    prompt = "extraordinarily incomprehensible " * 16
    conditioning = encode(tiny_sd15(), prompt, strategy="clip+t5", t5=branch)
    assert 480 < len(branch.tokenizer(prompt).input_ids) <= 512
    assert conditioning.embeds.shape[1] == 240 + 720


def test_sdxl_takes_the_branch_too(sdxl: Any) -> None:
    conditioning = encode(sdxl, PROMPT, strategy="t5-mlp", t5=t5_branch(out_dim=72))
    assert conditioning.embeds.shape == (1, 240, 72)
    assert_close(conditioning.pooled[0], clip_call(sdxl, "_2", PROMPT)[1])
    assert not conditioning.negative_embeds.any()


def test_branch_from_a_folder(branch: T5Branch, tmp_path: Path) -> None:
    save_t5_branch(branch, tmp_path)
    pipe = tiny_sd15()
    ours = encode(pipe, PROMPT, strategy="clip+t5", t5=T5Branch.from_pretrained(tmp_path))
    assert torch.equal(ours.embeds, encode(pipe, PROMPT, strategy="clip+t5", t5=branch).embeds)
    (tmp_path / "adapter").rename(tmp_path / "adaptor")
    with pytest.raises(LongalignError, match="no subfolder 'adapter'"):
        T5Branch.from_pretrained(tmp_path)


def test_training_mode_makes_no_difference_and_is_kept(branch: T5Branch) -> None:
    """Dropout would change T5's states (0.1) and the adapter's (0.1)."""
    pipe = tiny_sd15()
    expected = encode(pipe, PROMPT, strategy="clip+t5", t5=branch)
    for module in (pipe.text_encoder, branch.encoder, branch.adapter):
        module.train()
    ours = encode(pipe, PROMPT, strategy="clip+t5", t5=branch)
    assert torch.equal(ours.embeds, expected.embeds)
    assert not ours.embeds.requires_grad
    for module in (pipe.text_encoder, branch.encoder, branch.adapter):
        assert all(m.training for m in module.modules())
        module.eval()


# --- what comes out ---


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sdxl, tiny_sd3])
def test_goes_straight_into_the_pipeline(make: Any) -> None:
    """Long prompts and short, the short one twice; the text makes a difference."""
    pipe = make()

    def pictures(prompts: list[str]) -> np.ndarray:
        conditioning = encode(pipe, prompts, "blurred", length=480)[[0, 1, 1]]
        generator = torch.Generator().manual_seed(0)
        settings = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np"}
        return pipe(**conditioning.pipeline_kwargs(), generator=generator, **settings).images

    ours = pictures([LONG, PROMPT])
    assert ours.shape == (3, 32, 32, 3)
    assert np.isfinite(ours).all()
    changed = np.abs(ours - pictures([LONG, "A dog."])).reshape(3, -1).max(axis=1)
    assert changed[0] < 1e-3 < changed[1:].min()


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sdxl, tiny_sd3])
def test_half_precision(make: Any) -> None:
    """bfloat16 has 8 bits, so states agree to a few hundredths of the largest."""
    pipe = make()
    full = encode(pipe, PROMPT)
    half = encode(pipe.to(torch.bfloat16), PROMPT)
    assert half.dtype == torch.bfloat16
    assert half.pooled is None or half.pooled.dtype == torch.bfloat16
    assert float((half.embeds.float() - full.embeds).abs().max() / full.embeds.abs().max()) < 0.05


def test_parts_without_a_pipeline(sdxl: Any) -> None:
    parts = TextParts(
        "sdxl",
        (sdxl.tokenizer, sdxl.tokenizer_2),
        (sdxl.text_encoder, sdxl.text_encoder_2),
        zero_negative=True,
    )
    ours, theirs = encode(parts, PROMPT), encode(sdxl, PROMPT)
    assert torch.equal(ours.embeds, theirs.embeds) and torch.equal(ours.pooled, theirs.pooled)
    assert ours.family == theirs.family == "sdxl"


def test_conditioning_is_a_batch(sdxl: Any) -> None:
    conditioning = encode(sdxl, ["A cat.", PROMPT, "A dog."], "", length=20)
    assert len(conditioning) == 3
    last = conditioning[-1]
    assert torch.equal(last.embeds, conditioning.embeds[2:])
    assert torch.equal(last.negative_pooled, conditioning.negative_pooled[2:])
    assert [s.text for s in last.segments[0]] == ["A dog."] and last.truncation == ((),)
    assert torch.equal(conditioning[:2].segment_of, conditioning.segment_of[:2])
    assert torch.equal(conditioning[[2, 0]].pooled, conditioning.pooled[[2, 0]])
    assert [len(row) for row in conditioning] == [1, 1, 1]
    half = conditioning.to(dtype=torch.float16)
    assert half.embeds.dtype == half.negative_pooled.dtype == torch.float16
    assert half.segment_of.dtype == torch.int64 and half.device.type == "cpu"
