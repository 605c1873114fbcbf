"""Weights of words act on token states as in the tools whose notation it is."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from segment_encoding import encode as encode_segments
from tiny import t5_branch, tiny_sd3, tiny_sd15, tiny_sdxl

from longalign import LongalignError, encode

COMPEL_PROMPTS = [
    "a fox++ runs",
    "a (red fox)1.3 sits on a log-",
    "the ((big)1.2 old)1.1 log- (in snow)0.5 by (a lake)0.3",
    "(a dog)0 in the snow",
    "a fox",
]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_sd15()


@pytest.mark.parametrize("prompt", COMPEL_PROMPTS)
def test_compel_gives_the_same(pipe: Any, prompt: str) -> None:
    """One window: the states that compel itself makes."""
    compel = pytest.importorskip("compel")
    theirs = compel.Compel(pipe.tokenizer, pipe.text_encoder)(prompt)
    ours = encode(pipe, prompt, syntax="compel").embeds
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_compel_gives_the_same_for_two_encoders() -> None:
    compel = pytest.importorskip("compel")
    pipe, prompt = tiny_sdxl(), COMPEL_PROMPTS[2]
    kind = compel.ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
    parts = [(pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)]
    theirs = torch.cat([compel.Compel(*p, returned_embeddings_type=kind)(prompt) for p in parts], dim=-1)
    ours = encode(pipe, prompt, syntax="compel")
    torch.testing.assert_close(ours.embeds, theirs, rtol=0, atol=1e-5)
    plain = encode(pipe, "the big old log in snow by a lake", strategy="plain")
    assert ours.pooled is not None and torch.equal(ours.pooled, plain.pooled)  # neither tool weighs it


def test_a1111_by_hand(pipe: Any) -> None:
    """``w z · mean(z) / mean(w z)``: w = 1.4 for "red", 1/1.1 for "fox", 1.1² for "on", 1 for all else."""
    z = encode(pipe, "a red fox sits on a log", strategy="plain").embeds[0]
    w = torch.tensor([1, 1, 1.4, 1 / 1.1, 1, 1.21, 1, 1] + [1] * 69)[:, None]
    expected = w * z * (z.mean() / (w * z).mean())
    found = encode(pipe, "a (red:1.4) [fox] sits ((on)) a log", syntax="a1111").embeds[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_weights_in_segments(pipe: Any) -> None:
    """Each segment is a row of its own: "A red fox." by hand, and the other sentence as it was.

    "A red fox." is <sot> and four tokens; "It sits." follows at place 5.
    """
    plain = encode_segments(pipe, "A red fox. It sits.")
    found = encode_segments(pipe, "A (red:1.4) fox. It sits.", syntax="a1111")
    z = plain.embeds[0, :5]
    w = torch.tensor([1, 1, 1.4, 1, 1])[:, None]
    torch.testing.assert_close(found.embeds[0, :5], w * z * (z.mean() / (w * z).mean()), rtol=0, atol=1e-6)
    assert torch.equal(found.embeds[0, 5:], plain.embeds[0, 5:])
    assert torch.equal(found.segment_of, plain.segment_of)
    assert [(s.text, s.start, s.end) for s in found.segments[0]] == [
        ("A red fox.", 0, 16),
        ("It sits.", 17, 25),
    ]


def test_the_same_sentence_with_other_weights(pipe: Any) -> None:
    """Twice the same words, of which one has a weight: two rows of states."""
    found = encode_segments(pipe, "A fox. A fox++.", syntax="compel").embeds[0]
    plain = encode_segments(pipe, "A fox. A fox.").embeds[0]
    assert torch.equal(found[:4], plain[:4]) and not torch.equal(found[4:8], plain[4:8])
    # z_0 + 1.21 (z − z_0), z_0 = states of the empty prompt at the same places: <sot> is the same
    z_0 = encode(pipe, "", strategy="plain").embeds[0]
    torch.testing.assert_close(found[6], z_0[2] + 1.21 * (plain[6] - z_0[2]), rtol=0, atol=1e-6)
    assert torch.equal(found[4], plain[4])


@pytest.mark.parametrize("syntax", ["a1111", "compel"])
def test_t5_gets_weights_too(syntax: str) -> None:
    """SD3's T5, and the T5 branch behind its adapter: with weight 1 written out nothing changes, with 1.5 it does."""
    weighted, one = {
        "a1111": ("A (red:1.5) cat.", "A (red:1.0) cat."),
        "compel": ("A (red)1.5 cat.", "A (red)1.0 cat."),
    }[syntax]
    for pipe, options in (
        (tiny_sd3(), {"strategy": "clip-cat"}),
        (tiny_sd15(), {"strategy": "t5-mlp", "t5": t5_branch()}),
    ):
        plain = encode(pipe, "A red cat.", **options)  # type: ignore[arg-type]
        same = encode(pipe, one, syntax=syntax, **options)  # type: ignore[arg-type]
        other = encode(pipe, weighted, syntax=syntax, **options)  # type: ignore[arg-type]
        assert torch.equal(same.embeds, plain.embeds)
        assert not torch.allclose(other.embeds[:, -240:], plain.embeds[:, -240:])  # T5's part is last
        assert torch.isfinite(other.embeds).all()


def test_breaks_cut_segments(pipe: Any) -> None:
    found = encode(pipe, "a fox BREAK a log in snow", syntax="a1111")
    assert [s.text for s in found.segments[0]] == ["a fox", "a log in snow"]
    alone = encode_segments(pipe, "a log in snow").embeds[0]
    torch.testing.assert_close(found.embeds[0, 3:8], alone[:5], rtol=1e-4, atol=1e-5)
    found = encode(pipe, '("a fox", "a log++").and()', syntax="compel")
    assert [s.text for s in found.segments[0]] == ["a fox", "a log"]


def test_a_negative_prompt_has_weights_too(pipe: Any) -> None:
    found = encode(pipe, "a fox", "((blurry))", syntax="a1111")
    assert torch.equal(found.negative_embeds, encode(pipe, "((blurry))", syntax="a1111").embeds)


@pytest.mark.parametrize(
    ("prompt", "mark"),
    [
        ("a (red:1.4) fox", "(red:1.4)"),
        ("a ((red)) fox", "((red))"),
        ("fox++ runs", "fox++"),
        ("a BREAK b", "BREAK"),
    ],
)
def test_what_looks_like_a_weight_is_named(pipe: Any, prompt: str, mark: str) -> None:
    """Default: letters, with one warning, which names the place of the call."""
    with pytest.warns(UserWarning, match="looks like a weight") as caught:
        found = encode(pipe, ["a dog", prompt])
    assert len(caught) == 1 and repr(mark) in str(caught[0].message) and "prompt 2" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert found.segments[1][0].text == prompt


def test_ordinary_text_is_not_named(pipe: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(pipe, "a fox (red), f/1.8, ISO 100: C++ and [sic], a 16:9 picture (see p. 3)")


def test_unbalanced_brackets_are_letters(pipe: Any) -> None:
    with pytest.warns(SyntaxWarning, match=r"unpaired bracket '\('.*is read as letters"):
        found = encode(pipe, "a (red fox", syntax="a1111")
    assert torch.equal(found.embeds, encode(pipe, "a (red fox", strategy="plain").embeds)


def test_an_unknown_syntax(pipe: Any) -> None:
    with pytest.raises(LongalignError, match=r"unknown syntax 'a111'.*did you mean 'a1111'"):
        encode(pipe, "a fox", syntax="a111")  # type: ignore[arg-type]
