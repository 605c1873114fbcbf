"""Lines over an axis, as inline SVG in the page's colours: learning curves and the like.

The drawing takes the width that it is given, from a phone's to a print's. Lines are drawn in a box of 1000 × 1000 that
is stretched over the plot, with a pen that is not; ticks and labels stand at per cents outside it, so no text is
stretched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from longalign.report.data import Curve, Estimate, Line, signed
from longalign.report.plot import Axis, axis_for

COLOURS = 8  # of lines with intervals; half of them for other lines
MOST_DOTS = 20  # a line with intervals and more points has none
MOST_POINTS = 600  # more than a screen has room for; neighbours are averaged


def line_plot(curve: Curve) -> Markup:
    """`curve` as inline SVG with a legend; `style.css` (class ``curve``) gives it its size and its colours.

    Lines differ by their dashes as well as by their colours. Intervals are bands behind all lines; of these lines, each
    point has a dot, where there are not too many. The colours beyond the fourth and the bands are in `comparison.css`.
    """
    points = [(x, y) for line in curve.lines for x, y in zip(line.x, line.y, strict=True) if _finite(x, y)]
    if not points:
        return Markup('<p class="note">{}</p>').format("Nothing finite was measured.")
    horizontal = _axis([x for x, _ in points])
    ends = [end for line in curve.lines for end in (*line.low, *line.high) if _finite(end)]
    vertical = _axis([y for _, y in points] + ends)
    colours = COLOURS if any(len(line.low) for line in curve.lines) else COLOURS // 2
    said = f"{curve.caption} over {curve.x_label}: " + "; ".join(map(_summary, curve.lines))
    if curve.mark is not None:
        said += f"; {curve.mark[1]} at {curve.mark[0]:g}"
    body = Markup("").join(
        [
            *_grid(horizontal, vertical),
            _marked(curve, horizontal),
            *(_band(line, k % colours, horizontal, vertical) for line, k in _numbered(curve)),
            *(_drawn(line, k % colours, horizontal, vertical) for line, k in _numbered(curve)),
        ]
    )
    legend = Markup("").join(
        Markup('<li><svg aria-hidden="true" focusable="false"><line class="{}" x1="0" x2="100%" y1="50%" y2="50%"/>'
               "</svg>{}</li>").format(_classes(line, k % colours), line.name)
        for line, k in _numbered(curve)
    )  # fmt: skip
    return Markup(
        '<div class="curve"><svg class="canvas" role="img" aria-label="{}">{}</svg><p class="along">{}</p></div>{}'
    ).format(
        said,
        body,
        curve.x_label,
        Markup('<ul class="lines">{}</ul>').format(legend) if _needs_legend(curve) else "",
    )


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """Mean of the finite values at most `width` places away, on both sides equally far; NaN where there is none."""
    result = []
    for i in range(len(values)):
        reach = min(
            width, i, len(values) - 1 - i
        )  # symmetric at the ends too, so that a slope keeps its place
        near = [v for v in values[i - reach : i + reach + 1] if math.isfinite(v)]
        result.append(sum(near) / len(near) if near else math.nan)
    return result


def _numbered(curve: Curve) -> list[tuple[Line, int]]:
    """Lines with their colours' numbers. A faint line has that of the line which comes next, whose shadow it is."""
    numbered, number = [], 0
    for line in curve.lines:
        numbered.append((line, number if line.colour is None else line.colour))
        number += not line.faint
    return numbered


def _needs_legend(curve: Curve) -> bool:
    """Not where a single line has the name of the plot."""
    return len(curve.lines) > 1 or curve.lines[0].name != curve.caption


def _classes(line: Line, number: int) -> str:
    return f"line c{number}" + (" faint" if line.faint else "")


def _drawn(line: Line, number: int, horizontal: Axis, vertical: Axis) -> Markup:
    """Runs of finite points as polylines; a point alone as a thick stroke of no length, which round ends make a dot."""
    runs = [
        [_at(horizontal.at(x), vertical.at(y)) for x, y in run] for run in _runs(_thinned(line.x, line.y))
    ]
    drawn = Markup("").join(
        Markup('<polyline class="{}" points="{}"/>').format(
            _classes(line, number) + ("" if len(run) > 1 else " point"),
            " ".join(run if len(run) > 1 else run * 2),
        )
        for run in runs
    )
    if len(line.low) and len(line.x) <= MOST_DOTS:
        drawn += Markup("").join(
            Markup('<polyline class="{} node" points="{} {}"/>').format(_classes(line, number), point, point)
            for run in runs
            for point in run
        )
    return _canvas(drawn)


