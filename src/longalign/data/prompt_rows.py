"""Prompts for an evaluation, each with its name and the record that the benchmark has of it.

Some benchmarks have several rows of one prompt: DPG-Bench's table has a row for each question (arXiv 2403.05135),
LongT2IBench's lists have one for each picture (arXiv 2512.09271). Such rows become one prompt here, and its record
keeps all of them under ``rows``.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from longalign.data.arrow import arrow_table, files_of, group_count, row_group, schema
from longalign.data.of_worlds import names_world, parse_world
from longalign.data.prompts import PROMPT_KEYS, parse_lines, prompt_in
from longalign.data.sources import METADATA
from longalign.data.text_files import decode_text, delimiter_of
from longalign.errors import LongalignError
from longalign.published import how_to_get
from longalign.worlds import WORLDS

ID_KEYS = ("item_id", "id", "prompt_id", "idx", "index")
_KEYS = (*PROMPT_KEYS, "en_prompt_text", "prompt_en", "long_prompt", "Prompt", "Text", "Caption")
# marks of tables with several rows of a prompt → the column that these rows share
_SEVERAL = {("proposition_id", "item_id"): "item_id", ("img_path", "en_prompt_text"): "en_prompt_text"}
_LISTS = ("evaluation_metadata.jsonl", "prompts.jsonl", *METADATA)
_LIST_FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_TABLES = (".parquet", ".arrow")
_PLACES = 5  # digits of the name of a prompt that has none, as GenEval names the folders of its pictures

Place = str  # of a row, for messages: file and line
Record = Mapping[str, Any]
_Rows = Iterator[tuple[Place, "str | Record"]]  # text is a line without a record


@dataclass(frozen=True)
class PromptRow:
    """One prompt of an evaluation.

    Attributes:
        id: its name, unique in its file; that of its place (``00000``, ``00001``, …) where the file gives it none.
        prompt: the text.
        record: the row as it was read: `include` of GenEval, `rows` of a table with several rows of a prompt, the place
            of a world's prompt. Empty for a line of text.
    """

    id: str
    prompt: str
    record: Record


def read_prompt_rows(name: str | os.PathLike[str], limit: int | None = None) -> list[PromptRow]:
    """The prompts of a file, of a folder, or of a world's split that no model was trained on.

    Args:
        name: a text file (a prompt a line); ``.jsonl``, ``.json`` (a list, or an object by names), ``.csv``, ``.tsv``,
            ``.parquet`` or ``.arrow`` with a row a prompt; a folder of ``.txt`` files with a prompt each (DPG-Bench),
            or one that holds such a list; or a world and a number, such as ``stickers:1000`` or
            ``stickers:1000:objects=7-9:seed=1`` (options `split`, `seed`, `objects`,
            `referring`, and `retold`: how often each prompt says everything, each time in other words).
        limit: read so many prompts, the first ones; None for all.

    Returns:
        the rows in the order of the file. Names come from the first of `ID_KEYS` that the first row has; prompts from
        the first of prompt, text, caption or the name that a known benchmark gives them.

    Raises:
        LongalignError: there is no such file, folder or world; a row that has no prompt or an empty one; two rows of
            one name (the message has both places); an unknown option; a limit below 1.
    """
    if limit is not None and limit < 1:
        raise LongalignError(f"the limit of prompts must be 1 or more, not {limit}")
    told = os.fspath(name)
    if names_world(told):
        return _of_world(told, limit)
    path = Path(told)
    if not path.exists():
        of_worlds = "; ".join(f"{of_world}:1000 are prompts of a world" for of_world in WORLDS)
        raise LongalignError(f"{path}: no such file or folder{how_to_get(path)} ({of_worlds})")
    try:
        rows = _folder(path) if path.is_dir() else _file(path)
        found = list(islice(_named(rows), limit))
    except OSError as error:
        raise LongalignError(f"{path}: cannot be read: {error.strerror}") from None
    if not found:
        raise LongalignError(f"{path}: has no prompts")
    return found


def _named(rows: _Rows) -> Iterator[PromptRow]:
    """Rows with their names. Several rows of one prompt are joined where the table is known for them."""
    first = next(rows, None)
    if first is None:
        return
    columns: Record = {} if isinstance(first[1], str) else first[1]
    rows = chain([first], rows)
    shared = next((key for marks, key in _SEVERAL.items() if all(mark in columns for mark in marks)), None)
    if shared is not None:
        rows = _joined(rows, shared)
    id_key = next((key for key in ID_KEYS if key in columns), None)
    places: dict[str, Place] = {}
    for number, (place, row) in enumerate(rows):
        record: Record = {} if isinstance(row, str) else row
        prompt = row if isinstance(row, str) else prompt_in(row, place, _KEYS)[1]
        if not prompt.strip():
            raise LongalignError(f"{place}: the prompt is empty: write what the picture should show")
        given = f"{number:0{_PLACES}}" if id_key is None else record.get(id_key)
        if isinstance(given, bool) or not isinstance(given, (str, int)) or not str(given).strip():
            raise LongalignError(
                f"{place}: {id_key} should be text or a number, as in other rows, not {given!r}"
            )
        if (before := places.setdefault(str(given), place)) != place:
            raise LongalignError(f"{place}: the name {given!r} stands in {before}, too: names must be unique")
        yield PromptRow(str(given), prompt, record)


def _joined(rows: _Rows, shared: str) -> _Rows:
    """One row for all that have the same value under a key. Names of the first stay, and ``rows`` has them all."""
    joined: dict[Any, tuple[Place, list[Record]]] = {}
    for place, row in rows:
        value = None if isinstance(row, str) else row.get(shared)
        if isinstance(row, str) or not isinstance(value, (str, int)):
            raise LongalignError(f"{place}: no {shared} in this row")
        joined.setdefault(value, (place, []))[1].append(row)
    for value, (place, of_prompt) in joined.items():
        key, text = prompt_in(of_prompt[0], place, _KEYS)
        names = {name: of_prompt[0][name] for name in ID_KEYS if name in of_prompt[0]}
        yield place, {**names, shared: value, key: text, "rows": of_prompt}


def _file(path: Path) -> _Rows:
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        return _table(path)
    data = path.read_bytes()
    if suffix in (".csv", ".tsv"):
        return _csv(data, str(path))
    if suffix == ".json" and (whole := _json(data, path)) is not None:
        return iter(whole)
    return ((place, line if row is None else row) for place, line, row in parse_lines(data, str(path)))


def _folder(path: Path) -> _Rows:
    """A list of prompts in the folder, else its ``.txt`` files, else its parquet files."""
    if (path / "prompts").is_dir():  # as DPG-Bench is published
        path = path / "prompts"
    lists = [path / name for name in _LISTS if (path / name).is_file()]
    lists += sorted(
        file for file in path.iterdir() if file.suffix.lower() in _LIST_FILES and file not in lists
    )
    if len(lists) == 1 or (lists and lists[0].name in _LISTS):
        return _file(lists[0])
    if texts := sorted(path.glob("*.txt")):
        return (
            (str(file), {"item_id": file.stem, "prompt": decode_text(file.read_bytes(), str(file)).strip()})
            for file in texts
        )
    if any(file.suffix.lower() in _TABLES for file in path.iterdir()):
        return _table(path)
    several = ", ".join(file.name for file in lists)
    raise LongalignError(
        f"{path}: holds several lists ({several}): name one of them"
        if lists
        else f"{path}: holds no prompts: no .txt files, no .jsonl, .json, .csv, .tsv or .parquet file"
    )


def _table(path: Path) -> _Rows:
    """Rows of parquet or Arrow files, without the columns of pictures."""
    number = 0
    for file in files_of(path):
        types = schema(file)
        names = tuple(field.name for field in types if "binary" not in str(field.type))
        for group in range(group_count(file)):
            part = (
                arrow_table(file).select(names) if file.suffix == ".arrow" else row_group(file, group, names)
            )
            for record in part.to_pylist():
                number += 1
                yield f"{path}, row {number}", record


def _csv(data: bytes, name: str) -> _Rows:
    text = decode_text(data, name)
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=delimiter_of(text, (*_KEYS, *ID_KEYS)), strict=True
    )
    try:
        for record in reader:
            place = f"{name}, line {reader.line_num}"
            if None in record:
                raise LongalignError(
                    f"{place}: has more cells than the header: quote texts that hold separators"
                )
            yield place, record
    except csv.Error as error:
        raise LongalignError(f"{name}, line {reader.line_num}: cannot be read as CSV: {error}") from None


def _json(data: bytes, path: Path) -> list[tuple[Place, str | Record]] | None:
    """The rows of a JSON list, or of an object from names to prompts; None for a file with an object a line."""
    try:
        whole = json.loads(decode_text(data, str(path)))
    except json.JSONDecodeError:
        return None  # JSON lines, or damaged: who reads lines says so
    if isinstance(whole, dict):
        if any(key in whole for key in _KEYS):
            return [(str(path), whole)]
        if len(whole) == 1 and isinstance(only := next(iter(whole.values())), list):  # {"prompts": […]}
            whole = only
        else:
            return [(f"{path}, {name}", _with_name(name, value)) for name, value in whole.items()]
    if not isinstance(whole, list):
        raise LongalignError(f"{path}: should be a list of prompts, not {str(whole)[:40]}")
    rows: list[tuple[Place, str | Record]] = []
    for number, entry in enumerate(whole, 1):
        place = f"{path}, entry {number}"
        if not isinstance(entry, (str, dict)):
            raise LongalignError(f"{place}: should be text or an object with a prompt, not {str(entry)[:40]}")
        rows.append((place, entry))
    return rows


def _with_name(name: str, value: Any) -> Record:
    told = value if isinstance(value, dict) else {PROMPT_KEYS[0]: value}
    return told if any(key in told for key in ID_KEYS) else {ID_KEYS[0]: name, **told}


def _of_world(told: str, limit: int | None) -> list[PromptRow]:
    """Captions of a world's held-out pictures; nothing is drawn."""
    named = parse_world(told)
    pictures = named.open()
    try:
        texts = [pictures.text(index) for index in range(min(named.count, limit or named.count))]
    except (KeyError, IndexError, ValueError) as error:
        raise LongalignError(f"{told}: the world {named.world} has no such pictures: {error}") from error
    return [
        PromptRow(
            f"{index:0{_PLACES}}",
            text,
            {
                "world": named.world,
                "index": index,
                "split": named.split,
                "seed": named.seed,
                "objects": list(named.objects[index % len(named.objects)]),
            }
            | ({"referring": named.referring} if named.referring else {}),
        )
        for index, text in enumerate(texts)
    ]
