"""The verdict on an edit in words, and the marks that a perfect edit has."""

from __future__ import annotations

from longalign.editing.verdict import EditRows
from longalign.report import Mark, SentenceRow

FOX, FROG, NAVY, CAR = "A fox is here.", "A frog is here.", "It is navy.", "A car is here."


def rows(**after: Mark) -> tuple[list[SentenceRow], list[SentenceRow]]:
    """Target (navy, frog, car) and source (navy, fox, car). Before, all of the source is true and the frog is false;
    after, what is given, by the first letters of the sentences' last words but one."""
    marks: dict[str, tuple[Mark, Mark]] = {
        NAVY: ("true", after.get("navy", "true")),
        CAR: ("true", after.get("car", "true")),
        FROG: ("false", after.get("frog", "true")),
        FOX: ("true", after.get("fox", "false")),
    }
    made = {text: SentenceRow(text, marks={"before": b, "after": a}) for text, (b, a) in marks.items()}
    return [made[NAVY], made[FROG], made[CAR]], [made[NAVY], made[FOX], made[CAR]]


def verdict(**after: Mark) -> str:
    return EditRows.of(*rows(**after)).verdict("before", "after")


def test_verdicts_in_words() -> None:
    """All as it should be; the change missing in part or wholly; something else lost. Unclear counts as not."""
    assert verdict() == "The change happened, and nothing else that the texts state changed."
    assert verdict(car="false") == (
        "The change happened, but 1 of 2 other sentences is no longer true: “A car is here.”."
    )
    assert verdict(frog="unclear") == (
        "The change happened in part (not as it should be: “A frog is here.”), but nothing else that the texts state "
        "changed."
    )
    missed = verdict(frog="false", fox="true", car="unclear", navy="false")
    assert missed == (
        "The change did not happen (not as it should be: “A frog is here.”, “A fox is here.”), and 2 of 2 other "
        "sentences are no longer true: “It is navy.”, “A car is here.”."
    )


def test_without_a_judge_scores_speak_or_nothing() -> None:
    """Real models have no judge. The frog's score rises from 1 to 4, the fox's falls from 5 to 3."""
    plain = [SentenceRow(FROG)], [SentenceRow(FOX)]
    assert EditRows.of(*plain).verdict("before", "after") == ""
    scored = (
        [SentenceRow(FROG, scores={"before": 1.0, "after": 4.0})],
        [SentenceRow(FOX, scores={"before": 5.0, "after": 3.0})],
    )
    assert EditRows.of(*scored).verdict("before", "after") == (
        "Mean change of the scores: +3.0 for 1 new sentence, −2.0 for 1 given-up sentence."
    )


def test_a_perfect_edit_has_no_cross() -> None:
    """The frog may be false before, and the fox has to be false after: both are as they should be."""
    target, source = rows()
    shown = EditRows.of(target, source).rows(target, "before")
    assert [row.text for row in shown] == [NAVY, FROG, CAR, FOX]
    for row in shown:
        for column in ("before", "after"):
            assert row.marks[column] == row.wanted.get(column, "true")
    target, source = rows(fox="true", frog="false")
    failed = EditRows.of(target, source).rows(target, "before")
    assert [row.marks["after"] == row.wanted.get("after", "true") for row in failed] == [
        True,
        False,
        True,
        False,
    ]
