"""Tables for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
import math

from longalign.report.data import Estimate, Table


def table_csv(table: Table) -> str:
    """A `Table` as CSV: a line of headings and a line for each row, numbers in full precision.

    A column with estimates becomes four: the number under the column's heading, then ``HEADING low``, ``HEADING
    high`` and ``HEADING n``. What was not measured is empty. Lines end with a line feed; texts with commas, quotes or
    line ends are quoted.

    Args:
        table: the table.
    """
    measured = [any(isinstance(row[k], Estimate) for row in table.rows) for k in range(len(table.columns))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        part
        for name, numbers in zip(table.columns, measured, strict=True)
        for part in ([name, f"{name} low", f"{name} high", f"{name} n"] if numbers else [name])
    )
    for row in table.rows:
        cells: list[str] = []
        for cell, numbers in zip(row, measured, strict=True):
            if isinstance(cell, Estimate):
                cells += [_exact(cell.value), _exact(cell.low), _exact(cell.high), str(cell.n)]
            else:
                cells += [cell, "", "", ""] if numbers else [cell]
        writer.writerow(cells)
    return text.getvalue()


def _exact(number: float) -> str:
    return repr(float(number)) if math.isfinite(number) else ""
