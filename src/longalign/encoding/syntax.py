"""Weights and cuts written into a prompt: the notations of A1111 and of compel, and what looks like them.

`read_syntax` takes the marks out of a prompt and says for each character that is left where it stood in the prompt and
which weight it has. How weights act on token states is said in `longalign.encoding.weighting`.

A1111 (also Forge, SD.Next)::

    (text)        weight × 1.1         ((text)) × 1.21
    [text]        weight ÷ 1.1
    (text:1.4)    weight × 1.4
    \\( \\) \\[ \\] \\\\   the character itself
    BREAK         a new segment begins

compel::

    word+  word++          × 1.1, × 1.21
    word-  word--          × 0.9, × 0.81
    (some words)++         the same for a phrase
    (some words)1.3        × 1.3
    \\( \\)                   the character itself
    ("text", "text").and() each text is a segment of its own

Brackets that do not pair, and numbers that are none, are read as letters; a `SyntaxWarning` says so.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal, get_args

from longalign.errors import LongalignError
from longalign.plugins import unknown

Syntax = Literal["plain", "a1111", "compel"]

_ROUND, _SQUARE, _PLUS, _MINUS = 1.1, 1 / 1.1, 1.1, 0.9
_NUMBER_BEHIND_COLON = re.compile(r":\s*([+-]?[.\d]+)\s*\)")
_BREAK = re.compile(r"\bBREAK\b")
_COMPEL_SUFFIX = re.compile(r"\++|-+|\d*\.?\d+(?![\w.])")
_COMPEL_WORD = re.compile(r"[^\s()\\]+?(\++|--*)(?=[\s.,;:!?)]|$)")
_COMPEL_AND = re.compile(
    r"""^\s*\((\s*"(?:[^"\\]|\\.)*"\s*(?:,\s*"(?:[^"\\]|\\.)*"\s*)*)\)\s*\.and\(\s*\)\s*$""", re.S
)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S)
_LOOKS_WEIGHTED = re.compile(
    r"\([^()]*:\s*[+-]?\d*\.?\d+\s*\)"  # (red:1.4)
    r"|\(\([^()]+\)\)|\[\[[^\[\]]+\]\]"  # ((word)), [[word]]
    r"|\bBREAK\b"
    r"|(?<![+\w])[A-Za-z]{2,}\+\+(?=[\s.,;:!?]|$)"  # word++
    r"|\([^()]+\)(?:\++|-+|\d?\.\d+)(?=[\s.,;:!?]|$)"  # (phrase)1.3, (phrase)++
    r"|\"\s*\)\s*\.and\("
)


@dataclass(frozen=True)
class Marked:
    """A prompt without its marks.

    Attributes:
        text: what is encoded.
        origin: for each character of `text`, its place in the prompt (a blank between two texts has that of the comma).
        weights: for each character of `text`, its weight.
        cuts: places in `text`, ascending, at which a segment ends.
    """

    text: str
    origin: tuple[int, ...]
    weights: tuple[float, ...]
    cuts: tuple[int, ...] = ()

    @cached_property
    def runs(self) -> tuple[int, ...]:
        """For each character of `text`, the number of the run of characters of equal weight that it is in."""
        changes = (a != b for a, b in pairwise(self.weights))
        return tuple(accumulate(changes, initial=0)) if self.weights else ()

    @cached_property
    def weighted(self) -> bool:
        """Whether any character has a weight other than 1."""
        return bool(self.weights) and set(self.weights) != {1.0}


def read_syntax(prompt: str, syntax: Syntax = "plain") -> Marked:
    """Takes the marks of a notation out of a prompt.

    Args:
        syntax: ``plain`` (no marks; the prompt as it is), ``a1111`` or ``compel``.

    Raises:
        LongalignError: no such notation.
    """
    if syntax not in get_args(Syntax):
        raise LongalignError(unknown("syntax", syntax, get_args(Syntax)))
    if syntax == "plain":
        return Marked(prompt, tuple(range(len(prompt))), (1.0,) * len(prompt))
    return _a1111(prompt) if syntax == "a1111" else _compel(prompt)


def looks_weighted(prompt: str) -> str | None:
    """The first piece of a prompt that looks like a weight or a cut of A1111 or compel; None where nothing does."""
    found = _LOOKS_WEIGHTED.search(prompt)
    return None if found is None else found.group(0)


class _Builder:
    """Collects characters with their places; weights are multiplied onto ranges of them."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.letters: list[str] = []
        self.places: list[int] = []
        self.weights: list[float] = []
        self.cuts: list[int] = []

    def take(self, start: int, end: int) -> None:
        self.letters += self.prompt[start:end]
        self.places += range(start, end)
        self.weights += [1.0] * (end - start)

    def multiply(self, first: int, by: float) -> None:
        """Onto every character taken since there were `first` of them."""
        for i in range(first, len(self.weights)):
            self.weights[i] *= by

    def insert(self, at: int, place: int) -> None:
        """Puts a mark that turned out to be a letter back where it stood."""
        self.letters.insert(at, self.prompt[place])
        self.places.insert(at, place)
        self.weights.insert(at, 1.0)
        self.cuts = [cut + (cut > at) for cut in self.cuts]

    def built(self) -> Marked:
        text = "".join(self.letters)
        cuts = sorted({cut for cut in self.cuts if 0 < cut < len(text)})
        return Marked(text, tuple(self.places), tuple(self.weights), tuple(cuts))


