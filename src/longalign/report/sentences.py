"""The sentences of a prompt: which ones the plain encoding reads, and which ones are true of a picture."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longalign.encoding.segments import Segment, Segmenter
from longalign.encoding.syntax import Syntax, read_syntax
from longalign.encoding.tokens import tokenise
from longalign.report.data import Mark, SentenceRow
from longalign.worlds import world

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Sentences:
    """The sentences of one prompt.

    Attributes:
        segments: in order.
        beyond: for each of them, whether it lies, at least in part, past the window of the plain encoding.
    """

    segments: Sequence[Segment]
    beyond: Sequence[bool]


def window_of(tokenizer: Any) -> int:
    """How many tokens an encoder with this tokenizer reads, with the start and end tokens."""
    return int(tokenizer.model_max_length)


def sentences_of(
    tokenizer: Any, prompts: Sequence[str], language: str = "en", syntax: Syntax = "plain"
) -> list[Sentences]:
    """The sentences of each prompt, without marks; those with a token past the window are `beyond`.

    Args:
        tokenizer: of the plain encoding, such as ``pipe.tokenizer``.
        prompts: the texts.
        language: whose rules cut the sentences.
        syntax: notation of weights in the prompts.
    """
    window = window_of(tokenizer)
    segmenter = Segmenter("sentence", tokenizer=tokenizer, window=window, language=language)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # `encode` gives it
        read = [read_syntax(prompt, syntax) for prompt in prompts]
    tokens = tokenise(tokenizer, [marked.text for marked in read], before=1)
    found = []
    for marked in read:
        segments = segmenter(marked.text, marked.cuts)
        cut = tokens[marked.text].cut_at(window)
        found.append(Sentences(segments, [cut is not None and s.end > cut for s in segments]))
    return found


def judge(texts: Sequence[str], image: Image, oracle: str | None) -> list[Mark]:
    """The verdict of a world's judge on each sentence; ``unjudged`` if there is no judge or it does not know the fact.

    Args:
        texts: the sentences.
        image: the picture.
        oracle: name of the world; None: there is no judge.
    """
    return world(oracle).judge(image, texts)


def sentence_rows(sentences: Sentences, images: Mapping[str, Image], oracle: str | None) -> list[SentenceRow]:
    """One row a sentence, with its mark for each column's picture.

    Args:
        sentences: of one prompt.
        images: column → picture.
        oracle: the world that judges, such as ``stickers``; None leaves all sentences unjudged.
    """
    texts = [s.text for s in sentences.segments]
    marks = {column: judge(texts, image, oracle) for column, image in images.items()}
    return [
        SentenceRow(text, beyond, {column: found[i] for column, found in marks.items()})
        for i, (text, beyond) in enumerate(zip(texts, sentences.beyond, strict=True))
    ]
