"""Several caches as one, without writing their tensors again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from longalign.data.cached import (
    LATENTS,
    PADDING,
    PARTS,
    ROW,
    ROWS,
    SETTINGS,
    TEXTS,
    CachedPictures,
    padding_tensors,
)
from longalign.data.row_encoder import STORED
from longalign.data.store import next_shard
from longalign.errors import LongalignError
from longalign.runs import atomic_path, atomic_write_text, read_json_object

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
    padding, parts, tables, rows_before = first.padding, [], [], 0
    latents = texts = 0
    for cache in caches:
        if cache.rows.dtype != ROW:
            raise LongalignError(f"{cache.folder}: is of an earlier version: run longalign cache again on it")
        padding = padding.filled_up(cache.padding)
        table = np.array(cache.rows)
        table["picture_shard"] += latents
        table["text_shard"] += texts
        table["row"] += rows_before
        tables.append(table)
        rows_before = int(table["row"].max()) + 1 if len(table) else rows_before
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
    whole = np.concatenate(tables)
    keys = np.empty(len(whole), [("picture", "S32"), ("text", "S32")])
    keys["picture"], keys["text"] = whole["picture"], whole["text"]
    _, kept = np.unique(keys, return_index=True)
    twice = len(whole) - len(kept)
    if unique:
        whole = whole[np.sort(kept)]
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / ROWS) as path:
        np.save(path, whole)
    tensors, notes = padding_tensors(padding, STORED[first.settings["stored"]])
    with atomic_path(out / PADDING) as path:
        save_file(tensors, path, {**notes, "made_of": ""})
    told = {k: v for k, v in first.settings.items() if k not in (PARTS, "work")}
    atomic_write_text(out / SETTINGS, json.dumps({**told, PARTS: parts, "complete": True}, indent=1) + "\n")
    return MergeReport(len(caches), len(whole), twice)


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
