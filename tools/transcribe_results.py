"""Writes tables of a document as a result file, where the output of an expensive command was not kept.

    python tools/transcribe_results.py docs/evaluation.md 2 --out table2.json --command "longalign evaluate …" \
        --date 2026-11-27 --machine "two cores of an AMD EPYC"

Tables are given by number, counted from 1. `--claims WORDS …` adds the numbers of each paragraph that has these words.
The file says that it is a transcription. Where a command can be run again, keep its JSON instead
(`--json > docs/results/NAME.json`). `tests/test_results.py`, which compares documents with results, finds numbers at
any depth.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "helpers"))

from documents import RESULTS, cells, numbers, paragraphs_of, tables_of  # noqa: E402


def table(lines: list[str]) -> dict[str, Any]:
    """Columns, and rows of a label and the numbers of each cell: an estimate and the ends of its interval."""
    rows = [[cells(x)[0], *([n.value for n in numbers(cell)] for cell in cells(x)[1:])] for x in lines[2:]]
    return {"columns": cells(lines[0])[1:], "rows": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("document", type=Path)
    parser.add_argument("tables", nargs="*", type=int)
    parser.add_argument("--claims", nargs="*", default=[])
    for name in ("out", "command", "date", "machine"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    document = given.document.read_text("utf-8")
    found, paragraphs = tables_of(document), paragraphs_of(document)
    for words in given.claims:
        if not any(words in text for text in paragraphs):
            parser.error(f"no paragraph of {given.document} holds {words!r}")
    result = {
        "command": given.command,
        "date": given.date,
        "machine": given.machine,
        "transcribed": f"from {given.document}: its numbers, which the command gave on that date",
        "tables": [table(found[number - 1]) for number in given.tables],
        "claims": [
            {"text": text, "numbers": [n.value for n in numbers(text)]}
            for words in given.claims
            for text in paragraphs
            if words in text
        ],
    }
    text = json.dumps(result, ensure_ascii=False, indent=1)
    (RESULTS / given.out).write_text(text + "\n", "utf-8")
