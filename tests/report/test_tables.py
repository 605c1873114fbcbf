"""Best cells, turned tables, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import pytest

from longalign.report import Estimate, Report, Table, table_csv, table_latex, write_report
from longalign.report.latex import escaped
from longalign.report.ranking import best_cells, grid


def shares(value: float, n: int = 40) -> Estimate:
    return Estimate(value, value - 0.05, value + 0.05, n)


def distance(value: float) -> Estimate:
    return Estimate(value, math.nan, math.nan, 40, ".2f")


def runs(**more: object) -> Table:
    """Three runs and the reference. a_b has the most true sentences, and `plain` the least FID; 3.141 and 3.139 both
    print as 3.14.
    """
    return Table(
        "Runs & metrics",
        ["", "oracle ↑", "FID ↓", "note"],
        [
            ["plain", shares(0.5), distance(3.141), "50% of it"],
            ["SFT", shares(0.75), distance(3.139), ""],
            ["a_b", shares(0.8), distance(math.nan), "—"],
            ["reference", shares(0.9), distance(0.0), "—"],
        ],
        note="n = 40.",
        better=["", "higher", "lower", ""],
        unranked=["reference"],
        **more,  # type: ignore[arg-type]
    )


def test_the_best_of_each_column() -> None:
    assert best_cells(runs()) == {(2, 1), (0, 2), (1, 2)}
    alone = Table("T", ["", "x"], [["a", shares(0.5)], ["b", "—"]], better=["", "higher"])
    assert best_cells(alone) == frozenset()


def test_a_turned_table_has_its_columns_as_rows() -> None:
    """Cell (row r, column c) goes to row c − 1 and column r + 1."""
    turned = grid(runs(turned=True))
    assert list(turned.columns) == ["", "plain", "SFT", "a_b", "reference"]
    assert [row[0] for row in turned.rows] == ["oracle ↑", "FID ↓", "note"]
    assert turned.rows[2][1] == "50% of it"
    assert turned.best == {(0, 3), (1, 1), (1, 2)}


def test_the_best_is_bold_on_the_page(tmp_path: Path) -> None:
    """And only a page with such a table has the style for it."""
    html = write_report(Report("R", tables=[runs(turned=True)]), tmp_path / "r.html").read_text("utf-8")
    assert re.findall(r'<b class="value">([^<]*)</b>', html) == ["80.0%", "3.14", "3.14"]
    assert re.findall(r'<td data-column="([^"]*)"', html)[:4] == ["plain", "SFT", "a_b", "reference"]
    assert ".ranked" in html
    plain = Table("T", ["", "x"], [["a", shares(0.5)], ["b", shares(0.6)]])
    html = write_report(Report("R", tables=[plain]), tmp_path / "r.html").read_text("utf-8")
    assert "ranked" not in html and '<b class="value">' not in html


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="2 columns, 1 better"):
        Table("T", ["", "x"], [], better=["higher"])
    with pytest.raises(ValueError, match="a plot cannot be turned"):
        Table("T", ["", "x"], [], plot=True, turned=True)


def test_csv_has_every_digit() -> None:
    """A column of estimates becomes four; what was not measured is empty."""
    rows = list(csv.DictReader(io.StringIO(table_csv(runs()))))
    assert [row[""] for row in rows] == ["plain", "SFT", "a_b", "reference"]
    assert float(rows[0]["FID ↓"]) == 3.141 and rows[0]["FID ↓ low"] == "" and rows[0]["FID ↓ n"] == "40"
    assert rows[2]["FID ↓"] == "" and rows[0]["note"] == "50% of it"
    assert float(rows[1]["oracle ↑ high"]) == 0.75 + 0.05


def test_csv_quotes_what_needs_it() -> None:
    given = Table("T", ["a,b", "c"], [['say "x"', "two\nlines"], ["x", shares(0.5)]])
    text = table_csv(given)
    assert list(csv.reader(io.StringIO(text)))[1] == ['say "x"', "two\nlines", "", "", ""]
    assert text.startswith('"a,b",c,c low,c high,c n\n') and "\r" not in text


def test_latex_by_hand() -> None:
    r"""``_``, ``%`` and ``&`` are escaped; NaN prints as a dash."""
    lines = table_latex(runs(), label="tab:runs").splitlines()
    assert lines == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Runs \& metrics}",
        r"\label{tab:runs}",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r" & oracle $\uparrow$ & FID $\downarrow$ & note \\",
        r"\midrule",
        r"plain & 50.0\%\textsubscript{45.0--55.0\%} & \textbf{3.14} & 50\% of it \\",
        r"SFT & 75.0\%\textsubscript{70.0--80.0\%} & \textbf{3.14} &  \\",
        r"a\_b & \textbf{80.0\%}\textsubscript{75.0--85.0\%} & --- & --- \\",
        r"reference & 90.0\%\textsubscript{85.0--95.0\%} & 0.00 & --- \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip",
        r"{\footnotesize n = 40.}",
        r"\end{table}",
    ]


def test_latex_writes_intervals_in_other_ways() -> None:
    r"""Half of 45–55 % is 5 %. A difference of −0.2 (−0.25 to −0.15) is −20 points ± 5."""
    given = Table("T", ["", "x"], [["a", shares(0.5)], ["b", Estimate(-0.2, -0.25, -0.15, 9, "+.1%")]])

    def cells(intervals: str) -> list[str]:
        text = table_latex(given, intervals)  # type: ignore[arg-type]
        return [line[4:-3] for line in text.splitlines() if line.startswith(("a &", "b &"))]

    assert cells("plus-minus") == [r"50.0\% $\pm$ 5.0\%", r"$-$20.0 points $\pm$ 5.0"]
    assert cells("range")[0] == r"50.0\% {\scriptsize 45.0--55.0\%}"
    assert cells("none") == [r"50.0\%", r"$-$20.0 points"]


def test_latex_escapes_all_that_is_special() -> None:
    assert escaped('\\ { } $ & # ^ _ ~ % < > | "\na\x00') == (
        r"\textbackslash{} \{ \} \$ \& \# \textasciicircum{} \_ \textasciitilde{} \% \textless{} \textgreater{} "
        r"\textbar{} '' a"
    )
