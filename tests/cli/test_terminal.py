"""Tables on the terminal: every figure is there, whole, at any width."""

from __future__ import annotations

from pathlib import Path

import pytest

from longalign.cli.terminal import MOST_ROWS, print_paths, print_table, show_tables, tell_unjudged
from longalign.report import Estimate, SentenceRow, Table


def _share(value: float, low: float, high: float, format: str = ".1%") -> Estimate:
    return Estimate(value, low, high, 113, format)


ROWS = ("before token 77", "beyond token 77", "all sentences")
DEMO = Table(
    "Sentences that are true of the picture",
    ["", "plain, 77 tokens", "segments", "soft tokens", "SFT", "SFT+RFT", "chance"],
    [
        [name, *(_share(1 - k / 100, 0.9 - k / 100, 1.0) for k in range(5)), _share(0.044, 0.017, 0.078)]
        for name in ROWS
    ],
    note="Share of the sentences that the oracle calls true of the picture.",
)
DIFFERENCES = Table(
    "Differences",
    ["", *DEMO.columns[1:]],
    [
        [f"{sort}: {what}", "—", *(_share(-0.941, -0.953, -0.928, "+.1%") for _ in range(5))]
        for sort in ("self-contained", "referring")
        for what in ("beyond − before token 77", "all, − the column to the left")
    ],
)
RUNS = Table(
    "Runs by metrics",
    ["", "pictures", "FID ↓", "CMMD ↓", "Denscore ↑", "true sentences ↑", "diversity ↑"],
    [
        [
            f"demo · a long name of run {k}",
            "16",
            "12.34",
            "0.123",
            _share(31.25, 30.5, 32.125, ".2f"),
            _share(0.75, 0.625, 0.875),
            "—",
        ]
        for k in range(3)
    ],
)
TEXTS = Table(
    "What each metric could read of the prompts",
    ["metric", "reads", "share"],
    [
        [
            "oracle",
            "sentences that state a fact about stickers",
            "97.3% of the sentences; 0.2% of these unclear",
        ]
    ],
)
SINGLE = Table(
    "One prompt",
    ["", "true"],
    [
        ["seed 0", Estimate(0.833, float("nan"), float("nan"), 6)],
        ["seed 1", Estimate(float("nan"), 0.0, 1.0, 0)],
    ],
)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize(
    "table", [DEMO, DIFFERENCES, RUNS, TEXTS, SINGLE], ids=lambda t: t.caption.split()[0]
)
def test_no_figure_is_lost(
    table: Table, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every estimate and every interval stands in the output in one piece, as often as in the table; names and texts
    have all their words; no line is wider than the terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(table)
    shown = capsys.readouterr().out
    assert "…" not in shown and all(len(line) <= width for line in shown.splitlines())
    cells = [cell for row in table.rows for cell in row]
    for cell in cells:
        wanted = [str(cell), cell.interval] if isinstance(cell, Estimate) else cell.split()
        for text in wanted:
            held = sum(
                text in (str(c), c.interval) if isinstance(c, Estimate) else text in c.split() for c in cells
            )
            assert shown.count(text) >= held, (text, shown)
    for heading in table.columns:
        assert all(word in shown for word in heading.split())


def test_brackets_in_a_name_are_letters(capsys: pytest.CaptureFixture[str]) -> None:
    """A run may be called [bold]: it is no markup."""
    print_table(Table("[red]t", ["", "[b]a"], [["[bold]x", "1"]]))
    shown = capsys.readouterr().out
    assert "[red]t" in shown and "[b]a" in shown and "[bold]x" in shown


def test_a_long_table_ends_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    """70 rows: 30 are shown, and the last line says where the other 40 are."""
    table = Table("Long", ["", "n"], [[f"row{k}", str(k)] for k in range(70)])
    print_table(table, "runs/x/report.html")
    shown = capsys.readouterr().out
    assert "row29" in shown and "row30" not in shown and MOST_ROWS == 30
    assert shown.strip().endswith("… 40 more rows: see runs/x/report.html")


def test_many_tables_end_with_their_captions(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten tables of 30 rows would be 350 lines: after about 120 lines the captions of the rest are listed."""
    tables = [
        Table(f"Table {k}", ["", "n"], [[f"row{i}", str(i)] for i in range(30)], note="A note.")
        for k in range(10)
    ]
    show_tables(tables, "runs/x/report.html")
    shown = capsys.readouterr().out
    assert "… 6 more tables, see runs/x/report.html:" in shown
    assert shown.splitlines()[-6:] == [f"  Table {k}" for k in range(4, 10)]


def test_paths_stand_whole_on_rows_of_their_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path longer than the terminal is not broken; 12 paths: 8 of them, and where the other 4 are."""
    monkeypatch.setenv("COLUMNS", "40")
    paths = [Path("runs") / ("long" * 20) / f"{k:04d}-0.png" for k in range(12)]
    print_paths("prompt 1: 2 sentences", paths)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "prompt 1: 2 sentences",
        *(f"  {path}" for path in paths[:8]),
        f"  … 4 more in {paths[0].parent}",
    ]


def test_sentences_that_the_oracle_does_not_know_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Some of them or all of them, each once. Of a model without a judge there is nothing to say."""
    rows = [
        SentenceRow(text, marks={"seed 0": mark, "seed 1": mark})
        for text, mark in (("A crab is in the centre.", "true"), ("A lovely evening.", "unjudged"))
    ]
    tell_unjudged([rows], "stickers")
    said = capsys.readouterr().err
    assert said.count("not judged") == said.count("“A lovely evening.”") == 1 and "crab" not in said
    tell_unjudged([rows[1:], rows[1:]], "stickers")
    assert capsys.readouterr().err == said
    tell_unjudged([rows], None)
    tell_unjudged([rows[:1]], "stickers")
    assert capsys.readouterr().err == ""
