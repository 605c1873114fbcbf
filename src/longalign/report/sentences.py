"""What came of each sentence: which ones an encoder could read, and which ones the picture makes true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longalign.encoding.segments import Segment, Segmenter
from longalign.encoding.tokens import tokenise
from longalign.report.data import Mark, SentenceRow
from longalign.worlds import world

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Sentences:
    """The sentences of one prompt, and whether the plain encoding reads them.

    Attributes:
        segments: in order.
        beyond: (sentences,) True where a sentence lies, at least in part, past the window.
    """

    segments: Sequence[Segment]
    beyond: Sequence[bool]


def window_of(pipe: Any) -> int:
    """How many tokens the pipeline's first text encoder reads, with the start and end tokens."""
    return int(pipe.tokenizer.model_max_length)


def sentences_of(pipe: Any, prompts: Sequence[str], language: str = "en") -> list[Sentences]:
    """The sentences of each prompt; those with a token past the first tokenizer's window are `beyond`."""
    segmenter = Segmenter("sentence", tokenizer=pipe.tokenizer, window=window_of(pipe), language=language)
    tokens = tokenise(pipe.tokenizer, prompts, before=1)
    found = []
    for prompt in prompts:
        segments = segmenter(prompt)
        cut = tokens[prompt].cut_at(window_of(pipe))
        found.append(Sentences(segments, [cut is not None and s.end > cut for s in segments]))
    return found


def judge(texts: Sequence[str], image: Image, oracle: str | None) -> list[Mark]:
    """The oracle's verdict on each sentence; `unjudged` without one, or where the sentence states nothing it knows."""
    return world(oracle).judge(image, texts)


def sentence_rows(sentences: Sentences, images: Mapping[str, Image], oracle: str | None) -> list[SentenceRow]:
    """One row a sentence, with the verdict on each column's picture."""
    texts = [s.text for s in sentences.segments]
    marks = {column: judge(texts, image, oracle) for column, image in images.items()}
    return [
        SentenceRow(text, beyond, {column: found[i] for column, found in marks.items()})
        for i, (text, beyond) in enumerate(zip(texts, sentences.beyond, strict=True))
    ]
