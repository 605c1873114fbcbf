"""Preference pairs with Pick-a-Pic's columns, from parquet files or a saved Hugging Face dataset.

The columns ``caption`` (the prompt), ``jpg_0``, ``jpg_1`` (encoded pictures), ``label_0``, ``label_1`` (1 and 0, 0 and
1, or ½ each) are Pick-a-Pic's; ``caption_0`` and ``caption_1`` hold the long captions, which one has to add. Rows whose
``has_label`` is false are left out.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from longalign.data import entries
from longalign.data.arrow import (
    arrow_table,
    files_of,
    group_count,
    pyarrow,
    row_group,
    schema,
)
from longalign.data.pairs import (
    Pair,
    PreferenceData,
    check_labels,
)
from longalign.errors import LongalignError

COLUMNS = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
CAPTIONS = ("caption_0", "caption_1")
_GROUPS_IN_MEMORY = 4


class PickaPicPairs(PreferenceData):
    """The labelled rows of one file, or of all ``.parquet`` or all ``.arrow`` files of a folder.

    Labels are read and checked at once, all else when it is asked for. Arrow files (`Dataset.save_to_disk`) are mapped
    into memory, so their rows may be asked for in any order. Of parquet whole row groups have to be read, the last
    four of which are kept: for training in random order save such data as Arrow first.

    Raises:
        LongalignError: pyarrow is not installed, no such files, a missing column, labels that are none, no labelled
            row, or ties only.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        pyarrow()
        self.path = Path(path)
        self._files = files_of(self.path)
        self._columns = self._check_columns()
        self._table = lru_cache(maxsize=None)(arrow_table)
        self._group = lru_cache(maxsize=_GROUPS_IN_MEMORY)(row_group)
        self._parts: list[tuple[Path, int]] = []  # file and row group
        self._uncaptioned: str | None = None
        sizes: list[int] = []
        rows: list[int] = []
        preferred: list[float] = []
        first = 0
        for file in self._files:
            for group in range(group_count(file)):
                labels = self._labels(file, group)
                self._parts.append((file, group))
                sizes.append(len(labels))
                rows += [first + i for i, y in enumerate(labels) if y is not None]
                first += len(labels)
                preferred += [y for y in labels if y is not None]
        self._starts = [0, *accumulate(sizes)]
        self._rows = rows
        self._preferred = preferred
        check_labels(preferred, str(path))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Pair:
        row, where = self._read(index, self._columns)
        captions = [row.get(name) or None for name in CAPTIONS]
        return Pair(
            image_a=_decode(row["jpg_0"], f"{where}, jpg_0"),
            image_b=_decode(row["jpg_1"], f"{where}, jpg_1"),
            prompt=row["caption"] or "",
            preferred=self._preferred[index],
            caption_a=captions[0],
            caption_b=captions[1],
        )

    def texts(self, index: int) -> list[str]:
        names = [name for name in ("caption", *CAPTIONS) if name in self._columns]
        row, _ = self._read(index, names)
        return [row[name] for name in CAPTIONS if row.get(name)] or [row["caption"] or ""]

    def without_captions(self) -> str | None:
        if missing := [name for name in CAPTIONS if name not in self._columns]:
            return f"{self.path}: no column {missing[0]!r}"
        return self._uncaptioned

    def _read(self, index: int, names: list[str]) -> tuple[dict[str, Any], str]:
        row = self._rows[index]
        part = bisect_right(self._starts, row) - 1
        file, group = self._parts[part]
        inside = row - self._starts[part]
        table = (
            self._table(file) if file.suffix == ".arrow" else self._group(file, group, tuple(self._columns))
        )
        return table.select(names).slice(inside, 1).to_pylist()[0], f"{file}, row group {group}, row {inside}"

    def _check_columns(self) -> list[str]:
        """The columns that are read: those of all files."""
        schemas = {file: schema(file).names for file in self._files}
        for file, names in schemas.items():
            if missing := [name for name in COLUMNS if name not in names]:
                has = ", ".join(names) or "nothing"
                raise LongalignError(
                    f"{file}: no column {missing[0]!r}; Pick-a-Pic's are {', '.join(COLUMNS)} (it has: {has})"
                )
        return [name for name in (*COLUMNS, *CAPTIONS) if all(name in names for names in schemas.values())]

    def _labels(self, file: Path, group: int) -> list[float | None]:
        """``preferred`` of each row, None for rows without a label. Notes the first row without long captions."""
        wanted = ("label_0", "label_1", "has_label", *CAPTIONS)
        names = [name for name in wanted if name in schema(file).names]
        table = (
            arrow_table(file).select(names)
            if file.suffix == ".arrow"
            else row_group(file, group, tuple(names))
        )
        found: list[float | None] = []
        for i, row in enumerate(table.to_pylist()):
            y, other = row["label_0"], row["label_1"]
            where = f"{file}, row group {group}, row {i}"
            if row.get("has_label") is False:
                found.append(None)
                continue
            if y is None or other is None or not 0 <= y <= 1 or abs(y + other - 1) > 1e-6:
                raise LongalignError(
                    f"{where}: label_0 and label_1 must be shares that add up to 1, not {y} and {other}"
                )
            if self._uncaptioned is None and not all(row.get(name) for name in CAPTIONS):
                self._uncaptioned = where
            found.append(float(y))
        return found


def _decode(value: Any, where: str) -> np.ndarray:
    """Encoded bytes, or `datasets`' image (a dict with ``bytes``) → uint8 (H, W, 3)."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        raise LongalignError(f"{where}: holds no picture")
    try:
        return np.asarray(entries.decode(data, where))
    except LongalignError as error:
        raise LongalignError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from error
