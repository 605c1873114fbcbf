"""The pages of `longalign score` and `longalign decompose`: one offline file each, in the report's looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from longalign.preference import SegmentScore, load_image
from longalign.preference.images import ImageLike, to_rgb
from longalign.report import Table, signed
from longalign.report.render import SMALL_PX, data_uri, environment
from longalign.runs import atomic_write_text
from longalign.scoring.histogram import Histogram, histogram
from longalign.scoring.outcome import Outcome
from longalign.scoring.ranking import worst_row
from longalign.scoring.stream import Scored

THUMB_PX = 192  # twice what is shown, for sharp screens
_LEAST_WIDTH = 6.0  # per cent: the lowest bar is still a bar
_FAILURES_SHOWN = 50
_NAMES = {
    "overall": "overall",
    "single": "first tokens",
    "aligned": "aligned",
    "aligned_cosine": "aligned cosine",
    "irrelevant": "irrelevant",
    "eta": "η",
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
    """A score: its length and, from worst to best, its colour, both in per cent."""

    text: str
    width: float
    share: float
    top: bool = False
    verdict: str = ""


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
    """Bars on the scale from ``low`` to ``high``; ``top`` is marked as the best; verdicts are those of ``segments``."""
    said = [said_of(segment) for segment in segments] or [""] * len(values)
    shares = [100.0 if high <= low else 100 * (value - low) / (high - low) for value in values]
    return [
        Bar(
            signed(value),
            round(_LEAST_WIDTH + share * (1 - _LEAST_WIDTH / 100), 1),
            round(share, 1),
            i == top,
            said[i],
        )
        for i, (value, share) in enumerate(zip(values, shares, strict=True))
    ]


def _numbers(item: Scored) -> list[tuple[str, str]]:
    return [
        (_NAMES[name], signed(value, ".2f" if name == "eta" else ".1f"))
        for name, value in item.scores.items()
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
    parts = [
        f"{count:,} picture{'' if count == 1 else 's'} scored" + (f", {failed:,} failed." if failed else ".")
    ]
    part = ", less what all texts have in common" if outcome.decomposed else ""
    parts.append(f"Each sentence is held against the whole picture: cosine × 100{part}.")
    if outcome.ranking is not None:
        parts.append(
            "Bars and colours run from the lowest score here to the highest; a star marks the best picture."
        )
    elif outcome.kept:
        parts.append("Bars and colours run from a picture's lowest sentence to its highest.")
    if outcome.promised is not None:
        parts.append(
            f"True and false are said where at most {outcome.promised:.0%} of such verdicts should be wrong, by the "
            "model's calibration; the rest is doubtful. The lowest sentence is marked unless it is called true."
        )
    caution = (
        "A sentence's score is what this picture has over the mean of the other pictures with the same sentence."
        if outcome.config.relative
        else "Some sentences score higher than others on any picture: a comparison across pictures is safer than one "
        "between sentences."
    )
    return " ".join(parts) + "\n\n" + caution
