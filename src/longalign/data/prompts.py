"""Prompts from a command line: text, ``@file``, or ``-`` for standard input."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from longalign.data.lazy_prompts import Joined, PromptLines, WorldPrompts
from longalign.data.of_worlds import names_world, parse_world
from longalign.data.text_files import decode_text
from longalign.encoding.syntax import Syntax, read_syntax
from longalign.errors import LongalignError
from longalign.picture_info import prompt_of, read_info
from longalign.published import how_to_get

PROMPT_KEYS = ("prompt", "text", "caption")  # where a JSON object has its prompt
_JSON_NAMES = (".jsonl", ".ndjson", ".json")
_LIKE_JSON = re.compile(
    r"""\s*\{\s*(["'])[^"']*\1\s*:"""
)  # a key and a colon: nobody writes a prompt like this
_LARGE_BYTES = 16 * 2**20
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # which may say how they were made


def read_prompts(given: Iterable[str]) -> Sequence[str]:
    """The prompts that the arguments stand for, in order.

    A plain argument is one prompt. ``@picture.png`` is the prompt that the picture was drawn from. ``@stickers:1000``
    are captions of a world's held-out pictures (`longalign.data.of_worlds`). Any other ``@file`` and ``-`` (standard
    input) hold one prompt a line, or one JSON object a line with a key ``prompt`` (or ``text`` or ``caption``). Prompts
    of a file of more than 16 MB are read when they are asked for. Blank lines are passed over. A file is JSONL if its
    name says so (``.jsonl``, ``.ndjson``, ``.json``) or if its first line is a JSON object; then every line has to be
    one. Elsewhere a prompt may begin with a brace.

    Raises:
        LongalignError: an empty prompt, a file that is missing, empty or no text, a line of a JSONL file that is no
            JSON object with a prompt.
    """
    parts: list[Sequence[str]] = []
    for argument in given:
        if argument == "-":
            parts.append(parse_prompts(sys.stdin.buffer.read(), "standard input"))
        elif argument.startswith("@") and names_world(argument[1:]) and not Path(argument[1:]).exists():
            parts.append(WorldPrompts(parse_world(argument[1:])))
        elif argument.startswith("@"):
            parts.append(read_prompt_file(Path(argument[1:])))
        else:
            parts.append([argument])
    if not parts:
        raise LongalignError("no prompt given: write one, or @file, or - for standard input")
    if all(isinstance(part, list) for part in parts):
        prompts = [prompt for part in parts for prompt in part]
        for number, prompt in enumerate(prompts, 1):
            if not prompt.strip():
                raise LongalignError(f"prompt {number} is empty: write what the picture should show")
        return prompts
    return parts[0] if len(parts) == 1 else Joined(parts)


def read_text(given: str, option: str) -> str:
    """The one text that an option stands for: text, ``@file`` or ``-``, as in `read_prompts`. It may be empty.

    Args:
        given: the value of the option.
        option: its name, for messages.

    Raises:
        LongalignError: there are several texts in the file, or what `read_prompts` refuses.
    """
    if given != "-" and not given.startswith("@"):
        return given
    texts = read_prompts([given])
    if len(texts) != 1:
        raise LongalignError(f"{option} has {len(texts)} texts, and takes one: put it on one line")
    return texts[0]


def read_prompt_file(path: Path) -> Sequence[str]:
    """The prompts in a file; see `read_prompts`."""
    if path.suffix.lower() in _PICTURES:
        return [prompt_of(path)]
    try:
        if path.is_file() and path.stat().st_size > _LARGE_BYTES:
            with open(path, "rb") as file:
                first = next((line for line in file if line.strip()), b"").decode("utf-8-sig", "replace")
            return PromptLines(path, partial(_prompt_in_line, json_lines=is_jsonl(str(path), first)))
        data = path.read_bytes()
    except FileNotFoundError:
        advice = how_to_get(path) or " (a prompt that begins with @ names a file)"
        raise LongalignError(f"{path}: no such file{advice}") from None
    except OSError as error:
        raise LongalignError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_prompts(data, str(path))


def caption_of(picture: Path) -> str:
    """The prompt that a picture file was drawn from, without the marks of the tool's notation: what it should show.

    Raises:
        LongalignError: the file says nothing of a prompt, or is no picture.
    """
    prompt, info = prompt_of(picture), read_info(picture)
    assert info is not None  # `prompt_of` has seen it
    # ComfyUI shares A1111's notation of weights.
    syntax: Syntax = "a1111" if info.source != "longalign" else info.settings.get("syntax", "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        return read_syntax(prompt, syntax).text


def parse_prompts(data: bytes, name: str) -> list[str]:
    """The prompts in the bytes of a text or JSONL file; `name` is for messages."""
    return [line if row is None else prompt_in(row, where)[1] for where, line, row in parse_lines(data, name)]


def parse_lines(data: bytes, name: str) -> list[tuple[str, str, dict[str, Any] | None]]:
    """The lines of a text or JSONL file that are not blank: place for messages, text, JSON object in it or None.

    Args:
        data: the bytes of the file.
        name: of the file, for messages.

    Raises:
        LongalignError: the file is binary or empty, or a line is meant as an object and is none.
    """
    text = decode_text(data, name)
    if "\0" in text:
        raise LongalignError(f"{name}: is a binary file; give one prompt a line, or JSONL")
    # Not splitlines(): it also cuts at characters such as U+2028, which may stand inside a prompt.
    lines = [
        (f"{name}, line {i}", line.strip("\r")) for i, line in enumerate(text.split("\n"), 1) if line.strip()
    ]
    if not lines:
        raise LongalignError(f"{name}: is empty; give one prompt a line, or JSONL")
    json_lines = is_jsonl(name, lines[0][1])
    return [(where, line, json_object(line, where, json_lines)) for where, line in lines]


def _prompt_in_line(line: bytes, where: str, *, json_lines: bool) -> str:
    """The prompt in a line of a large file.

    Raises:
        LongalignError: it is not UTF-8, or is meant as an object and has no prompt, or an empty one.
    """
    try:
        text = line.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise LongalignError(f"{where}: is not UTF-8: save the file as UTF-8 ({error})") from None
    if "\0" in text:
        raise LongalignError(f"{where}: is a binary file; give one prompt a line, or JSONL")
    row = json_object(text, where, json_lines)
    prompt = text if row is None else prompt_in(row, where)[1]
    if not prompt.strip():
        raise LongalignError(f"{where}: the prompt is empty: write what the picture should show")
    return prompt


def is_jsonl(name: str, first: str) -> bool:
    """Whether a file has a JSON object a line: by its name, or by its first line."""
    if name.lower().endswith(_JSON_NAMES):
        return True
    try:
        return isinstance(json.loads(first), dict)
    except json.JSONDecodeError:
        return False


def json_object(line: str, where: str, json_lines: bool) -> dict[str, Any] | None:
    """The JSON object in a line of a prompt file; None for a line that is itself a prompt (it may begin with a brace).

    Args:
        line: the line.
        where: its place, for messages.
        json_lines: every line has to be an object (`is_jsonl`).

    Raises:
        LongalignError: the line is meant as an object, and is none.
    """
    if not json_lines and not line.lstrip().startswith("{"):
        return None
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        if not json_lines and not _LIKE_JSON.match(line):
            return None
        raise LongalignError(
            f"{where}: is no JSON object ({error}): mend the line, or give one prompt a line in a .txt file"
        ) from None
    if not isinstance(row, dict):
        raise LongalignError(
            f'{where}: should be a JSON object such as {{"prompt": "A fox."}}, not {line.strip()[:40]}'
        )
    return row


def prompt_in(row: Mapping[str, Any], where: str, keys: Iterable[str] = PROMPT_KEYS) -> tuple[str, str]:
    """The first of the keys that holds text in a row of named values, and that text.

    Args:
        row: name → value.
        where: its place, for messages.
        keys: names to look for, in this order.

    Raises:
        LongalignError: none of them holds text.
    """
    for key in keys:
        if isinstance(row.get(key), str):
            return key, row[key]
    raise LongalignError(f'{where}: no "prompt" in this JSON object (it has: {", ".join(row) or "nothing"})')
