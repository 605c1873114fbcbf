"""Segments without a tokenizer: the tiling invariant over any Unicode, sentences, the published rule."""

from __future__ import annotations

import random
import textwrap
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import sentencex
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_checks import MEGABYTE, assert_tiles, prompts, texts

import longalign.encoding.sentences
from longalign.encoding.segments import Mode, Segment, Segmenter
from longalign.errors import LongalignError

# --- the invariant ---


@given(
    prompts,
    st.sampled_from(["sentence", "packed"]),
    st.sampled_from(["en", "de", "zh", "ar", "hi", "my", "th"]),
)
@settings(deadline=None, max_examples=150)
def test_tiles_any_prompt(prompt: str, mode: Mode, language: str) -> None:
    for window in (1, 5, 77):
        segments = Segmenter(mode, window=window, language=language)(prompt)
        assert_tiles(prompt, segments)
        assert max(len(text.split()) for text in texts(segments)) <= window


@given(prompts)
@settings(deadline=None)
def test_released_offsets_hold_the_whole_prompt(prompt: str) -> None:
    segments = Segmenter("released")(prompt)
    assert "".join(prompt[s.start : s.end] for s in segments) == prompt
    assert all(left.end == right.start for left, right in pairwise(segments))


@pytest.mark.parametrize(
    "lie", [lambda s: s[1:], str.upper, lambda s: "", lambda s: s + s, lambda s: " " + s[::-1]]
)
def test_tiles_whatever_the_library_returns(
    monkeypatch: pytest.MonkeyPatch, lie: Callable[[str], str]
) -> None:
    """A sentence that cannot be found again costs its own cut and nothing else."""
    honest = sentencex.segment
    monkeypatch.setattr(sentencex, "segment", lambda language, text: [lie(s) for s in honest(language, text)])
    prompt = "A cat sits. A dog runs! Is it red? Yes. "
    assert_tiles(prompt, Segmenter()(prompt))


@pytest.mark.parametrize("mode", ["sentence", "packed"])
@pytest.mark.parametrize("prompt", ["", " ", "\n\t\xa0\u3000"])
def test_prompt_without_text_is_one_empty_segment(mode: Mode, prompt: str) -> None:
    """The unconditional prompt."""
    assert Segmenter(mode)(prompt) == [Segment("", 0, 0)]


# --- sentences ---


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Smith met Mr. Jones and Mrs. X.", "They left."],
        ["Animals, e.g. cats vs. dogs, i.e. pets, sit.", "A bird flies."],
        ["Prof. Li, Ph.D. from St. Petersburg sits.", "Mt. Fuji glows."],
        ["It costs $3.50, weighs 2.5 kg and is version 2.0.", "Next."],
        ["J. R. R. Tolkien sits.", "George W. Bush stands.", "J.R.R. Tolkien too."],
        ["The U.S. flag waves at 5 p.m. here.", "It is red."],
        ["Shot at f/1.8, 50 mm wide.", "Bokeh."],
        ['She said: "Go now."', "He left.", "“Stop!” he cried.", "Silence."],
        ["Wait... what?", "Trees...", "Mountains rise.", "Fog… and rain."],
        ["He waited!!!", "Then ran?!", "Ok."],
        ["A cat (see fig. 3) sits.", "Done."],
        ["No punctuation at all"],
    ],
)
def test_sentences(sentences: list[str]) -> None:
    prompt = " ".join(sentences)
    assert texts(Segmenter()(prompt)) == sentences
    assert texts(Segmenter("packed", window=1000)(prompt)) == [prompt]


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("zh", ["他来了。", "我走了！", "好吗？"]),
        ("ja", ["彼は来た。", "私は走った！", "行こう。"]),
        ("hi", ["यह बिल्ली है।", "वह कुत्ता है।"]),
        ("ar", ["هذه قطة.", "هل هذا كلب؟", "نعم."]),
        ("de", ["Das ist z. B. ein Haus bzw. Dach.", "Am 3. Mai kam Hr. Maier."]),
    ],
)
def test_languages(language: str, sentences: list[str]) -> None:
    """Full stops of other scripts cut in English too; abbreviations need their own language."""
    space = "" if language in ("zh", "ja") else " "
    prompt = space.join(sentences)
    assert texts(Segmenter(language=language)(prompt)) == sentences
    assert (texts(Segmenter()(prompt)) == sentences) == (language != "de")


def test_region_of_a_language_plays_no_part_and_a_language_without_rules_is_english() -> None:
    prompt = "Ein Haus bzw. Dach. Ein Baum."
    assert len(Segmenter(language="de")(prompt)) == 2
    assert (
        Segmenter(language="de-DE")(prompt)
        == Segmenter(language="DE_at")(prompt)
        == Segmenter(language="de")(prompt)
    )
    assert Segmenter(language="la")(prompt) == Segmenter(language="en")(prompt)
    assert len(Segmenter(language="en")(prompt)) == 3


@pytest.mark.parametrize("code", ["xx", "foo", "x", "", "english", "e n", "xx-US"])
def test_a_language_that_is_none_is_refused(code: str) -> None:
    """`longalign generate --language xx` must not cut by English rules without a word."""
    with pytest.raises(LongalignError, match=f"language '{code}' is unknown: give its code"):
        Segmenter(language=code)


