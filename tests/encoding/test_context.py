"""Sentences encoded behind earlier ones, against one padded call a sentence, put together naively."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import t5_branch, tiny_sd3, tiny_sd15, tiny_sdxl

from longalign.encoding import EncodingCache, TruncationWarning, encode
from longalign.encoding.context import refers_back, sentences_ahead
from longalign.errors import LongalignError

SENTENCES = [
    "A cat sits on the red disc.",
    "It is near the old house!",
    "The dog runs.",
    *[
        f"A {a} tree stands near the {b} house, and a red dog sits on the old disc."
        for a in "xyz"
        for b in "uv"
    ],
    "They stand on a red disc.",
]
PROMPT = " ".join(SENTENCES)
BEFORE = [range(0, 0), range(0, 1), range(0, 2), range(0, 3), range(0, 4), range(1, 5)]


def ahead_of(i: int, context: str) -> list[str]:
    """What stands ahead of a sentence, by words and marks, which are one token each here."""
    if context == "referent":
        return SENTENCES[i - 1 : i] if i in (1, len(SENTENCES) - 1) else []
    n_tokens = [len(s.replace(",", " ,").split()) + 1 for s in SENTENCES]
    first = i
    while first and sum(n_tokens[first - 1 : i + 1]) <= 75:
        first -= 1
    return SENTENCES[first:i]


@torch.no_grad()
def naive(pipe: Any, suffix: str, context: str) -> list[torch.Tensor]:
    """For each sentence <sot> and its own states, from a row of its own that is padded to the window."""
    tokenizer, model = getattr(pipe, "tokenizer" + suffix), getattr(pipe, "text_encoder" + suffix)
    rows = []
    for i, sentence in enumerate(SENTENCES):
        ahead = len(tokenizer(" ".join(ahead_of(i, context))).input_ids) - 2
        text = " ".join([*ahead_of(i, context), sentence])
        inputs = tokenizer(text, padding="max_length", max_length=77, return_tensors="pt")
        assert inputs.input_ids.shape == (1, 77)
        output = model(inputs.input_ids, output_hidden_states=True)
        states = output[0][0] if isinstance(pipe, type(tiny_sd15())) else output.hidden_states[-2][0]
        n = len(tokenizer(sentence).input_ids) - 2
        rows.append(torch.cat([states[:1], states[1 + ahead : 1 + ahead + n]]))
    return rows


@pytest.mark.parametrize("context", ["before", "referent"])
@pytest.mark.parametrize("make_pipe", [tiny_sd15, tiny_sdxl, tiny_sd3])
def test_against_one_call_a_sentence(make_pipe: Any, context: str) -> None:
    """Also from a cache, which knows sentences with and without what stood ahead of them apart."""
    pipe, cache = make_pipe(), EncodingCache()
    suffixes = [""] if make_pipe is tiny_sd15 else ["", "_2"]
    expected = torch.cat([torch.cat(naive(pipe, s, context)) for s in suffixes], dim=-1)
    alone = encode(pipe, PROMPT, cache=cache)
    for _ in range(2):
        found = encode(pipe, PROMPT, strategy=f"clip-cat:context={context}", cache=cache)
        assert found.embeds.shape == alone.embeds.shape
        torch.testing.assert_close(
            found.embeds[0, : len(expected), : expected.shape[1]], expected, rtol=1e-4, atol=1e-4
        )
        assert torch.equal(found.segment_of, alone.segment_of)
        assert found.segments == alone.segments and found.truncation == ((),)
    assert cache.hits and not torch.allclose(found.embeds, alone.embeds)
    assert torch.equal(encode(pipe, PROMPT, cache=cache).embeds, alone.embeds)
    if alone.pooled is not None:
        assert torch.equal(found.pooled, alone.pooled)


def test_end_tokens_are_behind_the_context_too() -> None:
    """eot=keep: the state at the end of the row."""
    pipe = tiny_sd15()
    found = encode(pipe, "A cat. It runs.", strategy="clip-cat:context=before,eot=keep").embeds[0]
    with torch.no_grad():
        states = pipe.text_encoder(torch.tensor([pipe.tokenizer("A cat. It runs.").input_ids]))[0][0]
    torch.testing.assert_close(found[6:10], states[4:8])  # <sot> a cat . <eot> <sot> | it runs . <eot>


def test_longer_prompts_and_negatives_change_nothing_else() -> None:
    """A cut and a second prompt beside it leave a prompt's states alone; clip+t5 has T5's behind."""
    pipe = tiny_sd15()
    whole = encode(pipe, PROMPT, strategy="clip-cat:context=before").embeds
    with pytest.warns(TruncationWarning):
        cut = encode(
            pipe, [PROMPT, "A tree."], "It is red.", strategy="clip-cat:context=before", max_length=60
        )
    torch.testing.assert_close(cut.embeds[:1], whole[:, :60])
    assert cut.truncation[0] and not cut.truncation[1]
    both = encode(pipe, PROMPT, strategy="clip+t5:context=before", t5=t5_branch())
    torch.testing.assert_close(both.embeds[:, : whole.shape[1]], whole)


def test_what_stands_ahead() -> None:
    counts = [8, 7, 4, 20, 20, 20]
    texts = SENTENCES[:6]
    assert sentences_ahead(texts, counts, "before", 77) == BEFORE
    assert sentences_ahead(texts, counts, "none", 77) == [range(i, i) for i in range(6)]
    chain = ["A fox is here.", "It stands on a disc.", "This is red.", "A cat runs."]
    assert sentences_ahead(chain, [5, 6, 4, 4], "referent", 77) == [
        range(0, 0),
        range(0, 1),
        range(0, 2),
        range(3, 3),
    ]
    assert sentences_ahead(chain, [5, 6, 4, 4], "referent", 12)[2] == range(1, 2)  # what there is room for
    assert sentences_ahead(["Ein Hund.", "Er rennt."], [3, 3], "referent", 77, "de") == [
        range(0, 0),
        range(0, 1),
    ]


@pytest.mark.parametrize(
    ("text", "refers"),
    [
        ("It stands on a red disc.", True),
        ("A red disc is behind it.", True),
        ("“They” are large.", True),
        ("That makes it two.", True),
        ("A fox that runs.", False),
        ("There is a hit in the kit.", False),
        ("", False),
    ],
)
def test_which_sentences_refer_back(text: str, refers: bool) -> None:
    assert refers_back(text) is refers


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("clip-cat:context=around", "choose one of none, before, referent"),
        ("clip-cat:context=before,pad=keep", "no room for pads"),
        ("t5-mlp:context=before", "has no settings"),
    ],
)
def test_what_cannot_be(strategy: str, said: str) -> None:
    with pytest.raises(LongalignError, match=said):
        encode(tiny_sd15(), "A cat.", strategy=strategy)
