"""ComfyUI's weights in a prompt, ``(red fox:1.3)``: read, and written again for each sentence.

A weight may reach over the end of a sentence. ComfyUI's tokenizer would then see an open bracket in one sentence and a
closed one in the next. So the brackets are taken out first, the plain text is cut, and each sentence gets its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from longalign.encoding.cleaning import clean

_ROUND = 1.1  # what a pair of brackets without a number multiplies with


@dataclass(frozen=True)
class Weighted:
    """A prompt without its brackets.

    Attributes:
        text: what is left of the prompt.
        weights: the weight of each character of ``text``.
    """

    text: str
    weights: tuple[float, ...]

    def written(self, start: int = 0, end: int | None = None, *, repair: bool = False) -> str:
        """``text[start:end]`` as ComfyUI's tokenizer reads it: with weights, and with literal brackets escaped.

        Args:
            start, end: places in ``text``.
            repair: repair the characters as CLIP's training text was (`longalign.encoding.cleaning`).
        """
        pieces = []
        of_range = range(start, len(self.text) if end is None else end)
        for weight, places in groupby(of_range, key=self.weights.__getitem__):
            said = "".join(self.text[i] for i in places)
            said = escaped(clean(said).text if repair else said)
            pieces.append(said if weight == 1.0 else f"({said}:{weight:g})")
        return "".join(pieces)


def escaped(text: str) -> str:
    """Text whose brackets ComfyUI reads as letters."""
    return text.replace("(", "\\(").replace(")", "\\)")


def read_weights(prompt: str) -> Weighted:
    """Reads ``(text)`` as 1.1 times the weight around it, ``(text:1.3)`` as 1.3, and ``\\(`` as a letter.

    Brackets that do not pair are letters.

    Args:
        prompt: as the user wrote it.
    """
    letters = list(_letters(prompt))
    partner = _pairs(letters)
    text: list[str] = []
    weights: list[float] = []

    def read(first: int, last: int, weight: float) -> None:
        i = first
        while i < last:
            letter, literal = letters[i]
            close = None if literal else partner.get(i)
            if letter == "(" and close is not None:
                inner_end, inner = _number(letters, i + 1, close)
                read(i + 1, inner_end, weight * _ROUND if inner is None else inner)
                i = close + 1
                continue
            text.append(letter)
            weights.append(weight)
            i += 1

    read(0, len(letters), 1.0)
    return Weighted("".join(text), tuple(weights))


def _letters(prompt: str) -> Iterator[tuple[str, bool]]:
    """Each character, and whether a backslash before it made it a letter."""
    i = 0
    while i < len(prompt):
        if prompt[i] == "\\" and prompt[i + 1 : i + 2] in ("(", ")"):
            yield prompt[i + 1], True
            i += 2
        else:
            yield prompt[i], False
            i += 1


def _pairs(letters: list[tuple[str, bool]]) -> dict[int, int]:
    """Place of each opening bracket that has a closing one → the place of that one."""
    found: dict[int, int] = {}
    open_at: list[int] = []
    for i, (letter, literal) in enumerate(letters):
        if literal:
            continue
        if letter == "(":
            open_at.append(i)
        elif letter == ")" and open_at:
            found[open_at.pop()] = i
    return found


def _number(letters: list[tuple[str, bool]], first: int, last: int) -> tuple[int, float | None]:
    """Where the text within a pair of brackets ends, and the weight behind its last colon, if there is one."""
    inner = "".join(letter for letter, _ in letters[first:last])
    colon = inner.rfind(":")
    if colon > 0:
        try:
            return first + colon, float(inner[colon + 1 :])
        except ValueError:
            pass
    return last, None
