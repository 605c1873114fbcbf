"""Prompts from arguments, files and standard input."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from longalign.data.prompts import read_prompts
from longalign.errors import LongalignError


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return f"@{path}"


def test_text_stands_for_itself() -> None:
    assert read_prompts(["a fox", "a b@c.d"]) == ["a fox", "a b@c.d"]


def test_a_file_holds_one_prompt_a_line(tmp_path: Path) -> None:
    data = "first\r\n\n  \nsecond · ünïcode\u2028still second\n".encode()
    assert read_prompts([write(tmp_path / "p.txt", data)]) == ["first", "second · ünïcode\u2028still second"]


def test_jsonl_with_prompt_text_or_caption(tmp_path: Path) -> None:
    data = b'{"prompt": "one"}\n{"text": "two"}\n{"caption": "three", "id": 3}\n'
    assert read_prompts([write(tmp_path / "p.jsonl", data)]) == ["one", "two", "three"]


def test_a_line_that_only_begins_like_json_is_a_prompt(tmp_path: Path) -> None:
    assert read_prompts([write(tmp_path / "p.txt", b"{curly} fox\n")]) == ["{curly} fox"]


def test_byte_order_mark_is_no_part_of_the_prompt(tmp_path: Path) -> None:
    assert read_prompts([write(tmp_path / "p.txt", b"\xef\xbb\xbfa fox")]) == ["a fox"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n")))
    assert read_prompts(["-", "c"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00", "not UTF-8"),
        (b"a\x00b", "binary"),
        (b'{"image": "x.png"}', 'no "prompt".*image'),
    ],
)
def test_bad_files_are_named(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(LongalignError, match=f"{says}"):
        read_prompts([write(tmp_path / "bad.txt", data)])


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="no such file"):
        read_prompts([f"@{tmp_path}/none.txt"])
    with pytest.raises(LongalignError, match="cannot be read"):
        read_prompts([f"@{tmp_path}"])


@pytest.mark.parametrize("given", [[], [""], ["  \n"], ["a fox", ""]])
def test_empty_prompts_are_refused(given: list[str]) -> None:
    with pytest.raises(LongalignError, match=r"no prompt|empty"):
        read_prompts(given)
