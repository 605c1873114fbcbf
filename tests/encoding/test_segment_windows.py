"""Segments and the encoder's window: real tokenizers, where a sentence that is too long is cut, speed."""

from __future__ import annotations

import logging
import random
import time

import pytest
from clip_vocab import clip_tokenizer_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_checks import FAMILY, MEGABYTE, assert_fits, assert_tiles, prompts, texts
from tokenizers import normalizers
from transformers import CLIPTokenizer, PreTrainedTokenizer, T5Tokenizer

from longalign.encoding.segments import Mode, Segmenter, token_starts
from longalign.errors import LongalignError


class OneTokenPerCharacter(PreTrainedTokenizer):
    """The slow kind of tokenizer, written in Python, without offsets and special tokens."""

    def __init__(self) -> None:
        super().__init__(unk_token="?")

    vocab_size = 0x110000

    def get_vocab(self) -> dict[str, int]:
        return {}

    def _tokenize(self, text: str, **_: object) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token[0])


@pytest.fixture(scope="session")
def clip() -> CLIPTokenizer:
    return clip_tokenizer_or_skip()


@pytest.fixture(scope="session")
def t5() -> T5Tokenizer:
    """A T5 tokenizer with a token for each lower-case letter and mark, and one that goes before each word."""
    letters = [(c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz.,?!"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    return T5Tokenizer(vocab=vocab, extra_ids=0)


# --- the invariant ---


@given(prompts, st.sampled_from(["sentence", "packed"]), st.integers(14, 77))
@settings(deadline=None, max_examples=200)
def test_tiles_and_fits_clip(clip: CLIPTokenizer, prompt: str, mode: Mode, window: int) -> None:
    """14 = 2 special tokens + 12, which hold any character: NFC makes it at most three of four bytes each."""
    segments = Segmenter(mode, clip, window)(prompt)
    assert_tiles(prompt, segments)
    assert_fits(segments, clip, window)


@given(prompts, st.sampled_from(["sentence", "packed"]), st.integers(3, 40))
@settings(deadline=None, max_examples=200)
def test_tiles_and_fits_t5(t5: T5Tokenizer, prompt: str, mode: Mode, window: int) -> None:
    """3 = one special token, the token before a word, and one letter."""
    segments = Segmenter(mode, t5, window)(prompt)
    assert_tiles(prompt, segments)
    assert_fits(segments, t5, window)


@given(prompts)
@settings(deadline=None, max_examples=100)
def test_tiles_and_fits_a_slow_tokenizer(prompt: str) -> None:
    tokenizer = OneTokenPerCharacter()
    segments = Segmenter("packed", tokenizer, 20)(prompt)
    assert_tiles(prompt, segments)
    assert_fits(segments, tokenizer, 20)


# --- windows ---


def test_long_sentence_is_cut_at_clause_punctuation(clip: CLIPTokenizer) -> None:
    """The clause "a red cat," is 4 tokens and 18 of them are 72 of 75, so 40 clauses make 18 + 18 + 4."""
    prompt = "a red cat, " * 39 + "a red cat."
    segments = Segmenter(tokenizer=clip)(prompt)
    assert [text.count("cat") for text in texts(segments)] == [18, 18, 4]
    assert all(text.endswith("cat,") for text in texts(segments)[:-1])


def test_numbers_are_no_clauses() -> None:
    """Words as tokens, 4 to a window: the last comma with a blank behind it, not the ones within numbers."""
    prompt = "one, two 3,500 of 16:9 in 1939–45 here"
    assert texts(Segmenter(window=4)(prompt)) == ["one,", "two 3,500 of 16:9", "in 1939–45 here"]


@pytest.mark.parametrize("clause", ["一只红色的猫，", "قطة حمراء، ", "a cat—", "a cat\n", '"a cat," '])
def test_clauses_of_other_kinds(clip: CLIPTokenizer, clause: str) -> None:
    segments = Segmenter(tokenizer=clip)(clause * 60)
    assert len(segments) > 1
    assert all(text == (clause * text.count(clause.strip())).strip() for text in texts(segments))


def test_long_clause_is_cut_between_words(clip: CLIPTokenizer) -> None:
    """One token a word: 200 words make 75 + 75 + 50."""
    segments = Segmenter(tokenizer=clip)("cat " * 200)
    assert [len(text.split()) for text in texts(segments)] == [75, 75, 50]


def test_long_word_is_cut_within(clip: CLIPTokenizer) -> None:
    """2,000 letters without a blank: nothing is lost, and the words before it have a segment of their own."""
    rng = random.Random(0)
    word = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=2000))
    segments = Segmenter(tokenizer=clip)(f"a cat {word} sits.")
    assert "".join(texts(segments)) == f"a cat{word} sits."
    assert texts(segments)[0] == "a cat"
    assert_fits(segments, clip, 77)


def test_word_counting_never_cuts_a_word() -> None:
    assert texts(Segmenter(window=1)("x" * 2000 + " y")) == ["x" * 2000, "y"]


