"""What documents hold: tables and numbers with the result files that they come from, and blocks of code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_MARKER = re.compile(r"^<!-- result: ([^>]*?) -->$", re.M)
# A number with its sign; the dash of a range ("95.1–97.1") and of a name ("Table-2") is no sign.
_NUMBER = re.compile(r"(?<![\w.])([−+-]?)(\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)(?![\w]|\.\d)")
# Code, addresses, names of models and versions, and places in papers.
_NAMES = ("§", "SD ", "Python ", "Apache-", r"Eq\. ", r"Figs?\. ", r"App\. ", "Table ", "torch ")
_NO_NUMBERS = re.compile(rf"`[^`]*`|\]\([^)]*\)|arXiv\s+\d+\.\d+|(?:{'|'.join(_NAMES)})[A-Z]?[\d.]*\d")


@dataclass(frozen=True)
class Number:
    """A printed number.

    Attributes:
        text: as it is printed.
        value: what it says.
        step: the unit of its last digit: 0.1 for 92.7.
    """

    text: str
    value: float
    step: float

    def is_of(self, exact: float, units: Iterable[float] = ()) -> bool:
        """Whether ``exact`` is printed so: as it is, in per cent, or in one of these units."""
        half = self.step / 2 * (1 + 1e-9) + 1e-12
        return any(abs(exact / unit - self.value) <= half for unit in (1, 0.01, *units))


@dataclass(frozen=True)
class Marked:
    """A table, or a paragraph, with the result files that its numbers come from.

    Attributes:
        document: name of the file.
        files: names in docs/results/.
        units: of the printed numbers, where the files have others: 1e12 for TFLOP.
        rows: label and numbers of each row; a paragraph is one row without a label.
    """

    document: str
    files: tuple[str, ...]
    units: tuple[float, ...]
    rows: tuple[tuple[str, tuple[Number, ...]], ...]

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.files)}: {self.rows[0][0] if self.rows else ''}"


def numbers(text: str) -> tuple[Number, ...]:
    """The numbers of a cell or a sentence, in order.

    "92.7 (92.1–93.2)" has three, "−0.29 to −0.28" two, "Eq. 4" one, "C⊥" and "7e" none.
    """
    found = []
    for sign, digits in _NUMBER.findall(_NO_NUMBERS.sub(" ", text).replace("**", "")):
        plain = digits.replace(",", "")
        mantissa, _, exponent = plain.partition("e")
        decimals = len(mantissa.partition(".")[2])
        value = float(plain) * (-1 if sign in ("−", "-") and sign else 1)
        found.append(Number(sign + digits, value, 10.0 ** (int(exponent or 0) - decimals)))
    return tuple(found)


def cells(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def marked(text: str, document: str = "") -> Iterator[Marked]:
    """Each block of a document that a line ``<!-- result: FILE … -->`` follows, with an empty line between.

    ``/1e12`` and ``/2^30`` after the files are units.
    """
    for marker in _MARKER.finditer(text):
        block = text[: marker.start()].rstrip().rpartition("\n\n")[2]  # a list is one block
        lines = block.splitlines()
        if lines[0].startswith("|"):
            rows = tuple((cells(x)[0], numbers(" ; ".join(cells(x)[1:]))) for x in lines[2:])
        else:
            claims = [n for n in numbers(" ".join(lines)) if "." in n.text]  # whole numbers are settings
            rows = (("", tuple(claims)),)
        words = marker[1].split()
        units = [word[1:].partition("^") for word in words if word.startswith("/")]
        yield Marked(
            document,
            tuple(word for word in words if not word.startswith("/")),
            tuple(float(base) ** int(power or 1) for base, _, power in units),
            rows,
        )


def unmarked(text: str) -> list[str]:
    """The first words of each table and paragraph with a decimal number that no line ``<!-- result: … -->`` follows.

    Code, headings and blocks with ``<!-- no result: WHY -->`` behind them are left out.
    """
    blocks = re.split(r"\n\n+", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S).strip())
    found = []
    for block, after in zip(blocks, [*blocks[1:], ""], strict=True):
        skipped = block.startswith(("#", "<!--", "    ", "!["))
        lines = block.splitlines()[2:] if block.startswith("|") else [block]
        printed = [n for line in lines for n in numbers(line) if "." in n.text]
        if printed and not skipped and not after.startswith(("<!-- result:", "<!-- no result:")):
            found.append(f"{' '.join(block.split())[:60]}: {', '.join(n.text for n in printed[:3])}")
    return found


def tables_of(text: str) -> list[list[str]]:
    """The tables of a document, each as its lines."""
    return [found[0].splitlines() for found in re.finditer(r"(?:^\|.*\n?)+", text, re.M)]


def paragraphs_of(text: str) -> list[str]:
    """The paragraphs and tables of a document, each as one line of words."""
    return [" ".join(block.split()) for block in re.split(r"\n\s*\n|\n(?=- )", text)]


def values(result: Any) -> Iterator[float]:
    """All numbers of a result file, at any depth."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list):
        for below in result:
            yield from values(below)
    elif isinstance(result, int | float) and not isinstance(result, bool):
        yield float(result)


def values_of_row(result: Any, label: str) -> list[float]:
    """The numbers of the rows of this label in the ``tables`` of a result; of a result without it, all numbers."""
    rows = (
        [row for table in result.get("tables", []) for row in table["rows"] if row[0] == label]
        if label
        else []
    )
    return list(values(rows or result))


def missing(block: Marked) -> list[str]:
    """The numbers of a block that are in none of its result files, each with the label of its row."""
    results = [json.loads((RESULTS / name).read_text("utf-8")) for name in block.files]
    lost = []
    for label, printed in block.rows:
        known = [value for result in results for value in values_of_row(result, label)]
        lost += [f"{label}: {n.text}" for n in printed if not any(n.is_of(x, block.units) for x in known)]
    return lost
