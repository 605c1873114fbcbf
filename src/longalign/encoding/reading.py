"""Reads texts before an encoder runs: segments, tokens, layout, and text that does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from longalign.backbones.base import Backbone
from longalign.encoding.conditioning import Truncation
from longalign.encoding.context import sentences_ahead
from longalign.encoding.layout import Cell, lay_out, padded
from longalign.encoding.segments import Segment, Segmenter
from longalign.encoding.strategy import Strategy
from longalign.encoding.t5 import T5Encoder
from longalign.encoding.tokens import Ids, Tokens
from longalign.encoding.towers import Tower


@dataclass(frozen=True)
class Cut:
    """The text from ``start`` to ``end`` does not fit into ``where``."""

    start: int
    end: int
    where: str


@dataclass(eq=False)
class Reading:
    """One text, read: a prompt or a negative prompt.

    Attributes:
        segments: its pieces.
        whole: for each CLIP, the tokens of the whole text, cut to the window; empty if they are not needed.
        pieces: for each CLIP, each segment's tokens, cut to the window. Empty for ``plain``.
        joint: text tokens of each segment, for the CLIP with most.
        ahead: for each segment those that stand ahead of it in the row in which it is encoded.
        row: the cells of the CLIP part, cut to max_length. Empty for strategies without a CLIP part.
        t5: the whole text's tokens for T5, cut to its limit.
        cuts: what was left out.
    """

    segments: list[Segment]
    whole: list[Tokens] = field(default_factory=list)
    pieces: list[list[Tokens]] = field(default_factory=list)
    joint: list[int] = field(default_factory=list)
    ahead: list[range] = field(default_factory=list)
    row: list[Cell] = field(default_factory=list)
    t5: Tokens | None = None
    cuts: list[Cut] = field(default_factory=list)

    def in_row(self, k: int, segment: int) -> tuple[Ids, int]:
        """The row in which a CLIP reads a segment, and how many tokens stand in it between <sot> and the segment's."""
        pieces = self.pieces[k]
        ids = pieces[segment].ids
        ahead = tuple(token for s in self.ahead[segment] for token in pieces[s].ids[1:-1])
        return ids[:1] + ahead + ids[1:], len(ahead)

    def truncation(self, text: str, prompt_index: int, negative: bool) -> list[Truncation]:
        """The cuts for `Conditioning.truncation`; encoders that leave out the same text share one entry."""
        where: dict[tuple[int, int], list[str]] = {}
        for cut in self.cuts:
            where.setdefault((cut.start, cut.end), []).append(cut.where)
        return [
            Truncation(prompt_index, text[start:end], start, end, " and ".join(names), negative)
            for (start, end), names in sorted(where.items())
        ]


def read(
    texts: Iterable[str],
    towers: Sequence[Tower],
    t5: T5Encoder | None,
    strategy: Strategy,
    backbone: Backbone,
    segmenter: Segmenter,
    want_whole: bool,
    max_length: int | None,
) -> dict[str, Reading]:
    """Cuts, tokenizes and lays out each different text.

    Args:
        want_whole: the tokens of whole texts are needed, too, for ``plain`` or for pooled vectors.
    """
    readings = {text: Reading(segmenter(text)) for text in dict.fromkeys(texts)}
    plain = strategy.kind == "plain"
    for tower in towers:
        if want_whole:
            for text, tokens in tower.tokenise(list(readings)).items():
                if plain:
                    _cut_whole(readings[text], text, tokens, tower.window, tower.name)
                readings[text].whole.append(tokens.fit(tower.window))
        if not plain:
            tokens_of = tower.tokenise([segment.text for r in readings.values() for segment in r.segments])
            for text, reading in readings.items():
                _add_pieces(reading, text, tokens_of, tower, report=strategy.clip and backbone.clip_tokens)
    if strategy.clip and backbone.clip_tokens:
        for text, reading in readings.items():
            window = min(tower.window for tower in towers)
            _lay_out(reading, text, strategy, window, max_length)
            said = [segment.text for segment in reading.segments]
            context = strategy.rule.context
            reading.ahead = sentences_ahead(said, reading.joint, context, window, segmenter.language)
    if t5 is not None:
        limit = backbone.t5_length if plain else t5.limit(max_length)
        for text, tokens in t5.tokenise(list(readings)).items():
            _cut_whole(readings[text], text, tokens, limit, t5.name)
            readings[text].t5 = tokens if limit is None else tokens.fit(limit)
    return readings


def _add_pieces(
    reading: Reading, text: str, tokens_of: Mapping[str, Tokens], tower: Tower, report: bool
) -> None:
    """Adds one CLIP's tokens of each segment. Segments fit the window, except in the mode `released`."""
    pieces = []
    for segment in reading.segments:
        tokens = tokens_of[segment.text]
        if report and (at := tokens.cut_at(tower.window)) is not None:
            _cut(reading, text, _place(text, segment, at), segment.end, tower.name)
        pieces.append(tokens.fit(tower.window))
    reading.pieces.append(pieces)


def _lay_out(reading: Reading, text: str, strategy: Strategy, window: int, max_length: int | None) -> None:
    """The row of the CLIP part, cut to max_length."""
    reading.joint = [
        max(tokens.count for tokens in of_segment) for of_segment in zip(*reading.pieces, strict=True)
    ]
    row = lay_out(reading.joint, strategy.rule, window)
    left_out = row[max_length:] if max_length is not None else []
    for s, place in left_out:
        if s >= 0 and 1 <= place <= reading.joint[s]:  # the first token of text that is left out
            starts = max((pieces[s].starts for pieces in reading.pieces), key=len)
            at = _place(text, reading.segments[s], starts[place - 1])
            _cut(reading, text, at, reading.segments[-1].end, "max_length")
            break
    reading.row = row[: len(row) - len(left_out)]


def _place(text: str, segment: Segment, offset: int) -> int:
    """The character of the prompt at ``offset`` of a segment's text.

    Mode `released` ends each piece with a full stop of its own and may count dropped marks to its place.
    """
    found = text.find(segment.text[:-1], segment.start, segment.end)
    return min(max(found, segment.start) + offset, segment.end)


def _cut_whole(reading: Reading, text: str, tokens: Tokens, window: int | None, where: str) -> None:
    if window is not None and (at := tokens.cut_at(window)) is not None:
        _cut(reading, text, at, len(text), where)


def _cut(reading: Reading, text: str, start: int, end: int, where: str) -> None:
    """Records a cut without the blanks around it; a cut of blanks alone is not recorded."""
    piece = text[start:end]
    if piece.strip():
        start += len(piece) - len(piece.lstrip())
        reading.cuts.append(Cut(start, start + len(piece.strip()), where))


def lengths(
    pair: Sequence[Reading], backbone: Backbone, strategy: Strategy, length: int, max_length: int | None
) -> tuple[int, int]:
    """Padded lengths of the CLIP part and the T5 part that hold a prompt and its negative (0: no such part).

    They do not depend on other prompts of the batch.
    """
    clip = t5 = 0
    if strategy.clip and backbone.clip_tokens:
        clip = padded(max(len(reading.row) for reading in pair), length, max_length)
    if strategy.t5 or backbone.t5 is not None:  # without its T5 the model gets zeros, of the least length
        t5 = padded(max(len(reading.t5) if reading.t5 else 0 for reading in pair), length, max_length)
    return clip, t5
