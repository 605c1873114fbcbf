"""Sweeps: the same models at several prompt lengths (LongAlign, Table 6), guidance scales, steps or seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from longalign.data.prompt_rows import PromptRow
from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError
from longalign.evaluation.comparison import Comparison, compare
from longalign.evaluation.contenders import Contender
from longalign.evaluation.sets import MeasuredSet
from longalign.metrics.metric import MetricColumn
from longalign.plugins import unknown
from longalign.report import Curve, Estimate, Line

KINDS = ("length", "guidance", "steps", "seed")
_UNITS = {"length": "tokens", "guidance": "guidance", "steps": "steps", "seed": "seed"}
_X = {
    "length": "prompt length (CLIP tokens at most)",
    "guidance": "guidance scale",
    "steps": "sampling steps",
    "seed": "seed",
}
LENGTHS = (15, 60, 120, 240, 500)  # Table 6


@dataclass(frozen=True)
class Sweep:
    """What is varied, and its values in order."""

    kind: str
    values: tuple[float, ...]

    @property
    def x_label(self) -> str:
        """What the axis of a curve says."""
        return _X[self.kind]

    def label(self, base: str, value: float) -> str:
        """Label of a model at one value.

        Args:
            base: label of the model.
            value: one of `values`.
        """
        said = f"{value:g} {_UNITS[self.kind]}" if self.kind != "guidance" else f"guidance {value:g}"
        said = f"seed {value:g}" if self.kind == "seed" else said
        return f"{base} · {said}"

    def settings(self, value: float) -> dict[str, Any]:
        """Settings of a model at one value; empty where the prompts or seeds change.

        Args:
            value: one of `values`.
        """
        if self.kind == "guidance":
            return {"guidance": value}
        return {"steps": int(value)} if self.kind == "steps" else {}


def parse_sweep(text: str) -> Sweep:
    """``length=15,60,120`` → a sweep. ``length`` alone has the lengths of Table 6.

    Args:
        text: what the user wrote.

    Raises:
        LongalignError: an unknown kind, no numbers, numbers that are not positive (seeds: not whole).
    """
    kind, equals, told = text.partition("=")
    kind = {"lengths": "length", "seeds": "seed"}.get(kind.strip(), kind.strip())
    if kind not in KINDS:
        raise LongalignError(unknown("sweep", kind, KINDS))
    if not equals:
        if kind != "length":
            raise LongalignError(f"--sweep {kind}: give its values, such as {kind}=1,2,3")
        return Sweep(kind, tuple(map(float, LENGTHS)))
    try:
        values = tuple(sorted({float(v) for v in told.split(",") if v.strip()}))
    except ValueError:
        raise LongalignError(f"--sweep {text}: its values must be numbers with commas between") from None
    whole = kind != "guidance"
    wrong = [
        v for v in values if not math.isfinite(v) or v < (0 if kind == "seed" else 1) or (whole and v % 1)
    ]
    if not values or wrong:
        raise LongalignError(
            f"--sweep {text}: {'whole numbers' if whole else 'numbers'} from {0 if kind == 'seed' else 1} on, please"
        )
    return Sweep(kind, values)


@dataclass(frozen=True)
class Point:
    """One model at one value of a sweep; without a sweep value and base are those of the model itself."""

    contender: Contender
    base: str
    value: float | None
    rows: Sequence[PromptRow]
    seeds: Sequence[int]


def points_of(
    contenders: Sequence[Contender],
    sweep: Sweep | None,
    rows: Sequence[PromptRow],
    seeds: Sequence[int],
    tokenizer: Any = None,
) -> list[Point]:
    """The models at all values of a sweep.

    Args:
        contenders: models.
        sweep: None: each model once.
        rows: the prompts.
        seeds: of the pictures of a prompt; a sweep of seeds replaces them.
        tokenizer: counts the tokens of prompts, for a sweep of lengths.
    """
    if sweep is None:
        return [Point(c, c.label, None, rows, seeds) for c in contenders]
    found = []
    for value in sweep.values:
        of_value = cut_rows(rows, int(value), tokenizer) if sweep.kind == "length" else rows
        at = [int(value)] if sweep.kind == "seed" else seeds
        for c in contenders:
            other = c.with_settings(sweep.label(c.label, value), **sweep.settings(value))
            found.append(Point(other, c.label, value, of_value, at))
    return found


def cut_rows(rows: Sequence[PromptRow], tokens: int, tokenizer: Any) -> list[PromptRow]:
    """Prompts of whole sentences with so many tokens at most (Table 6). The first sentence always stays.

    Args:
        rows: prompts.
        tokens: at most, start and end token not counted.
        tokenizer: counts them.
    """
    segmenter = Segmenter()
    found = []
    for row in rows:
        end = 0
        for segment in segmenter(row.prompt):
            if end and count_tokens(tokenizer, row.prompt[: segment.end]) > tokens:
                break
            end = segment.end
        found.append(PromptRow(row.id, row.prompt[:end].strip(), row.record))
    return found


def count_tokens(tokenizer: Any, text: str) -> int:
    """How many tokens a text has, without start and end token.

    Args:
        tokenizer: of CLIP.
        text: of any length.
    """
    return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def compare_points(
    sweep: Sweep,
    points: Sequence[Point],
    measured: Sequence[MeasuredSet],
    columns: Sequence[MetricColumn],
    baseline: str,
    samples: int,
) -> list[Comparison]:
    """At each value of a sweep every model with the baseline's pictures of the same value.

    Args:
        sweep: what was varied.
        points: of `points_of`.
        measured: their results, in the same order.
        columns: of the metrics.
        baseline: label of a model.
        samples: bootstrap draws.
    """
    found: list[Comparison] = []
    for value in sweep.values:
        at = [m for p, m in zip(points, measured, strict=False) if p.value == value]
        label = sweep.label(baseline, value)
        if label in [m.label for m in at]:
            found += compare(at, columns, label, samples=samples)
    return found


def sweep_curves(
    sweep: Sweep, points: Sequence[Point], measured: Sequence[MeasuredSet], columns: Sequence[MetricColumn]
) -> list[Curve]:
    """A figure for each number, with a line and intervals for each model.

    Args:
        sweep: what was varied.
        points: of `points_of`.
        measured: their results, in the same order.
        columns: of the metrics.
    """
    bases = list(dict.fromkeys(p.base for p in points))
    curves = []
    for column in columns:
        lines = []
        for base in bases:
            mine = [
                (p.value, m)
                for p, m in zip(points, measured, strict=True)
                if p.base == base
                and p.value is not None
                and math.isfinite(m.values.get(column.key, math.nan))
            ]
            cells = [m.cells[column.key] for _, m in mine]
            bounded = bool(cells) and all(isinstance(c, Estimate) and c.bounded for c in cells)
            lines.append(
                Line(
                    base,
                    [float(v) for v, _ in mine if v is not None],
                    [m.values[column.key] for _, m in mine],
                    low=[c.low for c in cells if isinstance(c, Estimate)] if bounded else (),
                    high=[c.high for c in cells if isinstance(c, Estimate)] if bounded else (),
                )
            )
        if any(line.x for line in lines):
            curves.append(Curve(column.title, sweep.x_label, lines))
    return curves
