"""The pages of `longalign score` and `longalign decompose`: one offline file each, in the report's looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from longalign.preference import SegmentScore, load_image
from longalign.preference.images import ImageLike, to_rgb
from longalign.report import Table, counted, signed
from longalign.report.render import SMALL_PX, data_uri, environment
from longalign.runs import atomic_write_text
from longalign.scoring.histogram import Histogram, histogram
from longalign.scoring.outcome import Outcome
from longalign.scoring.ranking import worst_row
from longalign.scoring.stream import Scored

THUMB_PX = 192  # twice what is shown, for sharp screens
_LEAST_WIDTH = 1.5  # per cent: a score of 0 is still a bar
_FAILURES_SHOWN = 50
# The scores of a picture: key → name, and what it is.
NAMES = {
    "overall": "overall",
    "single": "first tokens",
    "aligned": "aligned",
    "aligned_cosine": "aligned cosine",
    "irrelevant": "irrelevant",
    "eta": "η",
    "worst sentence": "lowest sentence",
}
MEANINGS = {
    "overall": "picture against the mean of all sentences, C_X·C_P, as cosine × 100; higher fits better",
    "single": "picture against the start of the prompt alone, as much as the text encoder reads at once (77 tokens for "
    "CLIP)",
    "aligned": "the part of overall that depends on what the text says, C_X·C⊥ × 100; higher fits better",
    "aligned_cosine": "the same as a cosine × 100, without the length of C⊥",
    "irrelevant": "the picture along the direction V that all texts have in common, C_X·V × 100: it depends on the "
    "picture's looks and not on the text",
    "eta": "how much of the prompt's embedding is common to all texts, C_P·V (0 to 1); it depends on the text alone",
}


@dataclass(frozen=True)
class Picture:
    name: str
    uri: str
    width: int
    height: int
    small: bool


@dataclass(frozen=True)
class Bar:
    """A score, drawn from the zero line.

    Attributes:
        text: the number.
        left, width: where the bar begins and how long it is, in per cent of the track.
        zero: where the zero line is, in per cent.
        top: it is marked as the best.
        verdict: in words, with P(true).
        kind: the verdict, which decides the colour; empty without a calibration.
    """

    text: str
    left: float
    width: float
    zero: float
    top: bool = False
    verdict: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """A sentence with a bar for each picture."""

    text: str
    bars: Sequence[Bar]
    worst: bool = False


@dataclass(frozen=True)
class Card:
    picture: Picture
    numbers: Sequence[tuple[str, str]]
    rows: Sequence[Row] = ()


@dataclass(frozen=True)
class Ranked:
    """Pictures in the order of their rank, and the sentences with their bars in the same order."""

    cards: Sequence[Card]
    rows: Sequence[Row]


def write_scores(outcome: Outcome, facts: Mapping[str, str], path: str | Path) -> Path:
    """The page of a scoring run. Pictures that can no longer be read show as empty frames."""
    context: dict[str, Any] = {
        "title": "How well the picture fits, sentence by sentence",
        "intro": _intro(outcome),
        "facts": facts,
        "glossary": _glossary(outcome),
        "cards": [],
        "ranked": None,
        "plots": [],
        "lowest": [],
        "failures": outcome.failures[:_FAILURES_SHOWN],
        "failed": outcome.summary.failed,
    }
    if outcome.ranking is not None:
        context["ranked"] = _ranked(outcome)
    else:
        context["cards"] = [_card(item) for item in outcome.kept]
    if not outcome.kept:
        context["plots"] = _plots(outcome)
    context["lowest"] = [
        {
            "picture": picture_of(item.pair.image, item.pair.name, THUMB_PX),
            "text": item.segments[item.worst].text,
            "numbers": _worst_numbers(item),
        }
        for item in outcome.lowest
    ]
    return _write("scores.html.j2", context, path)


def write_decomposition(
    path: str | Path,
    *,
    intro: str,
    facts: Mapping[str, str],
    plots: Sequence[Histogram],
    tables: Sequence[Table],
    galleries: Sequence[tuple[str, Sequence[tuple[Picture, str]]]],
    failed: int,
) -> Path:
    """The page of a decomposition."""
    context = {
        "title": "What a text embedding says whatever the text",
        "intro": intro,
        "facts": facts,
        "plots": plots,
        "tables_shown": tables,
        "galleries": galleries,
        "failed": failed,
    }
    return _write("decomposition.html.j2", context, path)


def _write(template: str, context: Mapping[str, Any], path: str | Path) -> Path:
    return atomic_write_text(path, environment().get_template(template).render(**context))


def picture_of(image: ImageLike, name: str, largest_px: int | None = None) -> Picture:
    """A picture for a page, shrunk to ``largest_px`` when it is larger."""
    try:
        shown = to_rgb(image) if isinstance(image, Image.Image) else load_image(image)
    except ValueError:  # it was there when it was scored
        shown = Image.new("RGB", (96, 96), "grey")
    if largest_px is not None and max(shown.size) > largest_px:
        shown = shown.copy()
        shown.thumbnail((largest_px, largest_px), Image.Resampling.LANCZOS)
    return Picture(name, data_uri(shown), shown.width, shown.height, max(shown.size) <= SMALL_PX)


def said_of(segment: SegmentScore) -> str:
    """The verdict with P(true); nothing without a calibration."""
    if segment.verdict is None or segment.probability is None:
        return ""
    return f"{segment.verdict} ({segment.probability:.0%})"


def bars_of(
    values: Sequence[float],
    low: float,
    high: float,
    top: int | None = None,
    segments: Sequence[SegmentScore] = (),
) -> list[Bar]:
    """Bars from zero, on a scale that holds zero, ``low`` and ``high``.

    Args:
        values: the scores.
        low, high: least and greatest score of all bars that are to be compared.
        top: which one is the best. It is marked unless its verdict is ``false``.
        segments: with the verdicts.
    """
    said = [(said_of(s), s.verdict or "") for s in segments] or [("", "")] * len(values)
    found = []
    for i, (value, (words, kind)) in enumerate(zip(values, said, strict=True)):
        zero, end = share_of(0.0, low, high), share_of(value, low, high)
        width = max(abs(end - zero), _LEAST_WIDTH)
        left = min(zero, 100 - width) if value >= 0 else max(zero - width, 0.0)
        found.append(
            Bar(
                signed(value),
                round(left, 1),
                round(width, 1),
                round(zero, 1),
                i == top and kind != "false",
                words,
                kind,
            )
        )
    return found


def share_of(value: float, low: float, high: float) -> float:
    """Where a value stands on the scale that holds zero, ``low`` and ``high``, in per cent."""
    low, high = min(low, 0.0), max(high, 0.0)
    return 0.0 if high == low else 100 * (value - low) / (high - low)


def _glossary(outcome: Outcome) -> dict[str, str]:
    """Each score of a picture that the page shows."""
    shown = outcome.kept or outcome.lowest
    return {NAMES[key]: MEANINGS[key] for key in (shown[0].scores if shown else ()) if key in MEANINGS}


def _numbers(item: Scored) -> list[tuple[str, str]]:
    return [
        (NAMES[name], signed(value, ".2f" if name == "eta" else ".1f")) for name, value in item.scores.items()
    ]


def _card(item: Scored) -> Card:
    values = item.values
    bars = bars_of(values, min(values), max(values), segments=item.segments)
    rows = [Row(segment.text, [bars[k]], worst=k == item.suspect) for k, segment in enumerate(item.segments)]
    return Card(picture_of(item.pair.image, item.pair.name), _numbers(item), rows)


def _ranked(outcome: Outcome) -> Ranked:
    assert outcome.ranking is not None
    items = [outcome.kept[i] for i in outcome.ranking.order]
    values = [item.values for item in items]  # (pictures, sentences)
    low, high = min(map(min, values)), max(map(max, values))
    rows = [
        Row(
            segment.text,
            bars_of(
                [of_picture[k] for of_picture in values],
                low,
                high,
                top=list(outcome.ranking.order).index(outcome.ranking.best[k]),
                segments=[item.segments[k] for item in items],
            ),
        )
        for k, segment in enumerate(items[0].segments)
    ]
    return Ranked([Card(picture_of(item.pair.image, item.pair.name), _numbers(item)) for item in items], rows)


def _worst_numbers(item: Scored) -> list[tuple[str, str]]:
    row = worst_row(item)
    found = [("score", signed(row["score"]))]
    if row["others"] is not None:
        found.append(("mean of its other sentences", signed(row["others"])))
    if said := said_of(item.segments[item.worst]):
        found.append(("verdict", said))
    return [*found, ("sentence", f"{row['index'] + 1} of {row['sentences']}")]


def _plots(outcome: Outcome) -> list[Histogram]:
    share = "share of pictures"
    found = [
        histogram("Overall score", {"all": outcome.overall}, x_label="100 · C_X·C_P", y_label=share),
        histogram(
            "Lowest sentence of each picture",
            {"all": outcome.worst},
            x_label=f"100 · {outcome.ranked_by}",
            y_label=share,
        ),
    ]
    return [plot for plot in found if plot is not None]


def _intro(outcome: Outcome) -> str:
    count, failed = outcome.summary.scored, outcome.summary.failed
    parts = [f"{counted(count, 'picture')} scored" + (f", {failed:,} failed." if failed else ".")]
    part = ", less what all texts have in common" if outcome.decomposed else ""
    parts.append(f"Each sentence is held against the whole picture: cosine × 100{part}.")
    if outcome.ranking is not None:
        parts.append(
            "Bars begin at the zero line. A star marks the best picture for a sentence, unless the sentence is called "
            "false there, too."
        )
    elif outcome.kept:
        parts.append("Bars begin at the zero line.")
    if outcome.promised is not None:
        parts.append(
            f"True (green) and false (red) are said where at most {outcome.promised:.0%} of such verdicts should be "
            "wrong, by the model's calibration; the rest is doubtful (grey). The lowest sentence is marked unless "
            "it is called true."
        )
    elif outcome.kept:
        parts.append(
            "This model has no calibration, so no sentence is called true or false: the scores only rank them."
        )
    caution = (
        "A sentence's score is what this picture has over the mean of the other pictures with the same sentence."
        if outcome.config.relative
        else "Some sentences score higher than others on any picture: a comparison across pictures is safer than one "
        "between sentences."
    )
    return " ".join(parts) + "\n\n" + caution
