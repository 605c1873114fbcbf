"""Captioned pictures by the name of their source."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

from longalign.data.entries import TEXT_KEYS, CaptionedPicture, Failure, Source
from longalign.data.files import CocoCaptions, CsvRows, JsonLines, TextFiles
from longalign.data.of_worlds import names_world, parse_world
from longalign.data.several_captions import Captions, with_captions
from longalign.data.tables import CaptionTable
from longalign.data.tars import TarShards
from longalign.errors import LongalignError
from longalign.paths import path_of
from longalign.plugins import Table
from longalign.published import how_to_get
from longalign.worlds import WORLDS, world

SOURCES = Table("source", {})  # name → function or class without arguments that gives a `Source`
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet")
Objects = tuple[int, int]


def open_source(
    name: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    column: str | None = None,
) -> Source:
    """Captioned pictures from files.

    Args:
        name: a path, or a URL (``s3://…``, see `longalign.paths`). Of a file: ``.jsonl``, ``.csv``, ``.tsv``,
            ``.parquet`` or ``.arrow`` with a row a picture, COCO's captions as ``.json``, or a WebDataset shard
            (``.tar``). Of a folder: with ``metadata.jsonl``, ``.csv``, ``.tsv`` or ``.parquet`` (as the imagefolder of
            `datasets`), with ``.parquet``, ``.arrow`` or ``.tar`` files, or with pictures and a ``.txt`` beside each.
        images: the folder that picture paths are relative to; else that of the file.
        column: key or column of the captions; else the first of caption, prompt, text, captions, prompts, texts.

    Raises:
        LongalignError: no such file or folder, or nothing of that kind in it. What is wrong with one row becomes a
            `Failure`.
    """
    path = path_of(name)
    if not path.exists():
        raise LongalignError(f"{path}: no such file or folder{how_to_get(str(path))}")
    folder = None if images is None else path_of(images)
    keys = (column,) if column else TEXT_KEYS
    if path.is_dir():
        found = next((path / m for m in METADATA if (path / m).is_file()), None)
        if found is None:
            if any(path.glob("*.parquet")) or any(path.glob("*.arrow")):
                return CaptionTable(path, folder, keys)
            if shards := sorted(path.glob("*.tar")):
                return TarShards(shards, keys)
            return TextFiles(path)
        path = found
    if path.suffix in (".parquet", ".arrow"):
        return CaptionTable(path, folder, keys)
    if path.suffix == ".tar":
        return TarShards([path], keys)
    if path.suffix in (".csv", ".tsv"):
        return CsvRows(path, folder, keys)
    if path.suffix == ".json" and _is_one_object(path):
        return CocoCaptions(path, folder)
    return JsonLines(path, folder, keys)


def named_source(
    name: str,
    *,
    split: str = "train",
    seed: int = 0,
    count: int = 100_000,
    objects: tuple[Objects, ...] = ((1, 9),),
    referring: float = 0.0,
    images: str | None = None,
    column: str | None = None,
    captions: Captions = "all",
) -> Source:
    """Captioned pictures by name: of a plugin (`SOURCES`), of a world (`longalign.worlds`), else `open_source`.

    A world's name may say how many: ``stickers:1000`` (`longalign.data.of_worlds`).

    Args:
        captions: of pictures with a list of them: `longalign.data.several_captions.with_captions`.
    """
    if name in SOURCES:
        return with_captions(cast("Source", SOURCES[name]()), captions)
    if name in WORLDS:
        return cast("Source", world(name).pictures(count, split, seed, objects, referring))
    if names_world(name):
        return cast("Source", parse_world(name, split).open())
    return with_captions(open_source(name, images=images, column=column), captions)


def _is_one_object(path: Path) -> bool:
    """Whether a file is one JSON object and not one a line."""
    with path.open("rb") as file:
        try:
            json.loads(file.readline())
        except ValueError:
            return True
        return not file.readline().strip()


__all__ = ["CaptionedPicture", "Failure", "Source", "named_source", "open_source"]
