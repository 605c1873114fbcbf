"""Several caches as one, without writing their tensors again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longalign.data.cached import (
    LATENTS,
    PADDING,
    PARTS,
    ROW,
    SETTINGS,
    TEXTS,
    CachedPictures,
    padding_tensors,
    write_rows,
)
from longalign.data.row_encoder import STORED
from longalign.data.store import next_shard, save_noted
from longalign.errors import LongalignError
from longalign.runs import atomic_write_text, read_json_object

_ROWS_AT_ONCE = 65_536
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
_SAME = ("version", "size_px", "bucket_step_px", "strategy", "length", "stored")


@dataclass(frozen=True)
class MergeReport:
    """What `merge_caches` did.

    Attributes:
        caches: how many.
        rows: of the result.
        twice: rows with the picture and the caption of an earlier row.
    """

    caches: int
    rows: int
    twice: int

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def merge_caches(
    folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, unique: bool = False
) -> MergeReport:
    """Writes a cache whose index refers to the shards of others. These have to stay where they are.

    Args:
        folders: complete caches, of one model with the same settings.
        out: a new folder, or one of an earlier merge, which is written anew.
        unique: leave out rows with the picture and the caption of an earlier row.

    Raises:
        LongalignError: no cache, one that is not complete, or one of another model or other settings (the message says
            what differs); `out` holds something else.
    """
    if not folders:
        raise LongalignError("name the caches that are to be merged")
    out = Path(out)
    if out.is_dir() and any(out.iterdir()):
        known = (out / SETTINGS).is_file() and PARTS in read_json_object(out / SETTINGS)
        if not known:
            raise LongalignError(f"{out} already holds files. Choose another --out.")
    caches = [CachedPictures(Path(folder)) for folder in folders]
    first = caches[0]
    for cache in caches[1:]:
        _check_same(first, cache)
    padding, parts, shifts = first.padding, [], []
    latents = texts = 0
    for cache in caches:
        if cache.rows.dtype != ROW:
            raise LongalignError(f"{cache.folder}: is of an earlier version: run longalign cache again on it")
        padding = padding.filled_up(cache.padding)
        shifts.append((latents, texts))
        for part in cache.settings.get(PARTS) or [{"folder": ".", LATENTS: 0, TEXTS: 0}]:
            folder = os.path.normpath(cache.folder / part["folder"])
            parts.append(
                {
                    "folder": os.path.relpath(folder, out),
                    LATENTS: latents + part[LATENTS],
                    TEXTS: texts + part[TEXTS],
                }
            )
            counts = {kind: next_shard(Path(folder) / kind) for kind in (LATENTS, TEXTS)}
            ends = parts[-1][LATENTS] + counts[LATENTS], parts[-1][TEXTS] + counts[TEXTS]
        latents, texts = ends
    is_first = _is_first(caches)
    twice = int((~is_first).sum())
    kept = is_first if unique else np.ones_like(is_first)
    out.mkdir(parents=True, exist_ok=True)
    rows = int(kept.sum())
    write_rows(out, rows, _tables(caches, shifts, kept))
    tensors, notes = padding_tensors(padding, STORED[first.settings["stored"]])
    save_noted(out / PADDING, tensors, {**notes, "made_of": ""})
    told = {k: v for k, v in first.settings.items() if k not in (PARTS, "work")}
    atomic_write_text(out / SETTINGS, json.dumps({**told, PARTS: parts, "complete": True}, indent=1) + "\n")
    return MergeReport(len(caches), rows, twice)


def _chunks(cache: CachedPictures) -> Iterator[np.ndarray]:
    """The index of a cache, some rows at a time."""
    for begin in range(0, len(cache), _ROWS_AT_ONCE):
        yield np.array(cache.rows[begin : begin + _ROWS_AT_ONCE])


def _is_first(caches: Sequence[CachedPictures]) -> np.ndarray:
    """Whether no earlier row has the same picture and caption, of all rows. In memory: 16 bytes a row."""
    hashes = np.empty((sum(map(len, caches)), 2), np.uint64)
    at = 0
    for cache in caches:
        for table in _chunks(cache):
            # Keys are 32 hexadecimal digits, so four numbers each; both hashes mix all eight by odd factors.
            digits = [
                np.ascontiguousarray(table[k]).view(np.uint64).reshape(-1, 4) for k in ("picture", "text")
            ]
            for column, factor in enumerate(_FACTORS):
                found = np.zeros(len(table), np.uint64)
                for number in np.concatenate(digits, axis=1).T:
                    found = (found ^ number) * factor
                    found ^= found >> np.uint64(29)
                hashes[at : at + len(table), column] = found
            at += len(table)
    order = np.lexsort((hashes[:, 0], hashes[:, 1]))  # stable, so equal rows stay in order
    is_first = np.ones(len(hashes), bool)
    is_first[order[1:]] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
    return is_first


def _tables(
    caches: Sequence[CachedPictures], shifts: Sequence[tuple[int, int]], kept: np.ndarray
) -> Iterator[np.ndarray]:
    """The rows that are kept, with the numbers that shards and rows have in the merge."""
    at = rows_before = 0
    for cache, (latents, texts) in zip(caches, shifts, strict=True):
        last = -1
        for table in _chunks(cache):
            last = max(last, int(table["row"].max()))
            table["picture_shard"] += latents
            table["text_shard"] += texts
            table["row"] += rows_before
            yield table[kept[at : at + len(table)]]
            at += len(table)
        rows_before += last + 1


def _check_same(first: CachedPictures, other: CachedPictures) -> None:
    a, b = first.settings, other.settings
    for name in _SAME:
        if a.get(name) != b.get(name):
            raise LongalignError(
                f"{other.folder}: was made with {name} {b.get(name)}, and {first.folder} with {a.get(name)}: caches of "
                "one model and the same settings can be merged"
            )
    for name in ("vae", "encoders"):
        ours = [part["sha256"] for part in (a[name] if name == "encoders" else [a[name]])]
        theirs = [part["sha256"] for part in (b[name] if name == "encoders" else [b[name]])]
        if ours != theirs:
            what = "text encoders" if name == "encoders" else "VAE"
            raise LongalignError(f"{other.folder}: was made by another {what} than {first.folder}")
