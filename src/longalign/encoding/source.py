"""`Source`: one text as the user wrote it, without its marks, and cut into segments; with the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from longalign.encoding.segments import Segment, Segmenter
from longalign.encoding.syntax import Marked, Syntax, read_syntax
from longalign.encoding.tokens import Tokens
from longalign.errors import LongalignError

# Of each token between the special ones: its weight, and the number of the run of equal weight that it is in.
Marks = tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Source:
    """One text.

    Attributes:
        prompt: as the user wrote it.
        marked: without the marks of its notation, with weights and cuts.
        pieces: its segments; their offsets are those in ``marked.text``.
    """

    prompt: str
    marked: Marked
    pieces: tuple[Segment, ...]

    @classmethod
    def read(
        cls, prompt: str, syntax: Syntax, segmenter: Segmenter, weights: Sequence[float] | None = None
    ) -> Source:
        """Takes the marks out and cuts the rest into segments.

        Args:
            weights: one for each segment; they are multiplied with those of the notation.

        Raises:
            LongalignError: the text has another number of segments.
        """
        marked = read_syntax(prompt, syntax)
        pieces = tuple(segmenter(marked.text, marked.cuts))
        if weights is None:
            return cls(prompt, marked, pieces)
        if len(weights) != len(pieces):
            raise LongalignError(
                f"{len(weights)} weights do not go with {len(pieces)} segments, which is what the prompt is cut into: "
                "give one a segment"
            )
        of_characters = list(marked.weights)
        for piece, weight in zip(pieces, weights, strict=True):
            for at in range(piece.start, min(piece.end, len(of_characters))):
                of_characters[at] *= weight
        return cls(prompt, replace(marked, weights=tuple(of_characters)), pieces)

    @property
    def text(self) -> str:
        """What is encoded."""
        return self.marked.text

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments, with their offsets in the prompt."""
        if self.text == self.prompt:
            return self.pieces
        return tuple(Segment(s.text, *self.place(s.start, s.end)) for s in self.pieces)

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Offsets in ``marked.text`` → offsets in the prompt."""
        origin = self.marked.origin
        if start >= end:
            return (origin[start] if start < len(origin) else len(self.prompt),) * 2
        return origin[start], origin[end - 1] + 1

    def marks(self, tokens: Tokens, piece: int | None = None) -> Marks | None:
        """The weights of a text's tokens; None if all of them are 1. A token has the weight of its first character.

        Args:
            tokens: of the whole text, or of a segment.
            piece: the segment's number.
        """
        if not self.marked.weighted:
            return None
        weights, runs = self.marked.weights, self.marked.runs
        base = 0 if piece is None else self.base(piece)
        places = [min(base + at, len(weights) - 1) for at in tokens.starts]
        marks = tuple((weights[at], runs[at]) for at in places)
        return marks if any(weight != 1.0 for weight, _ in marks) else None

    def base(self, piece: int) -> int:
        """The offset in ``marked.text`` of a segment's first character.

        Mode `released` ends each piece with a full stop of its own and may count dropped marks to its place.
        """
        segment = self.pieces[piece]
        found = self.text.find(segment.text[:-1], segment.start, segment.end)
        return max(found, segment.start)


def ascending(pieces: Sequence[Segment]) -> list[int]:
    """The first characters of segments, for `longalign.encoding.tokens.segments_of`."""
    return [segment.start for segment in pieces]
