"""CLIP-cat against direct calls of the encoder, one padded call a sentence, put together naively."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from segment_encoding import encode, encode_groups
from tiny import clip_tokenizer, text_encoder, tiny_sd15

from longalign.encoding import ConcatRule, TextParts
from longalign.encoding.towers import Tower
from longalign.errors import LongalignError

SENTENCES = [
    "A cat sits on the red disc.",
    "Is it 3.5 m tall?",
    "A dog, e.g. a poodle, runs near the old house!",
]
PROMPT = " ".join(SENTENCES)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_sd15()


@torch.no_grad()
def padded_call(pipe: Any, text: str) -> tuple[torch.Tensor, int]:
    """(77, D) states of a text padded to the window, and its number of text tokens."""
    settings = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}
    inputs = pipe.tokenizer(text, **settings)
    return pipe.text_encoder(inputs.input_ids)[0][0], int(inputs.attention_mask.sum()) - 2


def pad_star(pipe: Any, variant: str) -> torch.Tensor:
    """The empty prompt is <sot> <eot> and 75 pads; the released weights took its last 60 positions."""
    states, _ = padded_call(pipe, "")
    return states[2:].mean(0) if variant == "paper" else states[-60:].mean(0)


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


def test_layout_token_by_token(pipe: Any) -> None:
    """<sot> Text1. <sot> Text2. <sot> Text3. pad* …, no <eot>, no pads."""
    conditioning = encode(pipe, PROMPT)
    rows, segment_of = [], []
    for i, sentence in enumerate(SENTENCES):
        states, count = padded_call(pipe, sentence)
        rows += list(states[: 1 + count])
        segment_of += [i] * (1 + count)
    star = pad_star(pipe, "paper")
    n = len(rows)
    assert conditioning.embeds.shape == (1, 240, 32)
    for position, expected in enumerate(rows + [star] * (240 - n)):
        assert_close(conditioning.embeds[0, position], expected)
    assert conditioning.segment_of.tolist() == [segment_of + [-1] * (240 - n)]
    assert [s.text for s in conditioning.segments[0]] == SENTENCES
    assert conditioning.truncation == ((),)
    assert conditioning.pooled is None


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_every_rule_of_appendix_a(pipe: Any, variant: str) -> None:
    """All 4 · 3 · 3 of sot, eot and pad, put together piece by piece. What is a segment's own, its pads
    excepted, is counted to it; pads and pad* are nobody's."""
    star = pad_star(pipe, variant)[None]
    nothing = star[:0]
    for sot, eot, pads in product(
        ["keep", "first", "drop", "replace"], ["keep", "drop", "replace"], ["keep", "drop", "replace"]
    ):
        pieces, segment_of = [], []
        for i, sentence in enumerate(SENTENCES):
            states, n = padded_call(pipe, sentence)
            start, text, end, rest = states.split([1, n, 1, 75 - n])
            first = {"keep": start, "first": nothing if i else start, "drop": nothing, "replace": star}[sot]
            last = {"keep": end, "drop": nothing, "replace": star}[eot]
            fill = {"keep": rest, "drop": nothing, "replace": star.expand(75 - n, -1)}[pads]
            pieces += [first, text, last, fill]
            segment_of += [i if sot != "replace" else -1] * len(first) + [i] * n
            segment_of += [i if eot == "keep" else -1] * len(last) + [-1] * len(fill)
        expected = torch.cat(pieces)
        rule = ConcatRule(sot, eot, pads, variant)
        exact = encode(pipe, PROMPT, strategy=rule, length=1)  # multiples of 1: nothing is added
        assert_close(exact.embeds[0], expected)
        assert exact.segment_of[0].tolist() == segment_of
        filled = encode(pipe, PROMPT, strategy=rule, length=300)
        assert_close(filled.embeds[0], torch.cat([expected, star.expand(300 - len(expected), -1)]))


def test_rules_by_name(pipe: Any) -> None:
    by_name = encode(pipe, PROMPT, strategy="clip-cat:sot=first, eot=keep")
    by_rule = encode(pipe, PROMPT, strategy=ConcatRule(sot="first", eot="keep"))
    assert torch.equal(by_name.embeds, by_rule.embeds)
    assert not torch.equal(by_name.embeds, encode(pipe, PROMPT).embeds)


