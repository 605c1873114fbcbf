"""The positions of a word among the text states of an encoded prompt, for maps of attention (LongAlign, Fig. 12)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from typing_extensions import Unpack

from longalign.encoding.conditioning import Conditioning
from longalign.encoding.encode import jobs_for, suiting
from longalign.encoding.job import Job
from longalign.encoding.options import EncodeOptions, Options, takes_options
from longalign.encoding.reading import Reading
from longalign.errors import LongalignError
from longalign.plugins import nearest

Place = tuple[int, int, int]  # a position in the row, and the first and the last character of its token
_WORD = re.compile(r"\w+")


@takes_options
def word_columns(
    pipe_or_parts: Any,
    conditioning: Conditioning,
    prompt: str,
    word: str,
    negative_prompt: str | None = None,
    *,
    row: int = 0,
    **options: Unpack[EncodeOptions],
) -> list[list[int]]:
    """The positions of a word in one row of a conditioning, for every place at which the prompt has the word.

    The prompt is read again as `longalign.encode` read it, which needs no text encoder. Nothing is encoded.

    Args:
        pipe_or_parts, prompt, negative_prompt: as they were given to `longalign.encode`; so are the options: strategy,
            length, max_length, segments, pooled, language, syntax, weights, clean, clip_skip, prompt_2, prompt_3,
            negative_prompt_2, negative_prompt_3, t5, batch_size, cache.
        conditioning: the result of `longalign.encode`.
        word: a word or several in a row, whole words, in upper or lower case.
        row: the prompt's row in the conditioning.

    Returns:
        for each occurrence, in order, its positions along L: those of its tokens for the CLIPs, then those for T5.
        Occurrences that were cut off are left out.

    Raises:
        LongalignError: the prompt does not have the word, or it was cut off; or the conditioning is not that of the
            prompt with these options.
    """
    asked = Options.of(word_columns, suiting(pipe_or_parts, options))
    text, places = _read(pipe_or_parts, conditioning, prompt, negative_prompt, row, asked)
    spans = [
        found.span() for found in re.finditer(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, re.IGNORECASE)
    ]
    if not word.strip() or not spans:
        near = nearest(word, dict.fromkeys(_WORD.findall(text)))
        raise LongalignError(
            f"the prompt does not have the word {word!r}" + (f"; did you mean {near!r}?" if near else "")
        )
    columns = [list(_within(places, span)) for span in spans]
    if not any(columns):
        raise LongalignError(f"{word!r} was cut off from the prompt: the encoder did not read it")
    return [of_place for of_place in columns if of_place]


@takes_options
def span_columns(
    pipe_or_parts: Any,
    conditioning: Conditioning,
    prompt: str,
    spans: Sequence[tuple[int, int]],
    negative_prompt: str | None = None,
    *,
    row: int = 0,
    **options: Unpack[EncodeOptions],
) -> list[list[int]]:
    """The positions of pieces of the text, such as its sentences, in one row of a conditioning.

    Unlike `Conditioning.segment_of` it does not depend on how the text was cut for the encoder.

    Args:
        pipe_or_parts, conditioning, prompt, negative_prompt, row: as of `word_columns`; so are the options: strategy,
            length, max_length, segments, pooled, language, syntax, weights, clean, clip_skip, prompt_2, prompt_3,
            negative_prompt_2, negative_prompt_3, t5, batch_size, cache.
        spans: the first character of each piece, and the one behind its last, in the text without marks of a notation.

    Returns:
        for each piece its positions along L; none where it was cut off.

    Raises:
        LongalignError: the conditioning is not that of the prompt with these options.
    """
    asked = Options.of(span_columns, suiting(pipe_or_parts, options))
    _, places = _read(pipe_or_parts, conditioning, prompt, negative_prompt, row, asked)
    return [list(_within(places, span)) for span in spans]


def _read(
    pipe_or_parts: Any,
    conditioning: Conditioning,
    prompt: str,
    negative_prompt: str | None,
    row: int,
    asked: Options,
) -> tuple[str, list[Place]]:
    """The text without marks, and the places of its tokens in a row of the conditioning."""
    [job] = jobs_for(pipe_or_parts, prompt, negative_prompt, asked)
    [shape] = job.groups()
    reading = job.readings[job.texts[0]]
    told = conditioning.segment_of[row].tolist()
    if 0 in shape:  # prompts that were padded together have longer rows than one alone
        shape = (len(told), 0) if shape[0] else (0, len(told))
    if len(told) != sum(shape) or job.segments_in(reading, shape) != told:
        raise LongalignError(
            f"row {row} of the conditioning is not this prompt with these options: give those of the call of "
            "longalign.encode (encode each prompt alone where CLIP and T5 have parts)"
        )
    return reading.source.text, [*_clip_places(job, reading), *_t5_places(reading, shape[0])]


def _within(places: Iterable[Place], span: tuple[int, int]) -> Iterator[int]:
    return (column for column, first, last in places if first < span[1] and last >= span[0])


def _clip_places(job: Job, reading: Reading) -> Iterator[Place]:
    """Of the first CLIP's tokens. Characters are counted in the text without the marks of its notation."""
    if not job.has_clip:
        return
    clip = reading.clips[0]
    if job.strategy.kind == "plain":
        yield from _places(clip.whole[0].starts, clip.whole[0].last, clip.whole[0].before)
        return
    pieces = clip.pieces[min(clip.pieces)]
    for column, (segment, place) in enumerate(clip.row):
        if segment >= 0 and 1 <= place <= pieces[segment].count:  # else <sot>, <eot> or a pad
            tokens, base = pieces[segment], clip.source.base(segment)
            yield column, base + tokens.starts[place - 1], base + tokens.last[place - 1]


def _t5_places(reading: Reading, first: int) -> Iterator[Place]:
    """Of T5's tokens, whose part begins at a position; none where T5 got another text than the CLIPs."""
    if reading.t5 is not None and reading.t5_source is reading.source:
        yield from _places(reading.t5.starts, reading.t5.last, first + reading.t5.before)


def _places(starts: Sequence[int], lasts: Sequence[int], first: int) -> Iterator[Place]:
    return ((first + k, start, last) for k, (start, last) in enumerate(zip(starts, lasts, strict=True)))
