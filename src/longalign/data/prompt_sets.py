"""Prompt sets of any size, one text after the other: lines, JSONL, parquet, datasets, WebDataset.

Only what a kind of file needs is imported, when it is opened; text, JSONL and WebDataset need nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from longalign.data.entries import TEXT_KEYS
from longalign.data.prompts import is_jsonl, json_object
from longalign.errors import LongalignError

_TARS = (".tar", ".tar.gz", ".tgz")
_METADATA = "metadata.jsonl"
_JSON_LINES = (".jsonl", ".ndjson")
_DATASET_FILES = ("dataset_info.json", "state.json", "dataset_dict.json")


def read_texts(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], column: str | None = None
) -> Iterator[str]:
    """Every text of every source, streamed; blank ones are passed over.

    Args:
        sources: one source or several: text files (a prompt a line), ``.jsonl``, ``.parquet``, ``.tar`` (WebDataset:
            ``.txt`` members, or ``.json`` with a caption), or ``-`` for lines on standard input; or folders: of a
            Hugging Face dataset (`save_to_disk`), of parquet files, of WebDataset shards, with a ``metadata.jsonl``, or
            of ``.txt`` files.
        column: the key or column that holds the text; else the first of ``caption``, ``prompt``, ``text``.

    Raises:
        LongalignError: a source that is missing, damaged or without such a column; a package that it needs is not
            installed (the message names it).
    """
    keys = (column,) if column else TEXT_KEYS
    sources = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    for source in sources:  # now, and not after an hour
        if source != "-" and not Path(source).exists():
            raise LongalignError(f"{source}: no such file or folder")
    return (text for source in sources for text in _texts(source, keys) if text.strip())


def _texts(source: str | os.PathLike[str], keys: tuple[str, ...]) -> Iterator[str]:
    if source == "-":
        return _plain(sys.stdin.buffer, "standard input", keys)
    path = Path(source)
    if path.is_dir():
        return _folder(path, keys)
    name = path.name.lower()
    if name.endswith(_TARS):
        return _tar(path, keys)
    if name.endswith(".parquet"):
        return _parquet(path, keys)
    return _file(path, keys, json_lines=name.endswith(_JSON_LINES))


def _folder(path: Path, keys: tuple[str, ...]) -> Iterator[str]:
    if (path / _METADATA).is_file():
        return _file(path / _METADATA, keys, json_lines=True)
    if any((path / name).is_file() for name in _DATASET_FILES):
        return _dataset(path, keys)
    for pattern in ("**/*.parquet", "**/*.tar", "**/*.jsonl", "**/*.txt"):
        if found := sorted(path.glob(pattern)):
            if pattern.endswith(".txt"):  # captions beside pictures: each file is one text
                return (file.read_text("utf-8", errors="replace") for file in found)
            return (text for file in found for text in _texts(file, keys))
    raise LongalignError(
        f"{path}: holds no dataset, no {_METADATA}, and no .parquet, .tar, .jsonl or .txt files"
    )


def _file(path: Path, keys: tuple[str, ...], json_lines: bool) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            yield from _plain(file, str(path), keys, json_lines)
    except OSError as error:
        raise LongalignError(f"{path}: cannot be read: {error.strerror}") from None


def _plain(
    file: Iterable[bytes], name: str, keys: tuple[str, ...], json_lines: bool = False
) -> Iterator[str]:
    """A text a line; a line that is a JSON object gives the text in it."""
    first = True
    for number, data in enumerate(file, 1):
        where = f"{name}, line {number}"
        try:
            line = data.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise LongalignError(f"{where}: is no UTF-8 text") from None
        if not line:
            continue
        if first:
            json_lines, first = json_lines or is_jsonl(name, line), False
        row = json_object(line, where, json_lines)
        yield line if row is None else _text_in(row, keys, where)


def _text_in(row: Any, keys: tuple[str, ...], where: str) -> str:
    if isinstance(row, dict):
        for key in keys:
            if isinstance(row.get(key), str):
                return row[key]
    names = ", ".join(row) if isinstance(row, dict) and row else "nothing"
    raise LongalignError(
        f"{where}: no text under {' or '.join(keys)} (it has: {names}); name the key with --column"
    )


def _column(names: Iterable[str], keys: tuple[str, ...], where: Path) -> str:
    names = list(names)
    for key in keys:
        if key in names:
            return key
    raise LongalignError(
        f"{where}: no column {' or '.join(keys)} (it has: {', '.join(names)}); name it with --column"
    )


def _optional(package: str, path: Path) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        name = package.partition(".")[0]
        raise LongalignError(
            f"{path}: reading this needs the package {name}: pip install {name} (or save the prompts as JSONL)"
        ) from None


def _parquet(path: Path, keys: tuple[str, ...]) -> Iterator[str]:
    parquet = _optional("pyarrow.parquet", path)
    try:
        file = parquet.ParquetFile(path)
        column = _column(file.schema_arrow.names, keys, path)
        for batch in file.iter_batches(columns=[column]):
            yield from (text for text in batch.column(0).to_pylist() if isinstance(text, str))
    except LongalignError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's errors are such
        raise LongalignError(f"{path}: cannot be read as parquet: {error}") from None


def _dataset(path: Path, keys: tuple[str, ...]) -> Iterator[str]:
    datasets = _optional("datasets", path)
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise LongalignError(f"{path}: cannot be read as a dataset: {error}") from None
    for part in loaded.values() if isinstance(loaded, dict) else [loaded]:
        column = _column(part.column_names, keys, path)
        texts = part.select_columns([column])  # else every picture would be decoded, too
        yield from (row[column] for row in texts if isinstance(row[column], str))


def _tar(path: Path, keys: tuple[str, ...]) -> Iterator[str]:
    """One text a sample: its ``.txt`` member, else what its ``.json`` member has under a key.

    Members of a sample share the name up to its first dot and stand together, as WebDataset wants it.
    """
    sample, text = None, None
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                folder, _, file = member.name.rpartition("/")
                stem, _, kind = file.partition(".")
                if (folder, stem) != sample:
                    if text is not None:
                        yield text
                    sample, text = (folder, stem), None
                if not member.isfile() or kind not in ("txt", "json"):
                    continue
                opened = archive.extractfile(member)
                data = opened.read().decode("utf-8", errors="replace") if opened else ""
                if kind == "txt":
                    text = data
                elif text is None:
                    text = _json_member(data, keys)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise LongalignError(f"{path}: cannot be read as a tar file: {error}") from None
    if text is not None:
        yield text


def _json_member(data: str, keys: tuple[str, ...]) -> str | None:
    try:
        row = json.loads(data)
    except json.JSONDecodeError:
        return None
    found = [row[key] for key in keys if isinstance(row, dict) and isinstance(row.get(key), str)]
    return found[0] if found else None


def count_texts(sources: Iterable[str | os.PathLike[str]]) -> int | None:
    """How many texts `read_texts` will give, for a progress bar; None where only reading them all would tell."""
    total = 0
    for source in sources:
        path = Path(source)
        if source == "-" or not path.is_file() or path.name.lower().endswith((*_TARS, ".parquet")):
            return None
        with open(path, "rb") as file:
            total += sum(1 for line in file if line.strip())
    return total
