"""Reads texts before an encoder runs: segments, tokens, weights, layout, and text that does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from longalign.backbones.base import Backbone
from longalign.encoding.conditioning import Truncation
from longalign.encoding.context import sentences_ahead
from longalign.encoding.layout import Cell, lay_out, padded
from longalign.encoding.segments import Segment, Segmenter
from longalign.encoding.source import Marks, Source
from longalign.encoding.strategy import Strategy
from longalign.encoding.syntax import Syntax
from longalign.encoding.t5 import T5Encoder
from longalign.encoding.tokens import Ids, Tokens
from longalign.encoding.towers import Tower

Texts = tuple[str, ...]  # one for each text encoder: the CLIPs, then the T5


@dataclass(frozen=True)
class Cut:
    """The text from ``start`` to ``end`` of ``source`` does not fit into ``where``."""

    source: Source
    start: int
    end: int
    where: str


@dataclass(eq=False)
class ClipReading:
    """One text, as the CLIPs read it that get this text. The first four are by the CLIP's number.

    Attributes:
        whole: the tokens of the whole text, cut to the window. Not read if they are not needed.
        whole_marks: their weights.
        pieces: each segment's tokens, cut to the window. Not read for ``plain``.
        marks: their weights.
        joint: text tokens of each segment, for the CLIP with most.
        ahead: for each segment those that stand ahead of it in the row in which it is encoded.
        row: the cells of the CLIP part, cut to max_length. Empty for strategies without a CLIP part.
        cuts: what was left out.
    """

    source: Source
    whole: dict[int, Tokens] = field(default_factory=dict)
    whole_marks: dict[int, Marks | None] = field(default_factory=dict)
    pieces: dict[int, list[Tokens]] = field(default_factory=dict)
    marks: dict[int, list[Marks | None]] = field(default_factory=dict)
    joint: list[int] = field(default_factory=list)
    ahead: list[range] = field(default_factory=list)
    row: list[Cell] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)

    def in_row(self, k: int, segment: int) -> tuple[Ids, int]:
        """The row in which a CLIP reads a segment, and how many tokens stand in it between <sot> and the segment's."""
        pieces = self.pieces[k]
        ids = pieces[segment].ids
        ahead = tuple(token for s in self.ahead[segment] for token in pieces[s].ids[1:-1])
        return ids[:1] + ahead + ids[1:], len(ahead)


@dataclass(eq=False)
class Reading:
    """A prompt or a negative prompt, read by all encoders.

    Attributes:
        clips: of each CLIP; CLIPs that get the same text share one.
        t5: the whole text's tokens for T5, cut to its limit.
        t5_source, t5_marks: that text, and the tokens' weights.
        t5_cuts: what T5 leaves out.
    """

    clips: tuple[ClipReading, ...]
    t5: Tokens | None = None
    t5_source: Source | None = None
    t5_marks: Marks | None = None
    t5_cuts: list[Cut] = field(default_factory=list)

    @property
    def source(self) -> Source:
        """The text of the first encoder."""
        source = self.clips[0].source if self.clips else self.t5_source
        assert source is not None
        return source

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments of the first encoder's text, with their offsets in the prompt."""
        return self.source.segments

    @property
    def row_length(self) -> int:
        """Positions that the CLIP part needs."""
        return max((len(clip.row) for clip in self.clips), default=0)

    def truncation(self, prompt_index: int, negative: bool) -> list[Truncation]:
        """The cuts for `Conditioning.truncation`; encoders that leave out the same text share one entry."""
        where: dict[tuple[str, int, int], list[str]] = {}
        different = {id(clip): clip for clip in self.clips}.values()
        for cut in [*(cut for clip in different for cut in clip.cuts), *self.t5_cuts]:
            place = cut.source.place(cut.start, cut.end)
            where.setdefault((cut.source.prompt, *place), []).append(cut.where)
        return [
            Truncation(prompt_index, prompt[start:end], start, end, " and ".join(names), negative)
            for (prompt, start, end), names in sorted(where.items(), key=lambda item: item[0][1:])
        ]


