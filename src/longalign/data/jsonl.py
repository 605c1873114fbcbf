"""Preference pairs from a JSONL file: one object a line, pictures as paths relative to the file.

{"image_a": "a.png", "image_b": "b.png", "preferred": 1, "prompt": "…", "caption_a": "…", "caption_b": "…"}
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longalign.data.pairs import (
    Pair,
    PreferenceData,
    check_labels,
)
from longalign.errors import LongalignError
from longalign.preference.images import load_image

KEYS = ("image_a", "image_b", "preferred", "prompt")
CAPTIONS = ("caption_a", "caption_b")
CHECKS = ("true_a", "false_a", "true_b", "false_b")


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    image_a: Path
    image_b: Path
    preferred: float
    prompt: str
    caption_a: str | None
    caption_b: str | None
    checks: tuple[tuple[str, ...], ...]


class JsonlPairs(PreferenceData):
    """The pairs of a JSONL file. All lines are checked at once, pictures are read when they are asked for.

    ``preferred`` is 1 where a is preferred, 0 where b is, 0.5 for a tie; a share of raters in between is taken as
    it is. The long captions may be missing, which the single-value loss alone can do with. ``true_a``, ``false_a``,
    ``true_b`` and ``false_b`` are lists of sentences, if there are any (`longalign.data.preferences.Pair`).

    Raises:
        LongalignError: a line that is no such object, or names a picture that is not there (line and field are
            named), no line at all, or ties only.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise LongalignError(f"{path}: cannot be read as JSONL: {error}") from error
        lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        self._rows = [self._row(i, line) for i, line in lines]
        check_labels([row.preferred for row in self._rows], str(path))
        self._uncaptioned = next((r.line for r in self._rows if None in (r.caption_a, r.caption_b)), None)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Pair:
        row = self._rows[index]
        where = self._place(row.line)
        return Pair(
            image_a=_read(row.image_a, f"{where}, image_a"),
            image_b=_read(row.image_b, f"{where}, image_b"),
            prompt=row.prompt,
            preferred=row.preferred,
            caption_a=row.caption_a,
            caption_b=row.caption_b,
            **dict(zip(CHECKS, row.checks, strict=True)),
        )

    def texts(self, index: int) -> list[str]:
        row = self._rows[index]
        return [c for c in (row.caption_a, row.caption_b) if c is not None] or [row.prompt]

    def without_captions(self) -> str | None:
        return None if self._uncaptioned is None else self._place(self._uncaptioned)

    def _place(self, line: int) -> str:
        return f"{self.path}, line {line}"

    def _row(self, line: int, text: str) -> _Row:
        where = self._place(line)
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise LongalignError(f"{where}: is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise LongalignError(f"{where}: must be an object with {', '.join(KEYS)}")
        for key in KEYS:
            if row.get(key) is None:
                has = ", ".join(row) or "nothing"
                raise LongalignError(f'{where}: no "{key}" in this object (it has: {has})')
        for key in ("image_a", "image_b", "prompt", *CAPTIONS):
            if not isinstance(row.get(key), (str, type(None))):
                raise LongalignError(f"{where}, {key}: must be a string, not {row[key]!r}")
        images = [self.path.parent / row[key] for key in ("image_a", "image_b")]
        for key, image in zip(("image_a", "image_b"), images, strict=True):
            if not image.is_file():
                raise LongalignError(f"{where}, {key}: {image}: no such image file")
        captions = [row.get(key) or None for key in CAPTIONS]
        checks = [row.get(key) or [] for key in CHECKS]
        for key, said in zip(CHECKS, checks, strict=True):
            if not isinstance(said, list) or not all(isinstance(text, str) and text.strip() for text in said):
                raise LongalignError(f"{where}, {key}: must be a list of sentences, not {said!r}")
        return _Row(
            line,
            images[0],
            images[1],
            _preferred(row["preferred"], where),
            row["prompt"],
            captions[0],
            captions[1],
            tuple(map(tuple, checks)),
        )


def _read(path: Path, where: str) -> np.ndarray:
    """uint8 (H, W, 3)."""
    try:
        return np.asarray(load_image(path))
    except LongalignError as error:
        raise LongalignError(f"{where}: {error}") from error


def _preferred(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise LongalignError(
            f"{where}, preferred: must be 1 (a is preferred), 0 (b is) or 0.5 (a tie), not {value!r}"
        )
    return float(value)
