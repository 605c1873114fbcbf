"""Tables as they are printed: which cells are the best of their column, and columns as rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from longalign.report.data import Estimate, Table


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of a table in the order in which they are printed.

    Attributes:
        columns: headings; the first one heads the row names.
        rows: each begins with its name.
        best: (row, column) of the cells that are bold.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Estimate]]
    best: frozenset[tuple[int, int]]


def grid(table: Table) -> Grid:
    """`table` with its best cells, its columns as rows where it is `turned`.

    Args:
        table: the table.
    """
    best = best_cells(table)
    if not table.turned:
        return Grid(table.columns, table.rows, best)
    columns = [table.columns[0], *(str(row[0]) for row in table.rows)]
    rows = [
        [name, *(row[k] for row in table.rows)]  # a column of the table
        for k, name in enumerate(table.columns[1:], 1)
    ]
    return Grid(columns, rows, frozenset((column - 1, row + 1) for row, column in best))


def best_cells(table: Table) -> frozenset[tuple[int, int]]:
    """(row, column) of the best estimate of each column that `Table.better` names, and of those that print the same.

    Rows in `Table.unranked` and cells of text do not take part. A column with fewer than two estimates has no best one.

    Args:
        table: the table.
    """
    found: set[tuple[int, int]] = set()
    for column, better in enumerate(table.better):
        values = {
            k: cell
            for k, row in enumerate(table.rows)
            if isinstance(cell := row[column], Estimate)
            and math.isfinite(cell.value)
            and row[0] not in table.unranked
        }
        if better and len(values) > 1:
            choose = max if better == "higher" else min
            best = str(choose(values.values(), key=lambda cell: cell.value))
            found.update((k, column) for k, cell in values.items() if str(cell) == best)
    return frozenset(found)