def test_packed_puts_sentences_that_fit_into_one_segment(pipe: Any) -> None:
    """The paper's `multi`: all three sentences have fewer than 75 tokens together, so they are one segment."""
    conditioning = encode(pipe, PROMPT, segments="packed")
    states, n = padded_call(pipe, PROMPT)
    assert len(conditioning.segments[0]) == 1
    assert_close(conditioning.embeds[0, : n + 1], states[: n + 1])


def test_released_rewrites_the_text(pipe: Any) -> None:
    """Cut at "." and "?", each piece ended with ".": "A cat. Why? Oh!" → "A cat." " Why." " Oh!."."""
    conditioning = encode(pipe, "A cat. Why? Oh!", segments="released", strategy="clip-cat:pad_star=released")
    pieces = [padded_call(pipe, text) for text in ("A cat.", " Why.", " Oh!.")]
    expected = torch.cat([states[: n + 1] for states, n in pieces])
    assert_close(conditioning.embeds[0, : len(expected)], expected)
    assert_close(
        conditioning.embeds[0, len(expected) :], pad_star(pipe, "released").expand(240 - len(expected), -1)
    )


# --- batches ---

COLOURS, KINDS = ("red", "old", "big"), ("cat", "dog", "tree", "house")
MANY = [
    "A cat.",
    " ".join(f"A {colour} {kind} stands near the river." for colour in COLOURS for kind in KINDS),
    "",
    " ".join(f"Number {i} of the houses, painted in some colour, is here." for i in range(30)),
    PROMPT,
]


