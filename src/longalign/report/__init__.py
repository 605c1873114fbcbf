"""Run folder → one offline HTML file, or a folder of pages where there are many prompts; tables as CSV and LaTeX."""

from longalign.report.csv import table_csv
from longalign.report.data import (
    Case,
    Curve,
    Estimate,
    Line,
    Mark,
    PageCase,
    PagePanel,
    Panel,
    Report,
    SentenceRow,
    SortedList,
    Table,
    counted,
    signed,
)
from longalign.report.latex import table_latex
from longalign.report.pages import worst_first, write_pages
from longalign.report.render import write_report
from longalign.report.statistics import CLUSTERED, clustered_wilson, wilson

__all__ = [
    "CLUSTERED",
    "Case",
    "Curve",
    "Estimate",
    "Line",
    "Mark",
    "PageCase",
    "PagePanel",
    "Panel",
    "Report",
    "SentenceRow",
    "SortedList",
    "Table",
    "clustered_wilson",
    "counted",
    "signed",
    "table_csv",
    "table_latex",
    "wilson",
    "worst_first",
    "write_pages",
    "write_report",
]
