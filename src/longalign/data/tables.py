"""Captioned pictures in parquet files or a saved Hugging Face dataset.

Pictures are paths (``path``, ``file_name``, …) or encoded bytes (``image``, as `datasets` stores them, or ``jpg``),
captions are text (``caption``, ``text``, …). Columns of paths and captions are held in memory as Arrow, without an
object a row; of parquet with the pictures in it whole row groups are read and the last four kept: for random order
save such data as Arrow.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from longalign.data.arrow import (
    arrow_table,
    files_of,
    group_count,
    parquet_file,
    row_group,
    schema,
)
from longalign.data.entries import IMAGE_KEYS, TEXT_KEYS, CaptionedPicture, Failure, Source, texts_of
from longalign.errors import LongalignError

_IMAGE_COLUMNS = ("image", "jpg", "png", *IMAGE_KEYS)
_GROUPS_IN_MEMORY = 4


class CaptionTable(Source):
    """The rows of one file, or of all ``.parquet`` or all ``.arrow`` files of a folder.

    Args:
        folder: which picture paths are relative to; else that of the files.

    Raises:
        LongalignError: pyarrow is not installed, no such files, or a missing column.
    """

    def __init__(self, path: Path, folder: Path | None = None, text_keys: Sequence[str] = TEXT_KEYS) -> None:
        self._files = files_of(path)
        self.folder = folder or self._files[0].parent
        self._image, self._text = self._columns(text_keys)
        types = schema(self._files[0])
        kept = 2 * sum(map(group_count, self._files)) if self._is_text(types) else _GROUPS_IN_MEMORY
        self._table = lru_cache(maxsize=None)(arrow_table)
        self._group = lru_cache(maxsize=kept)(row_group)
        self._parts = [(file, group) for file in self._files for group in range(group_count(file))]
        self._starts = [0, *accumulate(self._rows_in(*part) for part in self._parts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> CaptionedPicture | Failure:
        if not 0 <= index < len(self):
            raise IndexError(index)
        at = bisect_right(self._starts, index) - 1
        file, group = self._parts[at]
        inside = index - self._starts[at]
        names = (self._image, self._text)
        table = self._table(file) if file.suffix == ".arrow" else self._group(file, group, names)
        row = {name: table.column(name)[inside].as_py() for name in names}
        image, text = row[self._image], row[self._text]
        where = (
            f"{file.name}, row group {group}, row {inside}"
            if file.suffix != ".arrow"
            else f"{file.name}, row {inside}"
        )
        texts = texts_of(text)
        if not texts:
            return Failure(where, f"has no caption in the column {self._text}")
        if isinstance(image, dict):  # datasets' feature Image
            image = image.get("bytes") or image.get("path")
        if not image:
            return Failure(where, f"has no picture in the column {self._image}")
        if isinstance(image, str):
            return CaptionedPicture(self.folder / image, texts[0], image, tuple(texts[1:]))
        return CaptionedPicture(bytes(image), texts[0], where, tuple(texts[1:]))

    def caption_counts(self) -> np.ndarray | None:
        """Lengths of lists, where the column of captions has lists. Nulls and empty captions are not counted."""
        if "list" not in str(schema(self._files[0]).field(self._text).type):
            return None
        counts = []
        for file, group in self._parts:
            table = self._table(file) if file.suffix == ".arrow" else row_group(file, group, (self._text,))
            counts += [max(len(texts_of(value)), 1) for value in table.column(self._text).to_pylist()]
        return np.array(counts, np.int64)

    def _columns(self, text_keys: Sequence[str]) -> tuple[str, str]:
        """Of pictures and of captions: the first that all files have."""
        names = [schema(file).names for file in self._files]
        found = []
        for what, wanted in (("picture", _IMAGE_COLUMNS), ("caption", text_keys)):
            column = next((w for w in wanted if all(w in n for n in names)), None)
            if column is None:
                raise LongalignError(
                    f"{self._files[0]}: no column of {what}s: none of {', '.join(dict.fromkeys(wanted))} "
                    f"(it has: {', '.join(names[0])})"
                )
            found.append(column)
        return found[0], found[1]

    def _is_text(self, types: Any) -> bool:
        return str(types.field(self._image).type) in ("string", "large_string")

    def _rows_in(self, file: Path, group: int) -> int:
        if file.suffix == ".arrow":
            return self._table(file).num_rows
        return parquet_file(file).metadata.row_group(group).num_rows