@pytest.mark.parametrize("code", ["tr", "vi", "he", "ast", "bar", "zh-Hant", "pt_BR", "DE"])
def test_languages_that_the_library_knows_are_taken(code: str) -> None:
    """ISO 639-1, longer codes that sentencex has a relative of, and codes with a script or region."""
    assert texts(Segmenter(language=code)("A fox sits. A dog runs.")) == ["A fox sits.", "A dog runs."]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a kettle\ntwo cups\nrain on a window", ["a kettle", "two cups", "rain on a window"]),
        (
            "Subject: fox\nStyle: oil painting\nLight: golden",
            ["Subject: fox", "Style: oil painting", "Light: golden"],
        ),
        ("* plants\n1. first cat\n2. second cat", ["* plants", "1. first cat", "2. second cat"]),
        ("1. A fox. It runs.\r\n2. A dog.", ["1. A fox.", "It runs.", "2. A dog."]),
        ("A title\n\nA cat sits.", ["A title", "A cat sits."]),
        ("A fox. 2. A dog.", ["A fox.", "2. A dog."]),
        ("- a fox\n  on a log\n- a dog", ["- a fox", "on a log", "- a dog"]),
    ],
)
def test_lines_are_segments(prompt: str, expected: list[str]) -> None:
    """Also where bullets, numbers and labels are mixed; a number stays with what it numbers."""
    assert texts(Segmenter()(prompt)) == expected


PROSE = (
    "A red fox sits on a log in the snow. Behind it stands a forest of old pines whose branches bend under their "
    "load, and a small cabin with a lit window. Smoke rises from its chimney. The sky is pink, as it is just before "
    "the sun rises in winter, and two crows fly over the trees."
)


@pytest.mark.parametrize("width", [50, 60, 72, 80, 100])
def test_wrapped_prose_is_one_paragraph(width: int) -> None:
    """An editor's line breaks cut nothing: the sentences are those of the unbroken text."""
    wrapped = textwrap.fill(PROSE, width)
    assert [s.text.replace("\n", " ") for s in Segmenter()(wrapped)] == texts(Segmenter()(PROSE))
    assert len(Segmenter()(wrapped)) == 4


def test_long_lines_that_are_no_prose_are_segments() -> None:
    """The breaks were not needed ("two" fits behind the first line), or nothing goes on in small letters."""
    lines = [
        "a golden retriever on a beach at sunset with a ball",
        "two kites",
        "a lighthouse of white stone on a black cliff by the sea",
    ]
    assert texts(Segmenter()("\n".join(lines))) == lines
    lines = [f"{word} fox sits on a log in a deep forest by the sea" for word in ("Red", "Old", "Sad")]
    assert texts(Segmenter()("\n".join(lines))) == lines


def test_wide_blanks_do_not_crash_the_library() -> None:
    """sentencex 1.0.32 panics on this prompt as it stands, and a Rust panic is not an ``Exception``."""
    assert texts(Segmenter()("A M\xa0. B sits.\u2028C runs.")) == ["A M\xa0. B sits.", "C runs."]


def test_long_text_is_cut_as_if_the_library_had_read_it_whole() -> None:
    """About 60 kB on one line, so some 20 reading windows, with sentences of 1 to 1,500 words."""
    rng = random.Random(0)
    words = [
        "Dr. Smith",
        "a cat",
        "3.5 kg",
        "e.g. this",
        '"Go now," he said',
        "(a dog)",
        "J. R. R. Tolkien",
        "rain",
    ]
    lengths = [1, 1500, 3, *(rng.randint(1, 30) for _ in range(400))]
    prompt = " ".join("It is " + " ".join(rng.choices(words, k=n)) + rng.choice(".!?") for n in lengths)
    whole = [sentence.strip() for sentence in sentencex.segment("en", prompt)]
    assert len(prompt) > 10 * longalign.encoding.sentences._READ_CHARS
    assert texts(Segmenter(window=10_000)(prompt)) == whole


# --- the rule of the published weights ---


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A cat. A dog? Yes", [("A cat.", 0, 6), (" A dog.", 6, 13), (" Yes.", 13, 17)]),
        ("Wow! A; b.", [("Wow! A; b.", 0, 10)]),
        ('"Go"! He "ran;" far', [('"Go.', 0, 5), (' He "ran.', 5, 15), (" far.", 15, 19)]),
        ("3.5 kg", [("3.", 0, 2), ("5 kg.", 2, 6)]),
        ("...a.. .b", [("a.", 0, 6), (" .", 6, 8), ("b.", 8, 9)]),
        ("", [("", 0, 0)]),
        ("  ", [("  .", 0, 2)]),
        ("..?", [("..?", 0, 3)]),
    ],
)
def test_released(prompt: str, expected: list[tuple[str, int, int]]) -> None:
    """Each mark belongs to the piece before it; marks in front of the first piece belong to that one."""
    assert Segmenter("released")(prompt) == [Segment(*fields) for fields in expected]


# --- refusals and speed ---


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(LongalignError, match="sentence, packed, released"):
        Segmenter("paragraph")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["sentence", "packed", "released"])
def test_half_a_surrogate_pair_is_refused(mode: Mode) -> None:
    with pytest.raises(LongalignError, match="character 2 is half of a surrogate pair"):
        Segmenter(mode)("a \ud83d")


@pytest.mark.parametrize("name", MEGABYTE)
@pytest.mark.parametrize("mode", ["sentence", "packed", "released"])
def test_a_megabyte_takes_seconds(name: str, mode: Mode) -> None:
    """Processor time, since machines are shared. Anything quadratic takes minutes here."""
    prompt = MEGABYTE[name]
    began = time.process_time()
    segments = Segmenter(mode)(prompt)
    assert time.process_time() - began < 10
    if mode != "released":
        assert_tiles(prompt, segments)
