"""The conclusions of LongAlign from Table 1 (§5.2), tested on given models.

Each claim is a list of differences of R@1, text → image. A difference *holds* if its whole 95 % interval is on the
claimed side of zero. It *does not hold* if the whole interval is on the other side. Otherwise it is *undecided*. A
claim holds if all its differences hold, and does not hold if one of them does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from longalign.errors import LongalignError
from longalign.evaluation.retrieval import (
    AVERAGE,
    C_P,
    C_PERP,
    EMBEDDINGS,
    ENCODINGS,
    SINGLE,
    Cell,
    Retrieval,
)
from longalign.report import Estimate, Table

HOLDS, FAILS, UNDECIDED, UNTESTED = "holds", "does not hold", "undecided", "not tested"


@dataclass(frozen=True)
class Comparison:
    """``difference`` is claimed to be greater than 0, or, with ``or_equal``, at least 0."""

    name: str
    difference: Estimate
    or_equal: bool = False

    @property
    def verdict(self) -> str:
        return decide(self.difference, or_equal=self.or_equal)


@dataclass(frozen=True)
class Claim:
    text: str
    comparisons: Sequence[Comparison]

    @property
    def verdict(self) -> str:
        return all_of(c.verdict for c in self.comparisons)

    def to_json(self) -> dict[str, Any]:
        parts = [
            {"name": c.name, "difference": d.value, "low": d.low, "high": d.high, "verdict": c.verdict}
            for c in self.comparisons
            for d in (c.difference,)
        ]
        return {"claim": self.text, "verdict": self.verdict, "comparisons": parts}


def decide(difference: Estimate, threshold: float = 0.0, *, or_equal: bool = False) -> str:
    """Whether a quantity is above a threshold, decided by its interval."""
    if difference.low > threshold or (or_equal and difference.low == threshold):
        return HOLDS
    if difference.high < threshold or (not or_equal and difference.high == threshold):
        return FAILS
    return UNDECIDED


def all_of(verdicts: Iterable[str]) -> str:
    """The verdict on a claim from the verdicts on its parts."""
    found = list(verdicts)
    if FAILS in found:
        return FAILS
    if UNDECIDED in found:
        return UNDECIDED
    return HOLDS if found else UNTESTED


def paper_claims(
    found: Retrieval, *, plain: Sequence[str] | None = None, segment: Sequence[str] | None = None
) -> list[Claim]:
    """The three claims, tested on these models.

    Args:
        plain: labels of models without preference training; by default the first one.
        segment: labels of those trained with a segment loss; by default the last of several.

    Raises:
        LongalignError: a label that no model has.
    """
    models = found.models
    plain = models[:1] if plain is None else plain
    segment = (models[-1:] if len(models) > 1 else ()) if segment is None else segment
    if unknown := [label for label in (*plain, *segment) if label not in models]:
        raise LongalignError(f"no model is called {unknown[0]!r}; there are: {', '.join(models)}")

    def compare(a: Cell, b: Cell, name: str, or_equal: bool = False) -> Comparison:
        return Comparison(name, found.difference(a, b), or_equal)

    relevant = [
        compare(Cell(m, C_PERP, e), Cell(m, C_P, e), f"{m} · {e}: C⊥ − C_P", True)
        for m in models
        if m not in plain
        for e in ENCODINGS
    ]
    averaged = [
        compare(Cell(m, C_PERP, AVERAGE), Cell(m, C_PERP, SINGLE), f"{m} (segment loss): Average − Single")
        if m in segment
        else compare(Cell(m, C_PERP, SINGLE), Cell(m, C_PERP, AVERAGE), f"{m}: Single − Average", True)
        for m in (models if segment else ())
    ]
    last = Cell(models[-1], C_PERP, AVERAGE)
    others = [Cell(m, c, e) for m in models for c in EMBEDDINGS for e in ENCODINGS]
    best = [
        compare(
            last, other, f"{last.model} · C⊥ · Average − {other.model} · {other.embedding} · {other.encoding}"
        )
        for other in others
        if other != last and len(models) > 1
    ]
    return [
        Claim("C⊥ retrieves at least as well as C_P, in every preference model", relevant),
        Claim("Average beats Single only after segment training (with C⊥)", averaged),
        Claim(f"{models[-1]} with C⊥ and Average is the best of all", best),
    ]


def claims_table(claims: Sequence[Claim]) -> Table:
    """The claims with their differences and verdicts."""
    rows: list[list[str | Estimate]] = []
    for claim in claims:
        rows.append([claim.text, "", claim.verdict])
        rows += [[f"– {c.name}", c.difference, c.verdict] for c in claim.comparisons]
    return Table(
        "Claims of the paper",
        ["", "difference of R@1", "verdict"],
        rows,
        note="By 95 % paired bootstrap intervals over queries, without correction for several claims.",
    )