def _band(line: Line, number: int, horizontal: Axis, vertical: Axis) -> Markup:
    """The intervals of a line: an area for each run of them, and an upright stroke for one that stands alone."""
    if not len(line.low):
        return Markup("")
    drawn = Markup("")
    for run in _runs(_thinned(line.x, line.low, line.high)):
        below = [_at(horizontal.at(x), vertical.at(low)) for x, low, _ in run]
        above = [_at(horizontal.at(x), vertical.at(high)) for x, _, high in run]
        form = Markup(
            '<polyline class="{}" points="{}"/>' if len(run) == 1 else '<polygon class="{}" points="{}"/>'
        )
        drawn += form.format(
            f"{_classes(line, number)} whisker" if len(run) == 1 else f"band c{number}",
            " ".join([*below, *reversed(above)]),
        )
    return _canvas(drawn)


def _canvas(drawn: Markup) -> Markup:
    """The box that is stretched over the plot."""
    return Markup('<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">{}</svg>').format(drawn)


def _at(x_percent: float, y_percent: float) -> str:
    """A point of the box, whose y runs downwards."""
    return f"{10 * x_percent:.1f},{1000 - 10 * y_percent:.1f}"


def _runs(points: Sequence[tuple[float, ...]]) -> list[list[tuple[float, ...]]]:
    """Neighbouring points that are finite."""
    runs: list[list[tuple[float, ...]]] = [[]]
    for point in points:
        if _finite(*point):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _grid(horizontal: Axis, vertical: Axis) -> list[Markup]:
    drawn = []
    row = (
        '<line class="grid" x1="0" x2="100%" y1="{0}%" y2="{0}%"/><text class="y" x="-8" y="{0}%">{1}</text>'
    )
    for tick in vertical.ticks:
        y = round(100 - vertical.at(tick), 2)
        drawn.append(Markup(row).format(y, vertical.label(tick)))
    for k, tick in enumerate(horizontal.ticks):
        drawn.append(
            Markup('<text class="x{}" x="{}%" y="100%">{}</text>').format(
                " minor" if k % 2 else "", horizontal.at(tick), signed(tick, ",g")
            )
        )
    return drawn


def _marked(curve: Curve, horizontal: Axis) -> Markup:
    """A line across the plot at `curve.mark`, its text over it and held within the plot's width."""
    if curve.mark is None:
        return Markup("")
    at, text = horizontal.at(curve.mark[0]), curve.mark[1]
    anchor = "start" if at < 10 else "end" if at > 90 else "middle"
    return Markup(
        '<line class="mark" x1="{0}%" x2="{0}%" y1="0" y2="100%" stroke="currentColor" stroke-opacity="0.5" '
        'stroke-dasharray="2 3"/><text x="{0}%" y="-4" text-anchor="{1}">{2}</text>'
    ).format(at, anchor, text)


def _thinned(*values: Sequence[float]) -> list[tuple[float, ...]]:
    """At most `MOST_POINTS` points of these coordinates: means of neighbours where there are more."""
    points = list(zip(*values, strict=True))
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return (
        [tuple(sum(part) / len(g) for part in zip(*g, strict=True)) for g in groups] if size > 1 else points
    )


def _axis(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    if low == high:  # a single value stands in the middle
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    return axis_for([Estimate(low, low, high, 1, ".3g")])


def _summary(line: Line) -> str:
    finite = [(x, y) for x, y in zip(line.x, line.y, strict=True) if _finite(x, y)]
    if not finite:
        return f"{line.name} has no finite value"
    return (
        f"{line.name} from {finite[0][1]:.4g} at {finite[0][0]:g} to {finite[-1][1]:.4g} at {finite[-1][0]:g}"
    )


def _finite(*values: float) -> bool:
    return all(map(math.isfinite, values))
