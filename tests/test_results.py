"""Numbers of marked tables and paragraphs are in the committed result files of their commands.

A block of README or docs/ that a line ``<!-- result: FILE -->`` follows takes its numbers from docs/results/FILE.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from documents import DOCUMENTS, RESULTS, Marked, Number, marked, missing, numbers, unmarked

MARKED = [block for file in DOCUMENTS for block in marked(file.read_text("utf-8"), file.name)]


@pytest.mark.parametrize("block", MARKED, ids=str)
def test_numbers_are_in_the_result_files(block: Marked) -> None:
    assert missing(block) == []


@pytest.mark.parametrize("name", sorted(file.name for file in RESULTS.glob("*.json")))
def test_result_files_say_their_command_and_are_used(name: str) -> None:
    result = json.loads((RESULTS / name).read_text("utf-8"))
    if "transcribed" in result:
        assert result["command"] and result["date"] and result["machine"]
    assert any(name in block.files for block in MARKED)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda f: f.name)
def test_each_decimal_number_has_a_result_file(document: Path) -> None:
    assert unmarked(document.read_text("utf-8")) == []


def test_a_number_without_a_result_file_is_found() -> None:
    text = "# A 1.5\n\nIt has 3.25 of it (arXiv 2410.11817, SD 1.5).\n\n```\n4.5\n```\n\n"
    text += "Two.\n\nFour 4.5.\n\n<!-- no result: why -->\n"
    assert unmarked(text) == ["It has 3.25 of it (arXiv 2410.11817, SD 1.5).: 3.25"]


def test_numbers_of_a_cell() -> None:
    """Three of an interval, of which the dash is no sign; a minus is one; names of equations and code have none."""
    assert [n.value for n in numbers("**92.7** (92.1–93.2)")] == [92.7, 92.1, 93.2]
    assert [n.value for n in numbers("−0.29 to −0.28, 3,353")] == [-0.29, -0.28, 3353]
    assert numbers("`7.5` of 7e and C2") == ()
    assert [n.step for n in numbers("0.058 20 7e-6")] == pytest.approx([0.001, 1, 1e-6])


def test_a_number_is_found_as_printed_or_in_per_cent() -> None:
    """0.9274 is printed 92.7 (per cent) and 0.93, not 92.8 and not 0.92."""

    def printed(text: str) -> Number:
        [number] = numbers(text)
        return number

    assert printed("92.7").is_of(0.9274) and printed("0.93").is_of(0.9274)
    assert not printed("92.8").is_of(0.9274) and not printed("0.92").is_of(0.9274)


def test_a_changed_number_is_found() -> None:
    """In the row of its label, not anywhere in the file: 16.66 is Denscore's, 16.45 Denscore-O's of the same table."""
    text = "| | plain |\n|---|---|\n| Denscore ↑ | 16.66 |\n\n<!-- result: table2.json -->\n"
    [right] = marked(text)
    assert missing(right) == []
    [wrong] = marked(text.replace("16.66", "16.67"))
    assert missing(wrong) == ["Denscore ↑: 16.67"]
    [other_row] = marked(text.replace("16.66", "70.47"))  # CLIPScore's
    assert missing(other_row) == ["Denscore ↑: 70.47"]
    [prose] = marked(
        "The base model has 76.0 % on 1,000 prompts, and 76.3 %.\n\n<!-- result: table2.json -->\n"
    )
    assert missing(prose) == [": 76.3"]