class Reader:
    """Cuts, tokenizes and lays out texts for the encoders of a model.

    Args:
        want_whole: the tokens of whole texts are needed, too, for ``plain`` or for pooled vectors.
        clean: repair the text of segments for the CLIPs (`longalign.encoding.cleaning`).
    """

    def __init__(
        self,
        towers: Sequence[Tower],
        t5: T5Encoder | None,
        strategy: Strategy,
        backbone: Backbone,
        segmenter: Segmenter,
        want_whole: bool,
        max_length: int | None,
        syntax: Syntax = "plain",
        clean: bool = True,
    ) -> None:
        self.towers, self.t5 = towers, t5
        self.strategy, self.backbone, self.segmenter = strategy, backbone, segmenter
        self.want_whole, self.max_length = want_whole, max_length
        self.syntax: Syntax = syntax
        self.plain = strategy.kind == "plain"
        self.clean = clean and not self.plain
        self.has_row = strategy.clip and backbone.clip_tokens

    def read(
        self, prompts: Sequence[Texts], weights: Mapping[str, Sequence[float]] | None = None
    ) -> dict[Texts, Reading]:
        """Reads each different prompt once.

        Args:
            weights: text → one weight for each of its segments.
        """
        weights = weights or {}
        distinct = list(dict.fromkeys(prompts))
        sources = {
            text: Source.read(text, self.syntax, self.segmenter, weights.get(text))
            for text in dict.fromkeys(text for texts in distinct for text in texts)
        }
        # The text, and the numbers of the CLIPs that get it.
        shared: dict[tuple[str, tuple[int, ...]], ClipReading] = {}
        clips: dict[Texts, tuple[ClipReading, ...]] = {}
        for texts in distinct:
            of_clips = texts[: len(self.towers)]
            keys = [
                (text, tuple(k for k, other in enumerate(of_clips) if other == text)) for text in of_clips
            ]
            clips[texts] = tuple(
                shared.setdefault(key, ClipReading(sources[text]))
                for key, text in zip(keys, of_clips, strict=True)
            )
        for k, tower in enumerate(self.towers):
            self._tokenise(k, tower, [reading for (_, group), reading in shared.items() if k in group])
        if self.has_row:
            for (_, group), reading in shared.items():
                self._lay_out(reading, min(self.towers[k].window for k in group))
        readings = {texts: Reading(clips[texts]) for texts in distinct}
        if self.t5 is not None:
            self._read_t5(self.t5, readings, sources)
        return readings

    def _tokenise(self, k: int, tower: Tower, readings: Sequence[ClipReading]) -> None:
        if self.want_whole:
            tokens_of = tower.tokenise([r.source.text for r in readings], repair=self.clean)
            for reading in readings:
                tokens = tokens_of[reading.source.text]
                if self.plain:
                    reading.cuts += _whole_cut(reading.source, tokens, tower.window, tower.name)
                reading.whole[k] = fitting = tokens.fit(tower.window)
                reading.whole_marks[k] = reading.source.marks(fitting)
        if not self.plain:
            said = [piece.text for r in readings for piece in r.source.pieces]
            tokens_of = tower.tokenise(said, repair=self.clean)
            for reading in readings:
                self._add_pieces(reading, k, tower, tokens_of)

    def _add_pieces(
        self, reading: ClipReading, k: int, tower: Tower, tokens_of: Mapping[str, Tokens]
    ) -> None:
        """Adds one CLIP's tokens of each segment. Segments fit the window, except in the mode `released`."""
        source = reading.source
        reading.pieces[k], reading.marks[k] = [], []
        for i, segment in enumerate(source.pieces):
            tokens = tokens_of[segment.text]
            if self.has_row and (at := tokens.cut_at(tower.window)) is not None:
                start = min(source.base(i) + at, segment.end)
                reading.cuts += _cut(source, start, segment.end, tower.name)
            fitting = tokens.fit(tower.window)
            reading.pieces[k].append(fitting)
            reading.marks[k].append(source.marks(fitting, i))

    def _lay_out(self, reading: ClipReading, window: int) -> None:
        """The row of the CLIP part, cut to max_length."""
        source = reading.source
        reading.joint = [
            max(tokens.count for tokens in of_segment)
            for of_segment in zip(*reading.pieces.values(), strict=True)
        ]
        row = lay_out(reading.joint, self.strategy.rule, window)
        left_out = row[self.max_length :] if self.max_length is not None else []
        for s, place in left_out:
            if s >= 0 and 1 <= place <= reading.joint[s]:  # the first token of text that is left out
                starts = max((pieces[s].starts for pieces in reading.pieces.values()), key=len)
                at = min(source.base(s) + starts[place - 1], source.pieces[s].end)
                reading.cuts += _cut(source, at, source.pieces[-1].end, "max_length")
                break
        reading.row = row[: len(row) - len(left_out)]
        said = [segment.text for segment in source.pieces]
        context, language = self.strategy.rule.context, self.segmenter.language
        reading.ahead = sentences_ahead(said, reading.joint, context, window, language)

    def _read_t5(
        self, t5: T5Encoder, readings: Mapping[Texts, Reading], sources: Mapping[str, Source]
    ) -> None:
        limit = self.backbone.t5_length if self.plain else t5.limit(self.max_length)
        tokens_of = t5.tokenise([sources[texts[-1]].text for texts in readings])
        for texts, reading in readings.items():
            source = sources[texts[-1]]
            tokens = tokens_of[source.text]
            reading.t5_cuts = _whole_cut(source, tokens, limit, t5.name)
            reading.t5 = tokens if limit is None else tokens.fit(limit)
            reading.t5_source, reading.t5_marks = source, source.marks(reading.t5)

    def lengths(self, pair: Sequence[Reading], length: int) -> tuple[int, int]:
        """Padded lengths of the CLIP part and the T5 part that hold a prompt and its negative (0: no such part).

        They do not depend on other prompts of the batch.
        """
        clip = t5 = 0
        if self.has_row:
            clip = padded(max(reading.row_length for reading in pair), length, self.max_length)
        # Without its T5 the model gets zeros, of the least length.
        if self.strategy.t5 or self.backbone.t5 is not None:
            most = max(len(reading.t5) if reading.t5 else 0 for reading in pair)
            t5 = padded(most, length, self.max_length)
        return clip, t5


def _whole_cut(source: Source, tokens: Tokens, window: int | None, where: str) -> list[Cut]:
    if window is None or (at := tokens.cut_at(window)) is None:
        return []
    return _cut(source, at, len(source.text), where)


def _cut(source: Source, start: int, end: int, where: str) -> list[Cut]:
    """A cut without the blanks around it; a cut of blanks alone is none."""
    piece = source.text[start:end]
    if not piece.strip():
        return []
    start += len(piece) - len(piece.lstrip())
    return [Cut(source, start, start + len(piece.strip()), where)]