def _warn(what: str, prompt: str) -> None:
    shown = prompt if len(prompt) <= 60 else prompt[:57] + "…"
    warnings.warn(f"{what} in {shown!r} is read as letters", SyntaxWarning, stacklevel=4)


def _a1111(prompt: str) -> Marked:
    built = _Builder(prompt)
    opened: list[tuple[str, int, int]] = []  # bracket, its place in the prompt, characters taken before it
    i = 0
    while i < len(prompt):
        character = prompt[i]
        if character == "\\" and i + 1 < len(prompt) and prompt[i + 1] in "()[]\\":
            built.take(i + 1, i + 2)
            i += 2
        elif character in "([":
            opened.append((character, i, len(built.places)))
            i += 1
        elif (
            character == ":"
            and opened
            and opened[-1][0] == "("
            and (m := _NUMBER_BEHIND_COLON.match(prompt, i))
        ):
            weight = _number(m[1])
            if weight is None:  # "1.4.2"
                _warn(f"the weight {m[1]!r}", prompt)
                _, place, at = opened.pop()
                built.insert(at, place)
                built.take(i, m.end())
            else:
                built.multiply(opened.pop()[2], weight)
            i = m.end()
        elif character in ")]":
            if opened and opened[-1][0] == ("(" if character == ")" else "["):
                _, place, at = opened.pop()
                inside = prompt[place + 1 : i]
                if character == "]" and re.search(r":[^:\]]*[\d.]\s*$|\|", inside):
                    _warn(f"the prompt editing [{inside}]", prompt)
                    built.insert(at, place)
                    built.take(i, i + 1)
                else:
                    built.multiply(at, _ROUND if character == ")" else _SQUARE)
            else:
                _warn(f"the unpaired bracket {character!r}", prompt)
                built.take(i, i + 1)
            i += 1
        elif m := _BREAK.match(prompt, i):
            if i and prompt[i - 1].isalnum():
                built.take(i, i + 1)
                i += 1
            else:
                built.cuts.append(len(built.places))
                i = m.end()
        else:
            built.take(i, i + 1)
            i += 1
    for bracket, place, at in reversed(opened):
        _warn(f"the unpaired bracket {bracket!r}", prompt)
        built.insert(at, place)
    return built.built()


def _compel(prompt: str) -> Marked:
    built = _Builder(prompt)
    conjunction = _COMPEL_AND.match(prompt)
    if conjunction is None:
        _compel_piece(built, 0, len(prompt))
        return built.built()
    for quoted in _QUOTED.finditer(prompt, conjunction.start(1), conjunction.end(1)):
        if (
            built.places
        ):  # a blank in place of the comma, so that the texts stay apart where all is read as one
            built.take(quoted.start() - 1, quoted.start())
            built.letters[-1] = " "
            built.cuts.append(len(built.places))
        _compel_piece(built, quoted.start(1), quoted.end(1))
    return built.built()


def _compel_piece(built: _Builder, start: int, end: int) -> None:
    prompt = built.prompt
    opened: list[tuple[int, int]] = []  # place in the prompt, characters taken before it
    i = start
    while i < end:
        character = prompt[i]
        if character == "\\" and i + 1 < end and prompt[i + 1] in '()"\\':
            built.take(i + 1, i + 2)
            i += 2
        elif character == "(":
            opened.append((i, len(built.places)))
            i += 1
        elif character == ")" and opened:
            place, at = opened.pop()
            suffix = _COMPEL_SUFFIX.match(prompt, i + 1, end)
            weight = None if suffix is None else _compel_weight(suffix[0])
            if suffix is None or weight is None:  # brackets of ordinary text
                built.insert(at, place)
                built.take(i, i + 1)
                i += 1
            else:
                built.multiply(at, weight)
                i = suffix.end()
        elif character == ")":
            _warn("the unpaired bracket ')'", prompt)
            built.take(i, i + 1)
            i += 1
        elif (
            not character.isspace()
            and _starts_word(prompt, i, start)
            and (m := _COMPEL_WORD.match(prompt, i, end))
        ):
            at = len(built.places)
            built.take(i, m.start(1))
            built.multiply(at, _compel_weight(m[1]) or 1.0)
            i = m.end()
        else:
            built.take(i, i + 1)
            i += 1
    for place, at in reversed(opened):
        _warn("the unpaired bracket '('", prompt)
        built.insert(at, place)


def _starts_word(prompt: str, i: int, start: int) -> bool:
    return i == start or prompt[i - 1].isspace() or prompt[i - 1] in '("'


def _compel_weight(suffix: str) -> float | None:
    if suffix[0] == "+":
        return _PLUS ** len(suffix)
    if suffix[0] == "-":
        return _MINUS ** len(suffix)
    return _number(suffix)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
