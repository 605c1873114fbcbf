"""Tables for papers."""

from __future__ import annotations

import math
from typing import Literal

from longalign.report.data import Estimate, Table
from longalign.report.ranking import grid

Intervals = Literal["range", "subscript", "plus-minus", "none"]

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    # what tables of this package print beyond ASCII; letters of other scripts pass as they are
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{NO-BREAK SPACE}": "~",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{SUPERSCRIPT TWO}": "$^2$",
    "\N{UPWARDS ARROW}": r"$\uparrow$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
    "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\le$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\ge$",
    "\N{UP TACK}": r"$\perp$",
    "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
    "\N{GREEK SMALL LETTER EPSILON}": r"$\epsilon$",
    "\N{GREEK SMALL LETTER ETA}": r"$\eta$",
    "\N{GREEK SMALL LETTER LAMDA}": r"$\lambda$",
    "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$",
    "\N{GREEK SMALL LETTER OMEGA}": r"$\omega$",
}


def table_latex(table: Table, intervals: Intervals = "subscript", label: str = "") -> str:
    r"""A `Table` as LaTeX: an environment ``table`` for the package booktabs; best cells are bold.

    Texts are escaped, so that a name with ``_`` or ``%`` prints as it is. Columns become rows where the table is
    `turned`. The note goes below the rules.

    Args:
        table: the table.
        intervals: how intervals are written: as a ``subscript`` (``97.6\textsubscript{96.0--97.1}``), as a ``range`` in
            small print behind the number, as ``plus-minus`` half of their width, or ``none``.
        label: for ``\ref``; empty: none.
    """
    shown = grid(table)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(table.caption)}}}",
        *([rf"\label{{{label}}}"] if label else []),
        rf"\begin{{tabular}}{{l{'r' * (len(shown.columns) - 1)}}}",
        r"\toprule",
        _row([escaped(name) for name in shown.columns]),
        r"\midrule",
        *(
            _row([_cell(cell, intervals, (r, c) in shown.best) for c, cell in enumerate(row)])
            for r, row in enumerate(shown.rows)
        ),
        r"\bottomrule",
        r"\end{tabular}",
        *([r"\par\smallskip", rf"{{\footnotesize {escaped(table.note)}}}"] if table.note else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """`text` as LaTeX prints it literally, on one line.

    Args:
        text: any text.
    """
    return "".join(_ESCAPED.get(c, c) for c in " ".join(text.splitlines()) if c == "\t" or ord(c) >= 32)


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: str | Estimate, intervals: Intervals, best: bool) -> str:
    number = escaped(str(cell))
    if best:
        number = rf"\textbf{{{number}}}"
    if not isinstance(cell, Estimate) or not cell.bounded or intervals == "none":
        return number
    if intervals == "plus-minus":
        half = Estimate((cell.high - cell.low) / 2, math.nan, math.nan, cell.n, cell.format)
        return rf"{number} $\pm$ {escaped(str(half).removeprefix('+').removesuffix(' points'))}"
    span = escaped(cell.interval)
    return (
        rf"{number}\textsubscript{{{span}}}"
        if intervals == "subscript"
        else rf"{number} {{\scriptsize {span}}}"
    )