def test_a_prompt_comes_out_as_it_does_alone(pipe: Any) -> None:
    negatives = ["", "a blurred picture. a bad drawing.", PROMPT, "", "cat"]
    groups = encode_groups(pipe, MANY, negatives)
    assert sorted(i for indices, _ in groups for i in indices) == [0, 1, 2, 3, 4]
    for indices, conditioning in groups:
        for row, i in enumerate(indices):
            alone = encode(pipe, MANY[i], negatives[i])
            assert alone.embeds.shape == conditioning.embeds[row : row + 1].shape
            torch.testing.assert_close(conditioning.embeds[row], alone.embeds[0], atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(
                conditioning.negative_embeds[row], alone.negative_embeds[0], atol=1e-6, rtol=1e-5
            )
            assert torch.equal(conditioning.segment_of[row], alone.segment_of[0])
            assert torch.equal(conditioning.negative_segment_of[row], alone.negative_segment_of[0])


def test_lengths_are_multiples_that_hold_prompt_and_negative(pipe: Any) -> None:
    """ "cat cat cat." is <sot> and 4 tokens, 5 with <sot>. With length 4 it needs 8, with 5 exactly 5. A
    negative prompt of 9 needs 12 of both."""
    short, long = "cat cat cat.", "cat cat cat cat cat cat cat."
    assert encode(pipe, short, length=4).embeds.shape[1] == 8
    assert encode(pipe, short, length=5).embeds.shape[1] == 5
    conditioning = encode(pipe, short, long, length=4)
    assert conditioning.embeds.shape == conditioning.negative_embeds.shape == (1, 12, 32)


def test_different_lengths_need_groups(pipe: Any) -> None:
    advice = r"prompt 1: 240 tokens, prompt 4: 480 tokens.*pad_together=True.*encode_groups"
    with pytest.raises(LongalignError, match=advice):
        encode(pipe, MANY)
    groups = encode_groups(pipe, MANY)
    assert [(indices, c.embeds.shape[1]) for indices, c in groups] == [([0, 1, 2, 4], 240), ([3], 480)]
    assert encode(pipe, MANY, length=480).embeds.shape == (5, 480, 32)


class Counting:
    """Counts what goes into an encoder."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.shapes: list[tuple[int, ...]] = []
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self.shapes.append(tuple((args[0] if args else kwargs["input_ids"]).shape))


def test_equal_segments_are_encoded_once() -> None:
    """Sixteen prompts of the same two sentences in either order: one row, <sot> a (red cat .) (dog .), in which
    both share <sot> and "a". The empty negative prompt is the beginning of both."""
    encoder = text_encoder()
    parts = TextParts("sd15", (clip_tokenizer(),), (encoder,))
    encode(parts, "")  # pad* is remembered from here on
    counting = Counting(encoder)
    encode(parts, ["A red cat. A dog.", "A dog. A red cat."] * 8)
    assert counting.shapes == [(1, 7)]


def test_batch_size_bounds_a_call() -> None:
    encoder = text_encoder()
    parts = TextParts("sd15", (clip_tokenizer(),), (encoder,))
    words = ["cat", "dog", "tree", "house", "sea", "sky", "sun"]
    prompt = " ".join(f"{a} {b}." * 12 for a in words for b in words if a != b)
    whole = encode(parts, prompt, length=1000)
    counting = Counting(encoder)
    cut = encode(parts, prompt, length=1000, batch_size=3)
    sizes = [shape[0] for shape in counting.shapes]
    assert max(sizes) == 3
    assert len(sizes) > 1
    torch.testing.assert_close(cut.embeds, whole.embeds, atol=1e-6, rtol=1e-5)


# --- other encoders ---


def test_another_window() -> None:
    """Nothing is built for 77: a window of 12 cuts a long sentence into pieces of 10 tokens at most."""
    tokenizer = clip_tokenizer()
    tokenizer.model_max_length = 12
    parts = TextParts("sd15", (tokenizer,), (text_encoder(max_position_embeddings=12),))
    conditioning = encode(parts, "cat " * 30, strategy="clip-cat:eot=keep,pad=keep", length=1)
    assert len(conditioning.segments[0]) == 3
    assert conditioning.embeds.shape[1] == 36
    with pytest.warns(match="by text_encoder"):
        assert encode(parts, "cat " * 30, strategy="plain").embeds.shape[1] == 12


def test_the_mask_is_used_where_the_configuration_asks_for_it(pipe: Any) -> None:
    """`use_attention_mask` hides the pads from each other's sight only: the text does not look right."""
    encoder = text_encoder()
    encoder.config.use_attention_mask = True
    masked = TextParts("sd15", (pipe.tokenizer,), (encoder,))
    [tower] = Tower.all_of(masked)
    ours, theirs = encode(masked, PROMPT), encode(pipe, PROMPT)
    text = theirs.segment_of[0] >= 0
    torch.testing.assert_close(ours.embeds[0, text], theirs.embeds[0, text], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(tower.pad_star("paper"), pad_star(pipe, "paper"), atol=1e-4)


def test_textual_inversion_of_several_vectors(pipe: Any) -> None:
    """The pipelines write "<toy>" out as "<toy> <toy>_1"."""
    tokenizer = clip_tokenizer()
    tokenizer.add_tokens(["<toy>", "<toy>_1"])
    encoder = text_encoder()
    encoder.resize_token_embeddings(len(tokenizer))
    toy = tiny_sd15()
    toy.register_modules(tokenizer=tokenizer, text_encoder=encoder)
    with torch.no_grad():
        theirs, _ = toy.encode_prompt(["A <toy> sits."], "cpu", 1, False)
    assert torch.equal(encode(toy, "A <toy> sits.", strategy="plain").embeds, theirs)
    states = encode(toy, "A <toy> sits.").embeds
    torch.testing.assert_close(states[0, :6], theirs[0, :6], atol=1e-6, rtol=1e-5)


def test_weights_that_accelerate_keeps_elsewhere(pipe: Any) -> None:
    """Offloaded weights are on the meta device between calls, where there is nothing to read."""
    encoder = text_encoder()
    parts = TextParts("sd15", (pipe.tokenizer,), (encoder,))
    cpu_offload(encoder, execution_device=torch.device("cpu"))
    assert encoder.device.type == "meta"
    torch.testing.assert_close(
        encode(parts, PROMPT).embeds, encode(pipe, PROMPT).embeds, atol=1e-6, rtol=1e-5
    )
