"""Run folder → one offline HTML file, and the same data as JSONL."""

from longalign.report.data import (
    Case,
    Curve,
    Estimate,
    Line,
    Mark,
    Panel,
    Report,
    SentenceRow,
    Table,
)
from longalign.report.render import write_report
from longalign.report.statistics import bootstrap_ratio, wilson

__all__ = [
    "Case",
    "Curve",
    "Estimate",
    "Line",
    "Mark",
    "Panel",
    "Report",
    "SentenceRow",
    "Table",
    "bootstrap_ratio",
    "wilson",
    "write_report",
]
