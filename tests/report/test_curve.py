"""Lines in the report: where they stand, where they break, and that hostile names stay text."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from longalign.report import Curve, Line, Report, write_report
from longalign.report.curve import line_plot, smoothed

HOSTILE = """</svg><script>alert(1)</script>"'&"""


class Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str, css_class: str = "") -> list[dict[str, str | None]]:
        return [a for t, a in self.found if t == tag and css_class in (a.get("class") or "")]


def test_points_stand_where_the_axes_say() -> None:
    """x from 0 to 100 and y from 0 to 4 fill the box of 1000 × 1000, whose y runs downwards: (0, 4) is its upper left
    corner, (50, 2) its middle.
    """
    plot = line_plot(Curve("loss", "step", [Line("a", [0, 50, 100], [4.0, 2.0, 0.0])]))
    assert [a["points"] for a in Elements(plot).all("polyline")] == ["0.0,0.0 500.0,500.0 1000.0,1000.0"]
    assert re.findall(r'<text class="y"[^>]*>([^<]*)<', plot) == ["0", "1", "2", "3", "4"]
    assert 'aria-label="loss over step: a from 4 at 0 to 0 at 100"' in plot
    assert Elements(plot).all("ul")  # the line's name is not the plot's
    assert "<ul" not in line_plot(Curve("a", "step", [Line("a", [0, 1], [0, 1])]))


def test_a_line_breaks_where_nothing_finite_was_measured() -> None:
    """1, NaN, 2, 3, ∞: a point alone (drawn as a line of no length) and a pair."""
    plot = line_plot(Curve("c", "x", [Line("a", [0, 1, 2, 3, 4], [1, math.nan, 2, 3, math.inf])]))
    assert [len((a["points"] or "").split()) for a in Elements(plot).all("polyline")] == [2, 2]
    assert "nan" not in plot and "inf" not in plot
    for line in (Line("a", [], []), Line("a", [1], [math.nan])):
        assert "Nothing finite was measured" in line_plot(Curve("c", "x", [line]))


def test_lines_have_their_own_colour_and_their_shadow_the_same() -> None:
    lines = [
        Line("raw", [0, 1], [0, 1], faint=True),
        Line("mean", [0, 1], [0, 1]),
        Line("other", [0, 1], [1, 0]),
    ]
    found = Elements(line_plot(Curve("c", "x", lines)))
    assert [a["class"] for a in found.all("polyline")] == ["line c0 faint", "line c0", "line c1"]
    assert len(found.all("li")) == 3


def test_long_lines_are_thinned() -> None:
    """6,000 points of y = x: means of ten neighbours, 600 points, still on the diagonal."""
    plot = line_plot(Curve("c", "x", [Line("a", list(range(6000)), [float(k) for k in range(6000)])]))
    points = [p.split(",") for p in (Elements(plot).all("polyline")[0]["points"] or "").split()]
    assert len(points) == 600
    assert all(abs(float(x) + float(y) - 1000) < 0.2 for x, y in points)


def test_smoothing_keeps_a_slope() -> None:
    """Means over equally many neighbours on both sides leave 0, 1, 2, … as it is; 0, 3, 0 becomes 0, 1, 0."""
    assert smoothed([0.0, 1.0, 2.0, 3.0], 2) == [0.0, 1.0, 2.0, 3.0]
    assert smoothed([0.0, 3.0, 0.0], 1) == [0.0, 1.0, 0.0]
    assert smoothed([1.0, math.nan, 3.0], 1) == [1.0, 2.0, 3.0]


def test_on_the_page_they_come_first_and_hostile_names_stay_text(tmp_path: Path) -> None:
    lines = [Line(HOSTILE, [0, 1], [0, 1]), Line("b", [0, 1], [0, 1])]
    report = Report("T", facts={"Seed": "7"}, curves=[Curve(HOSTILE, HOSTILE, lines, note=HOSTILE)])
    html = write_report(report, tmp_path / "r.html", jsonl=tmp_path / "r.jsonl").read_text()
    found = Elements(html)
    assert found.all("script") == [] and len(found.all("polyline")) == 2
    assert html.index("<polyline") < html.index("Seed")
    assert not any(name.startswith("on") for _, attrs in found.found for name in attrs)
    assert '"x": [0, 1]' in (tmp_path / "r.jsonl").read_text()


def test_a_line_has_as_many_x_as_y() -> None:
    with pytest.raises(ValueError, match="2 x for 1 y"):
        Line("a", [0, 1], [0])


def test_intervals_are_bands_behind_the_lines(tmp_path: Path) -> None:
    """y from 0 to 4 (the ends of the intervals count): at x = 0 the interval is 1–3, at x = 10 it is 0–4. The area runs
    along the lower ends and back along the upper ones. Every point has a dot.
    """
    line = Line("a", [0, 10], [2.0, 2.0], low=[1.0, 0.0], high=[3.0, 4.0])
    found = Elements(line_plot(Curve("c", "x", [line])))
    assert [a["points"] for a in found.all("polygon", "band c0")] == [
        "0.0,750.0 1000.0,1000.0 1000.0,0.0 0.0,250.0"
    ]
    assert [a["class"] for a in found.all("polyline")] == ["line c0", "line c0 node", "line c0 node"]
    html = write_report(Report("R", curves=[Curve("c", "x", [line])]), tmp_path / "r.html").read_text("utf-8")
    assert ".band {" in html
    plain = Report("R", curves=[Curve("c", "x", [Line("a", [0], [1])])])
    assert ".band {" not in write_report(plain, tmp_path / "r.html").read_text("utf-8")


def test_an_interval_alone_is_a_stroke_and_a_missing_one_a_gap() -> None:
    """Of three points the middle one has no interval: two strokes upright, and one line through all three points."""
    line = Line("a", [0, 1, 2], [2, 2, 2], low=[1, math.nan, 0], high=[3, math.nan, 4])
    found = Elements(line_plot(Curve("c", "x", [line])))
    assert [a["points"] for a in found.all("polyline", "whisker")] == [
        "0.0,750.0 0.0,250.0",
        "1000.0,1000.0 1000.0,0.0",
    ]
    assert found.all("polygon") == []
    assert len((found.all("polyline", "line c0")[2]["points"] or "").split()) == 3


def test_lines_with_intervals_have_eight_colours() -> None:
    """Others have four, as ever."""
    lines = [Line(str(k), [0, 1], [k, k], low=[k, k], high=[k, k]) for k in range(9)]
    classes = [a["class"] for a in Elements(line_plot(Curve("c", "x", lines))).all("polygon")]
    assert classes == [f"band c{k % 8}" for k in range(9)]
    bare = [Line(str(k), [0, 1], [k, k]) for k in range(5)]
    assert Elements(line_plot(Curve("c", "x", bare))).all("polyline")[4]["class"] == "line c0"


def test_a_line_has_an_interval_for_each_point() -> None:
    with pytest.raises(ValueError, match="2 y, 1 low and 1 high"):
        Line("a", [0, 1], [0, 1], low=[0], high=[1])
    with pytest.raises(ValueError, match="2 y, 2 low and 0 high"):
        Line("a", [0, 1], [0, 1], low=[0, 0])
