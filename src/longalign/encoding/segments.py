"""Prompt → segments: pieces of a prompt that are encoded separately (LongAlign, §3.1 and App. A).

A *blank* is a character of ``str.isspace``. The modes ``sentence`` and ``packed`` tile the prompt: every character that
is not a blank lies in exactly one segment, segments are in order, no segment begins or ends with a blank, and
``prompt[s.start:s.end] == s.text``. No text is dropped or rewritten. The mode ``released`` rewrites the text, as the
published weights expect, and tiles the prompt by its offsets alone.

A text that is too long for the encoder is cut in three steps. First, the whole text is tokenised. Second, it is cut
greedily at the best places. Third, each piece is tokenised again, because its tokens may differ from those within the
text. Pieces that are still too long go through the steps again. Each round is one call of the tokenizer.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Literal, get_args

import regex

from longalign.encoding.sentences import check_language, sentence_ends
from longalign.errors import LongalignError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Mode = Literal["sentence", "packed", "released"]
Span = tuple[int, int]  # start and end, in characters

# Places at which a text that is too long may be cut, best first; a cut is made at the end of a match.
# The first group of marks needs a blank after it, or "3,500", "16:9" and "1939–45" would be cut.
_CLAUSE = re.compile(r"""(?:[,;:!?…–]|\.{3})[)\]}»”’"']*(?=\s)|[—\n、，；：。！？،؛؟۔।][）」』】》”’]*""")
_WORD = re.compile(r"\S+(?!\S)")
_GRAPHEME = regex.compile(r"\X")

