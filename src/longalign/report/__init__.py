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
    counted,
    signed,
)
from longalign.report.render import write_report
from longalign.report.statistics import CLUSTERED, clustered_wilson, wilson

__all__ = [
    "CLUSTERED",
    "Case",
    "Curve",
    "Estimate",
    "Line",
    "Mark",
    "Panel",
    "Report",
    "SentenceRow",
    "Table",
    "clustered_wilson",
    "counted",
    "signed",
    "wilson",
    "write_report",
]
