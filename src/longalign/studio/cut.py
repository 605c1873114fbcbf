"""A prompt, cut into sentences: how many tokens each has, and what the plain encoding would lose."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any, get_args

from longalign.encoding.segments import Segmenter
from longalign.encoding.syntax import Syntax, looks_weighted, read_syntax
from longalign.encoding.tokens import tokenise
from longalign.errors import LongalignError
from longalign.plugins import unknown
from longalign.report.sentences import window_of


@dataclass(frozen=True)
class CutSentence:
    """A sentence of a prompt.

    Attributes:
        text: the sentence; weights in it are taken out.
        start, end: its place in `Cut.text`, in characters.
        tokens: how many tokens it has, without those for start and end.
        lost_from: the first character, from the sentence's start, that the plain encoding does not read; None: all is
            read.
        weights: parts with a weight other than 1: first and last character from the sentence's start, and the weight.
    """

    text: str
    start: int
    end: int
    tokens: int
    lost_from: int | None = None
    weights: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True)
class Cut:
    """A prompt, cut.

    Attributes:
        text: without the notation of weights.
        sentences: in order.
        tokens: of the whole text, with those for start and end.
        window: how many of them the plain encoding reads.
        notation: whether the text looks as if it had weights that the chosen notation does not read.
    """

    text: str
    sentences: tuple[CutSentence, ...]
    tokens: int
    window: int
    notation: bool = False

    @property
    def lost(self) -> int:
        """Sentences of which the plain encoding loses a part."""
        return sum(sentence.lost_from is not None for sentence in self.sentences)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "lost": self.lost}


def cut_prompt(tokenizer: Any, prompt: str, syntax: str = "plain", language: str = "en") -> Cut:
    """Cuts a prompt as `longalign.encode` does.

    Args:
        tokenizer: of the model's first text encoder.
        prompt: of any length; it may be empty.
        syntax: notation of weights: ``plain`` (none), ``a1111`` or ``compel``.
        language: of the text.

    Raises:
        LongalignError: the notation is unknown, or the text is not valid Unicode.
    """
    if syntax not in get_args(Syntax):
        raise LongalignError(unknown("syntax", syntax, get_args(Syntax)))
    window = window_of(tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        marked = read_syntax(prompt, _syntax(syntax))
    segments = Segmenter("sentence", tokenizer=tokenizer, window=window, language=language)(
        marked.text, marked.cuts
    )
    tokens = tokenise(tokenizer, [marked.text, *(s.text for s in segments)], before=1)
    last = tokens[marked.text].cut_at(window)
    found = []
    for s in segments:
        lost = None if last is None or s.end <= last else max(0, last - s.start)
        runs: list[tuple[int, int, float]] = []
        for at in range(s.start, min(s.end, len(marked.weights))):
            weight = marked.weights[at]
            if weight == 1:
                continue
            if runs and runs[-1][1] == at - s.start and runs[-1][2] == weight:
                runs[-1] = (runs[-1][0], at - s.start + 1, weight)
            else:
                runs.append((at - s.start, at - s.start + 1, weight))
        found.append(CutSentence(s.text, s.start, s.end, len(tokens[s.text].ids) - 2, lost, tuple(runs)))
    unread = syntax == "plain" and looks_weighted(prompt)
    return Cut(marked.text, tuple(found), len(tokens[marked.text].ids), window, bool(unread))


def _syntax(name: str) -> Syntax:
    return name  # type: ignore[return-value]  # checked by the caller