_RELEASED_CUT = re.compile(r'([.?]|"!|;")')


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of a prompt: its text, and its place in the prompt in characters, from ``start`` to ``end``."""

    text: str
    start: int
    end: int


class Segmenter:
    """Cuts a prompt into segments: ``Segmenter()("A cat sits. A dog runs.")`` gives two.

    Args:
        mode: ``sentence`` gives one segment a sentence; a line ends a sentence, except in hard-wrapped prose
            (`longalign.encoding.sentences`). ``packed`` fills each segment with as many whole
            sentences as the window holds (App. A, ``multi``); the rest of a sentence that had to be cut is joined
            with the next sentences. ``released`` is the rule of the published weights' training: cut at every ``.``
            and ``?`` and at ``"!`` and ``;"``, then end each piece with a full stop. It ignores the window, and its
            segments together hold the whole prompt, blanks and all.
        tokenizer: the encoder's tokenizer, any of transformers. None: words (text between blanks) are counted in
            place of tokens, and a word is never cut.
        window: most tokens a segment may have, counting the special tokens that the tokenizer adds: CLIP's 77
            leave 75, since it adds two. A sentence longer than that is cut behind clause punctuation, else
            between words, else within a word, between graphemes. Only a grapheme that is itself too long is
            cut, between characters.
        language: language of the prompt, as in ``en``, ``de`` or ``pt-BR`` (the region has no influence). It
            chooses the abbreviations that do not end a sentence. sentencex replaces a language that it lacks by a
            related one, or by English, without a message.

    Raises:
        LongalignError: the mode or the language is unknown; the window holds no text, or is too small for a single
            character of the prompt (the message names the smallest window that works); or the prompt is not valid
            Unicode.
    """

    def __init__(
        self,
        mode: Mode = "sentence",
        tokenizer: PreTrainedTokenizerBase | None = None,
        window: int = 77,
        language: str = "en",
    ) -> None:
        if mode not in get_args(Mode):
            raise LongalignError(f"unknown segment mode {mode!r}: choose one of {', '.join(get_args(Mode))}")
        special_tokens = 0 if tokenizer is None else tokenizer.num_special_tokens_to_add()
        if window <= special_tokens:
            raise LongalignError(
                f"a window of {window} tokens holds no text: use at least {special_tokens + 1} "
                f"(the tokenizer adds {special_tokens} special tokens)"
            )
        check_language(language)
        self.mode = mode
        self.tokenizer = tokenizer
        self.window = window
        self.language = language
        self._special_tokens = special_tokens
        self._room_tokens = window - special_tokens

    def __call__(self, prompt: str, cuts: Sequence[int] = ()) -> list[Segment]:
        """Cuts ``prompt``. A prompt without text is one empty segment, so the list is never empty.

        Args:
            cuts: places, ascending, at which a segment has to end (``BREAK``).
        """
        _check_unicode(prompt)
        bounds = [0, *cuts, len(prompt)]
        if self.mode == "released":
            pieces = [s for left, right in pairwise(bounds) for s in _released(prompt[left:right], left)]
            return [s for s in pieces if s.text.strip()] or pieces[:1]
        ends = sentence_ends(prompt, self.language)
        if self.mode == "sentence":
            spans = self._fit(prompt, _spans_between(prompt, sorted({*bounds, *ends})))
        else:
            spans = self._fit(prompt, _spans_between(prompt, bounds), ends)
        return [Segment(prompt[start:end], start, end) for start, end in spans] or [Segment("", 0, 0)]

    def _fit(self, text: str, spans: list[Span], sentence_ends: Sequence[int] = ()) -> list[Span]:
        """Cuts the spans that the window does not hold. Every round cuts each of them at least once."""
        fitting: list[Span] = []
        while spans:
            too_long: list[Span] = []
            starts_of = token_starts([text[start:end] for start, end in spans], self.tokenizer)
            for (start, end), starts in zip(spans, starts_of, strict=True):
                if len(starts) <= self._room_tokens:
                    fitting.append((start, end))
                elif end - start == 1:
                    raise self._window_too_small(text)
                else:
                    tokens_at = [start + offset for offset in starts]
                    cuts = _cuts(text, start, tokens_at, self._room_tokens, sentence_ends)
                    too_long += _spans_between(text, [start, *cuts, end])
            spans = too_long
        return sorted(fitting)

    def _window_too_small(self, text: str) -> LongalignError:
        characters = sorted({c for c in text if not c.isspace()})
        tokens = [len(starts) for starts in token_starts(characters, self.tokenizer)]
        needed, character = max(zip(tokens, characters, strict=True))
        return LongalignError(
            f"a window of {self.window} tokens is too small for this prompt: {character!r} alone "
            f"takes {needed}, and {self._special_tokens} more are special tokens; use a window of at least "
            f"{needed + self._special_tokens}"
        )


def token_starts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase | None) -> list[list[int]]:
    """For each text, the character at which each of its tokens begins, in ascending order, no special tokens.

    So ``len(starts)`` is the number of tokens, and ``text[starts[n]:]`` is what the first n of them do not
    hold whole. Without a tokenizer, words stand for tokens. For tokenizers without
    offsets (the slow ones), tokens are spread evenly over the text, which is a good enough estimate.
    """
    if tokenizer is None:
        return [[word.start() for word in _WORD.finditer(text)] for text in texts]
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=tokenizer.is_fast,
        verbose=False,  # no warning about long texts: this module cuts them
    )
    if not tokenizer.is_fast:
        counts = map(len, encoded["input_ids"])
        return [[i * len(text) // n for i in range(n)] for text, n in zip(texts, counts, strict=True)]
    return [[start for start, _ in offsets] for offsets in encoded["offset_mapping"]]


def _cuts(
    text: str, start: int, tokens_at: Sequence[int], room: int, sentence_ends: Sequence[int]
) -> Iterator[int]:
    """Greedy cuts, ``room`` tokens a piece, of what begins at ``start`` and has tokens at ``tokens_at``."""
    first = 0
    while first + room < len(tokens_at):
        # The first token that does not fit begins where its character does, so no character is ever split.
        start = _best_cut(text, start, tokens_at[first + room], sentence_ends)
        yield start
        first = bisect_left(tokens_at, start, lo=first)


def _best_cut(text: str, start: int, reach: int, sentence_ends: Sequence[int]) -> int:
    """The last cut of the best kind with start < cut <= reach."""
    at = bisect_right(sentence_ends, reach) - 1
    if at >= 0 and sentence_ends[at] > start:
        return sentence_ends[at]
    # One character more than allowed, so that a match that goes on beyond `reach` is seen to do so. A slice,
    # since `regex` would look back from `start` over a whole run of flags to find its graphemes.
    near = text[start : reach + 1]
    for pattern in (_CLAUSE, _WORD, _GRAPHEME):
        cuts = [match.end() for match in pattern.finditer(near)]
        if cut := max((cut for cut in cuts if cut <= reach - start), default=0):
            return start + cut
    return max(reach, start + 1)


def _spans_between(text: str, cuts: Sequence[int]) -> list[Span]:
    """The pieces between the cuts, without the blanks around them and without blank pieces."""
    spans = []
    for left, right in pairwise(cuts):
        piece = text[left:right]
        if core := piece.strip():
            begin = left + len(piece) - len(piece.lstrip())
            spans.append((begin, begin + len(core)))
    return spans


def _released(prompt: str, at: int = 0) -> list[Segment]:
    """The rule of the published weights. By its offsets a piece includes the mark that was cut off after it.

    Args:
        at: what is added to the offsets.
    """
    parts = _RELEASED_CUT.split(prompt)  # piece, mark, piece, mark, ..., piece
    texts, starts = [], []
    start = 0
    for piece, mark in zip_longest(parts[::2], parts[1::2], fillvalue=""):
        if piece:
            texts.append(piece + ".")
            starts.append(start)
        start += len(piece) + len(mark)
    if not texts:  # empty, or nothing but marks: stays as it is
        return [Segment(prompt, at, at + len(prompt))]
    bounds = pairwise([0, *starts[1:], len(prompt)])
    return [Segment(text, at + left, at + right) for text, (left, right) in zip(texts, bounds, strict=True)]


def _check_unicode(prompt: str) -> None:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise LongalignError(
            f"the prompt is not valid Unicode: character {error.start} is half of a surrogate pair; "
            "was the text read with the wrong encoding? Use UTF-8"
        ) from None
