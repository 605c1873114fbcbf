"""Prompts from arguments, files and standard input."""

from __future__ import annotations

import io
import json
import pickle
import sys
from pathlib import Path

import pytest

from longalign.data.lazy_prompts import PromptLines
from longalign.data.of_worlds import parse_world
from longalign.data.prompt_sets import read_texts
from longalign.data.prompts import read_prompts, read_text
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


BAD_LINES = [
    ('{"prompt": "one"}\n{oops\n', "p.jsonl, line 2: is no JSON object"),
    ('{"prompt": "one"}\na fox\n', "p.jsonl, line 2: is no JSON object"),
    ('{oops\n{"prompt": "one"}\n', "p.jsonl, line 1: is no JSON object"),
    ('{"prompt": "one"}\n["two"]\n', "p.jsonl, line 2: should be a JSON object"),
    ('{"prompt": "one"}\n{"prompt": 2}\n', 'p.jsonl, line 2: no "prompt" in this JSON object'),
]


@pytest.mark.parametrize(("text", "says"), BAD_LINES)
def test_a_bad_line_of_a_jsonl_file_is_refused_and_named(tmp_path: Path, text: str, says: str) -> None:
    """By every reader of prompts: generate's, and that of prompt sets. It is not drawn as a prompt."""
    file = tmp_path / "p.jsonl"
    file.write_text(text)
    with pytest.raises(LongalignError, match=says):
        read_prompts([f"@{file}"])
    with pytest.raises(LongalignError, match=r"p\.jsonl, line [12]: "):
        list(read_texts([str(file)]))


def test_jsonl_is_known_by_its_first_line_too(tmp_path: Path) -> None:
    """Under any name. And a line with a key and a colon is no prompt, wherever it stands."""
    for name, text in (("p.txt", '{"prompt": "one"}\n{oops\n'), ("q.txt", 'a fox\n{"prompt": "one\n')):
        with pytest.raises(LongalignError, match="line 2: is no JSON object"):
            read_prompts([write(tmp_path / name, text.encode())])
    with pytest.raises(LongalignError, match="line 2: is no JSON object"):
        list(read_texts([write(tmp_path / "r.txt", b'{"prompt": "one"}\n{oops\n')[1:]]))


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "A fox."}\n{oops',
        'A fox.\n{"prompt": "A pig.',  # cut off
        "A fox.\n{'prompt': 'A pig.'}",  # Python's way of writing it
    ],
)
def test_both_readers_refuse_a_bad_line_under_any_name(tmp_path: Path, text: str) -> None:
    """`generate` reads prompts at once, `decompose` streams them: what one refuses, the other must not take."""
    file = tmp_path / "p.txt"
    file.write_text(text)
    for read in (lambda: read_prompts([f"@{file}"]), lambda: list(read_texts(file))):
        with pytest.raises(LongalignError, match=r"p\.txt, line 2: is no JSON object"):
            read()


def test_an_option_reads_a_file_as_prompts_do(tmp_path: Path) -> None:
    """`--negative @file`; it may be empty, and it is one text."""
    assert (
        read_text(write(tmp_path / "n.txt", b"blurry, low quality\n"), "--negative") == "blurry, low quality"
    )
    assert read_text("", "--negative") == "" and read_text("ugly", "--negative") == "ugly"
    with pytest.raises(LongalignError, match="--negative has 2 texts, and takes one"):
        read_text(write(tmp_path / "two.txt", b"a\nb\n"), "--negative")


def test_errors_count_prompts_from_1() -> None:
    with pytest.raises(LongalignError, match="prompt 2 is empty"):
        read_prompts(["a fox", " "])


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
        (b"\x89PNG\r\n\x1a\n\x00", "is binary"),
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


LINES = ["first\r", "", "  ", "second · ünïcode\u2028still second", "{curly} fox", "last"]


def test_large_files_are_read_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same prompts as of a small file, also by a process that was sent them; and the same refusals."""
    jsonl = [json.dumps({"prompt": line}) for line in LINES if line.strip()]
    files = [
        write(tmp_path / name, "\n".join(lines).encode())
        for name, lines in (("p.txt", LINES), ("q.jsonl", jsonl))
    ]
    small = [read_prompts([file]) for file in files]
    monkeypatch.setattr("longalign.data.prompts._LARGE_BYTES", 10)
    for file, expected in zip(files, small, strict=True):
        large = pickle.loads(pickle.dumps(read_prompts([file])))
        assert isinstance(large, PromptLines) and list(large) == expected
        assert (large[1:3], large[-1]) == (expected[1:3], expected[-1])
        with pytest.raises(IndexError):
            large[len(expected)]
    joined = read_prompts(["a fox", files[0], "a pig"])
    assert list(joined) == ["a fox", *small[0], "a pig"]
    with open(tmp_path / "p.txt", "ab") as changed:
        changed.write(b"more\n")
    with pytest.raises(LongalignError, match=r"p\.txt: was changed while it was read"):
        joined[2]
    (tmp_path / "p.txt").unlink()
    with pytest.raises(LongalignError, match=r"p\.txt: cannot be read"):
        joined[2]


@pytest.mark.parametrize(("text", "says"), BAD_LINES)
def test_a_bad_line_of_a_large_file(
    tmp_path: Path, text: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longalign.data.prompts._LARGE_BYTES", 10)
    test_a_bad_line_of_a_jsonl_file_is_refused_and_named(tmp_path, text, says)
    for data in (b"\n" * 20, b"\xff\xfea\0" * 20, b"a\0b" * 20):
        with pytest.raises(LongalignError, match=r"is empty|is not UTF-8|is a binary file"):
            read_prompts([write(tmp_path / "p.txt", data)])


def test_captions_of_a_world_without_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a data set of this name has; a file of the name is meant first."""
    pictures = parse_world("stickers:3:objects=7-9").open()
    expected = [pictures[i].text for i in range(3)]
    monkeypatch.setattr(type(pictures), "picture", None)
    found = pickle.loads(pickle.dumps(read_prompts(["@stickers:3:objects=7-9"])))
    assert list(found) == expected and len(set(expected)) == 3
    with pytest.raises(LongalignError, match="say how many"):
        read_prompts(["@stickers"])
    monkeypatch.chdir(tmp_path)
    assert read_prompts([write(tmp_path / "stickers", b"a fox")[:1] + "stickers"]) == ["a fox"]
