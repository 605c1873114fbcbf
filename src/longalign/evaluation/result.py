"""The result of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longalign.evaluation.comparison import Comparison
from longalign.evaluation.judging import Verdicts
from longalign.evaluation.measuring import Measuring, Pass
from longalign.evaluation.sets import MeasuredSet, PictureSet
from longalign.evaluation.sweep import Point, Sweep
from longalign.metrics.features import Features
from longalign.metrics.metric import Metric, MetricColumn
from longalign.worlds import World


@dataclass(frozen=True)
class Evaluation:
    """The result of `EvaluationJob.run`.

    Attributes:
        runs: the measured sets, in order.
        comparisons: with the baseline.
        baseline: its label.
        measuring, passes: what was found of each picture, see `Measuring.lines`.
        dropped: metrics that could not be computed → the reason.
        facts: extractor, models, reference, pictures that were left out.
        notes: sentences below the table.
        world: that the prompts describe.
        sweep, points: what was varied, and each model at each value in the order of ``runs``; None and empty without.
        judged: what the judge said; None: none was asked.
    """

    runs: Sequence[MeasuredSet]
    comparisons: Sequence[Comparison]
    baseline: str
    measuring: Measuring
    passes: Sequence[Pass]
    dropped: Mapping[str, str]
    facts: Mapping[str, str]
    notes: Sequence[str]
    world: World | None = None
    sweep: Sweep | None = None
    points: Sequence[Point] = ()
    judged: Verdicts | None = None

    @property
    def names(self) -> list[str]:
        """Labels of the runs."""
        return [m.label for m in self.runs]

    @property
    def columns(self) -> list[MetricColumn]:
        """The columns of all metrics."""
        return [column for metric in self.runs[0].metrics for column in metric.columns]

    def to_json(self) -> dict[str, Any]:
        """The content of ``--json``."""
        prompts = [p.text for m in self.runs for p in m.pictures]
        read = {m.name: f"{m.reads}: {m.share_read(prompts)}" for m in self.runs[0].metrics}
        found: dict[str, Any] = {
            **self.facts,
            "baseline": self.baseline,
            "runs": [run.to_json() for run in self.runs],
            "comparisons": [c.to_json() for c in self.comparisons],
            "read": read,
        }
        if self.dropped:
            found["not computed"] = dict(self.dropped)
        if self.judged is not None:
            found["judge"] = self.judged.to_json
        return found


def facts_of(
    measured: Sequence[MeasuredSet],
    metrics: Sequence[Metric],
    features: Features | None,
    reference: PictureSet | None,
) -> tuple[dict[str, str], list[str]]:
    """For the page's list of facts; and sentences below the table.

    Args:
        measured: the sets.
        metrics: that were computed.
        features: the extractor; None: there is none.
        reference: pictures to compare with; None: there are none.
    """
    facts: dict[str, str] = {}
    notes = []
    if features is not None:
        facts["features"] = features.what
        notes.append(f"Features: {features.what}.")
    facts.update({f"{m.name} by": m.what.removeprefix(f"{m.name} by ") for m in metrics if m.what})
    if reference is not None:
        facts["reference"] = f"{reference.label}, {len(reference):,} pictures"
        notes.append(f"Reference: {facts['reference']}; distances of small sets are too large.")
    if failed := [f"{m.label}: {f.name}: {f.reason}" for m in measured for f in m.failed]:
        facts["left out"] = f"{len(failed):,} pictures, such as {failed[0]}"
    if missing := [f"{m.label}: {len(m.missing):,}" for m in measured if m.missing]:
        facts["prompts without a picture"] = ", ".join(missing)
    return facts, notes
