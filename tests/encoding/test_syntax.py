"""Weights and cuts that are written into prompts, taken out of them."""

from __future__ import annotations

import math
import warnings

import pytest

from longalign.encoding.syntax import looks_weighted, read_syntax
from longalign.errors import LongalignError


def told(prompt: str, syntax: str) -> list[tuple[str, float]]:
    """Runs of equal weight: (text, weight)."""
    marked = read_syntax(prompt, syntax)  # type: ignore[arg-type]
    assert len(marked.text) == len(marked.origin) == len(marked.weights)
    runs: list[tuple[str, float]] = []
    for character, weight in zip(marked.text, marked.weights, strict=True):
        if runs and math.isclose(runs[-1][1], weight):
            runs[-1] = (runs[-1][0] + character, weight)
        else:
            runs.append((character, weight))
    return [(text, round(weight, 4)) for text, weight in runs]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a (red:1.4) fox", [("a ", 1.0), ("red", 1.4), (" fox", 1.0)]),
        ("((word))", [("word", 1.21)]),  # 1.1 · 1.1
        ("[word]", [("word", 0.9091)]),  # 1 / 1.1
        ("(a (b:1.2) c)", [("a ", 1.1), ("b", 1.32), (" c", 1.1)]),  # 1.1 · 1.2
        ("(Subject: fox)", [("Subject: fox", 1.1)]),  # no number behind the colon
        (r"\(a\) \[b\] \\", [("(a) [b] \\", 1.0)]),
    ],
)
def test_a1111(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert told(prompt, "a1111") == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a fox++ on a log--", [("a ", 1.0), ("fox", 1.21), (" on a ", 1.0), ("log", 0.81)]),
        ("(red fox)1.3 sits", [("red fox", 1.3), (" sits", 1.0)]),
        ("((nested)1.2 words)1.1", [("nested", 1.32), (" words", 1.1)]),
        ("a dog (really). (blue)0.5", [("a dog (really). ", 1.0), ("blue", 0.5)]),
        ("state-of-the-art, well-known", [("state-of-the-art, well-known", 1.0)]),
    ],
)
def test_compel(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert told(prompt, "compel") == expected


@pytest.mark.parametrize(
    "prompt", ["a fox++ runs", "a (red fox)1.3 sits", "the ((big)1.2 old)1.1 log-", "(a dog)0.5"]
)
def test_compel_says_the_same(prompt: str) -> None:
    """compel's own parser gives the same words the same weights."""
    parser = pytest.importorskip("compel.prompt_parser").PromptParser()
    [flat] = parser.parse_conjunction(prompt).prompts
    theirs = [(f.text.strip(), round(f.weight, 4)) for f in flat.children]
    ours = [(text.strip(), weight) for text, weight in told(prompt, "compel") if text.strip()]
    assert ours == theirs


def test_cuts() -> None:
    """BREAK between two texts, and not within a word; compel's texts each by themselves."""
    marked = read_syntax("one fox BREAK two BREAKFAST", "a1111")
    assert marked.text == "one fox  two BREAKFAST" and marked.cuts == (8,)
    marked = read_syntax('("a fox", "a log+").and()', "compel")
    assert marked.text == "a fox a log" and marked.cuts == (6,) and marked.weights[-1] == 1.1


def test_places_lead_back_to_the_prompt() -> None:
    prompt = r"a ((red:1.2) fox) \(x\) BREAK end"
    marked = read_syntax(prompt, "a1111")
    assert "".join(prompt[i] for i in marked.origin) == marked.text == "a red fox (x)  end"


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ("(open", "unpaired bracket"),
        ("x] y", "unpaired bracket"),
        ("(x:1.4.2)", "weight '1.4.2'"),
        ("[cat:dog:0.5]", "prompt editing"),
    ],
)
def test_what_is_no_notation_is_read_as_letters(prompt: str, what: str) -> None:
    with pytest.warns(SyntaxWarning, match=what):
        marked = read_syntax(prompt, "a1111")
    assert marked.text == prompt and not marked.weighted


def test_plain_reads_letters_and_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        marked = read_syntax("(red:1.4) BREAK", "plain")
    assert marked.text == "(red:1.4) BREAK" and not marked.weighted


def test_unknown_notation() -> None:
    with pytest.raises(LongalignError, match=r"syntax 'a111' is unknown; did you mean 'a1111'"):
        read_syntax("x", "a111")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "prompt", ["a (red:1.4) fox", "((x))", "one BREAK two", "a fox++ runs", "(a b)1.3", "(a b)++"]
)
def test_looks_weighted(prompt: str) -> None:
    assert looks_weighted(prompt)


@pytest.mark.parametrize(
    "prompt", ["a (cat) sat", "C++ code", "[note]", "at 10:30 (noon)", "a-b -- c", "Break it."]
)
def test_does_not_look_weighted(prompt: str) -> None:
    assert looks_weighted(prompt) is None