@pytest.mark.parametrize("grapheme", [FAMILY, "🇩🇪", "e\u0301\u0323", "한", "\U00020000"])
def test_graphemes_stay_whole(clip: CLIPTokenizer, grapheme: str) -> None:
    segments = Segmenter(tokenizer=clip)(grapheme * 200)
    assert len(segments) > 1 and all(
        text == grapheme * (len(text) // len(grapheme)) for text in texts(segments)
    )


def test_grapheme_longer_than_the_window_is_cut_between_characters(clip: CLIPTokenizer) -> None:
    prompt = "a" + "\u0301\u0323" * 500
    segments = Segmenter(tokenizer=clip)(prompt)
    assert_tiles(prompt, segments)
    assert_fits(segments, clip, 77)


def test_packed_takes_whole_sentences_while_they_fit(clip: CLIPTokenizer) -> None:
    """The sentence "A cat sits." is 4 tokens: 18 of them are 72 of 75, so 40 make 18 + 18 + 4."""
    segments = Segmenter("packed", clip)("A cat sits. " * 40)
    assert [text.count("sits.") for text in texts(segments)] == [18, 18, 4]


def test_packed_prefers_sentence_ends_to_later_clauses_and_counts_words_without_tokenizer() -> None:
    """4 words a segment: "Cats sit. Dogs, too," would fit, but the sentence end comes first."""
    prompt = "Cats sit. Dogs, too, run far. It rains. It pours. One two three four five, six."
    expected = ["Cats sit.", "Dogs, too, run far.", "It rains. It pours.", "One two three four", "five, six."]
    assert texts(Segmenter("packed", window=4)(prompt)) == expected


def test_segment_that_fits_exactly_is_not_cut(clip: CLIPTokenizer) -> None:
    """74 words and a full stop are 75 tokens, 77 with the special ones; one more word is too much."""
    assert len(Segmenter(tokenizer=clip)("cat " * 73 + "cat.")) == 1
    assert len(Segmenter(tokenizer=clip)("cat " * 74 + "cat.")) == 2


@pytest.mark.parametrize("window", [0, -1])
def test_window_below_one_is_refused(window: int) -> None:
    with pytest.raises(LongalignError, match=f"window of {window} tokens holds no text: use at least 1 "):
        Segmenter(window=window)


def test_window_of_special_tokens_alone_is_refused(clip: CLIPTokenizer) -> None:
    """CLIP adds two, so 3 is the least, and it holds one token."""
    with pytest.raises(LongalignError, match="window of 2 tokens holds no text: use at least 3 "):
        Segmenter(tokenizer=clip, window=2)
    assert texts(Segmenter(tokenizer=clip, window=3)("a cat")) == ["a", "cat"]


@pytest.mark.parametrize("prompt", ["a 🫥 b", "\U00020000" * 9])
def test_window_too_small_names_the_smallest_that_works(clip: CLIPTokenizer, prompt: str) -> None:
    """Rare characters are several tokens each and cannot be cut."""
    smallest = max(len(clip(character).input_ids) for character in prompt)
    assert smallest > 3
    with pytest.raises(LongalignError, match=rf"too small .* use a window of at least {smallest}$"):
        Segmenter(tokenizer=clip, window=smallest - 1)(prompt)
    segments = Segmenter(tokenizer=clip, window=smallest)(prompt)
    assert_tiles(prompt, segments)
    assert_fits(segments, clip, smallest)


def test_character_without_tokens_does_not_stop_the_cutting() -> None:
    """The normaliser drops zero-width spaces. "a" takes 3 tokens: the one before words, itself, ``</s>``."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("a", -1.0)]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    prompt = "\u200ba" * 9
    with pytest.raises(LongalignError, match=r"window of at least 3$"):
        Segmenter(tokenizer=tokenizer, window=2)(prompt)
    segments = Segmenter(tokenizer=tokenizer, window=3)(prompt)
    assert_tiles(prompt, segments)
    assert_fits(segments, tokenizer, 3)


def test_token_starts(clip: CLIPTokenizer) -> None:
    """In "a cat sits" words begin at 0, 2 and 6; the four bytes of a rare character begin where it does."""
    assert token_starts(["a cat sits", "", "a \U00020000"], clip) == [[0, 2, 6], [], [0, 2, 2, 2, 2]]
    assert token_starts(["a cat sits", " "], None) == [[0, 2, 6], []]


def test_no_warning_of_long_sequences(clip: CLIPTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer warns once in its life. With that memory wiped it warns if called directly, not by us."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(clip, "deprecation_warnings", {})
    logger.addHandler(handler)
    try:
        Segmenter("packed", clip)("cat " * 200)
        assert not records
        clip("cat " * 200)
        assert "longer than" in records[0].getMessage()
    finally:
        logger.removeHandler(handler)


# --- speed ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "name"), [("packed", "sentences"), *(("sentence", name) for name in MEGABYTE)]
)
def test_a_megabyte_takes_seconds_with_a_tokenizer(mode: Mode, name: str, clip: CLIPTokenizer) -> None:
    prompt = MEGABYTE[name]
    began = time.process_time()
    segments = Segmenter(mode, clip)(prompt)
    assert time.process_time() - began < 30
    assert_tiles(prompt, segments)
    assert_fits(segments, clip, 77)
