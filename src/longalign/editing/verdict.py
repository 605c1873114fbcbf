"""The verdict on an edit in words, from the marks of the sentences before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from longalign.report.data import Mark, SentenceRow, counted


@dataclass(frozen=True)
class EditRows:
    """The sentences of the two texts of an edit.

    Attributes:
        new: of the target alone; they should become true.
        kept: of both texts; they should stay true.
        gone: of the source alone; they should become false.
    """

    new: Sequence[SentenceRow]
    kept: Sequence[SentenceRow]
    gone: Sequence[SentenceRow]

    @classmethod
    def of(cls, target: Sequence[SentenceRow], source: Sequence[SentenceRow]) -> EditRows:
        """Sorts the sentences of the target and of the source."""
        of_source, of_target = {row.text for row in source}, {row.text for row in target}
        return cls(
            [row for row in target if row.text not in of_source],
            [row for row in target if row.text in of_source],
            [row for row in source if row.text not in of_target],
        )

    def rows(self, target: Sequence[SentenceRow], before: str) -> list[SentenceRow]:
        """The target's sentences in their order, then those that should become false, each with what it should be.

        Args:
            target: the target's sentences.
            before: column of the picture before the edit.
        """
        new = {row.text for row in self.new}
        found = [
            replace(row, wanted={before: "false"})
            if row.text in new and row.marks.get(before) == "false"
            else row
            for row in target
        ]
        false: Mark = "false"
        return found + [
            replace(row, wanted={column: false for column in row.marks if column != before})
            for row in self.gone
        ]

    def verdict(self, before: str, after: str) -> str:
        """Did the change happen, and did anything else change? Empty where nothing was judged or scored.

        Args:
            before, after: columns of the two pictures.
        """
        return self._by_marks(before, after) or self._by_scores(before, after)

    def happened(self, after: str) -> list[tuple[SentenceRow, bool]]:
        """Each judged sentence that should change, and whether it did."""
        asked = [(row, "true") for row in self.new] + [(row, "false") for row in self.gone]
        return [
            (row, row.marks[after] == wanted)
            for row, wanted in asked
            if row.marks.get(after, "unjudged") != "unjudged"
        ]

    def lost(self, before: str, after: str) -> list[SentenceRow]:
        """Sentences that should stay true, were true before, and are not true after (unclear counts as not true)."""
        return [
            row for row in self.kept if row.marks.get(before) == "true" and row.marks.get(after) != "true"
        ]

    def _by_marks(self, before: str, after: str) -> str:
        happened, lost = self.happened(after), self.lost(before, after)
        stable = [row for row in self.kept if row.marks.get(before) == "true"]
        if not happened and not stable:
            return ""
        missed = [row.text for row, done in happened if not done]
        if not happened:
            change = "No sentence about the change could be judged"
        elif not missed:
            change = "The change happened"
        elif len(missed) < len(happened):
            change = f"The change happened in part (not as it should be: {_quoted(missed)})"
        else:
            change = f"The change did not happen (not as it should be: {_quoted(missed)})"
        if not stable:
            return f"{change}."
        if not lost:
            and_or_but = "and" if happened and not missed else "but"
            return f"{change}, {and_or_but} nothing else that the texts state changed."
        more = f"{len(lost)} of {counted(len(stable), 'other sentence')}"
        verb = "is" if len(lost) == 1 else "are"
        but = "but" if happened and not missed else "and"
        return f"{change}, {but} {more} {verb} no longer true: {_quoted([row.text for row in lost])}."

    def _by_scores(self, before: str, after: str) -> str:
        parts = []
        for words, rows in (("new", self.new), ("shared", self.kept), ("given-up", self.gone)):
            gains = [
                row.scores[after] - row.scores[before] for row in rows if {before, after} <= row.scores.keys()
            ]
            if gains:
                gain = f"{sum(gains) / len(gains):+.1f}".replace("-", "\N{MINUS SIGN}")
                parts.append(f"{gain} for {counted(len(gains), f'{words} sentence')}")
        return f"Mean change of the scores: {', '.join(parts)}." if parts else ""


def _quoted(texts: Sequence[str]) -> str:
    shown = ", ".join(f"“{text}”" for text in texts[:2])
    return shown + (f" and {len(texts) - 2} more" if len(texts) > 2 else "")
