"""Tensors by key in sharded safetensors files. A shard is written whole or not at all."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longalign.errors import LongalignError
from longalign.paths import fetched, is_remote, local_file
from longalign.runs import atomic_path

_OPEN_FILES = 64
_NOTES = "notes"


class Store:
    """The keys of a folder of shards ``00000.safetensors``, …, each with its shard and its note.

    Args:
        folder: of the shards.
        below: only those with a smaller number; None: all.

    Raises:
        LongalignError: a shard cannot be read.
    """

    def __init__(self, folder: Path, below: int | None = None) -> None:
        self._found: dict[str, tuple[int, Any]] = {}
        for number in sorted(shard_numbers(folder)):
            if below is not None and number >= below:
                break
            for key, note in _notes_of(folder / _name(number)).items():
                self._found[key] = (number, note)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def where(self, key: str) -> tuple[int, Any]:
        """The number of a key's shard, and its note."""
        return self._found[key]


def shard_numbers(folder: Path) -> set[int]:
    """The numbers of the shards that are there.

    Args:
        folder: of the shards.
    """
    return {int(path.stem) for path in folder.glob("[0-9]*.safetensors")}


def next_shard(folder: Path) -> int:
    """The first number that no shard of a folder has, nor any after it.

    Args:
        folder: of the shards.
    """
    return 1 + max(shard_numbers(folder), default=-1)


def check_shards(folder: Path) -> None:
    """Reads the headers of all shards, and keeps nothing of them.

    Args:
        folder: of the shards.

    Raises:
        LongalignError: a shard is damaged.
    """
    for number in shard_numbers(folder):
        _notes_of(folder / _name(number))


def _notes_of(path: Path) -> dict[str, Any]:
    """Key → note of a shard."""
    try:
        with local_file(path) as local, safe_open(local, "pt") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {})[_NOTES])
            return found
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise LongalignError(
            f"{path}: is no shard of a cache, or a damaged one ({error}): remove it and run longalign cache again"
        ) from None


def write_shard(folder: Path, number: int, entries: Mapping[str, tuple[Mapping[str, Tensor], Any]]) -> None:
    """Writes a shard, whole; none where there are no entries.

    Args:
        folder: of the shards.
        number: of this one.
        entries: key → named tensors, and a note that JSON can hold.

    Raises:
        LongalignError: the disk refuses.
    """
    if not entries:
        return
    tensors = {
        f"{key}.{part}": tensor.detach().cpu().contiguous()
        for key, (parts, _) in entries.items()
        for part, tensor in parts.items()
    }
    save_noted(folder / _name(number), tensors, {key: note for key, (_, note) in entries.items()})


def save_noted(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Writes tensors with notes. As one note: safetensors writes several in an order that chance decides.

    Args:
        path: of the file.
        tensors: by name.
        notes: what JSON can hold, by name.

    Raises:
        LongalignError: the disk refuses.
    """
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, {_NOTES: json.dumps(notes)})
        except SafetensorError as error:  # safetensors raises this when the disk is full, among other things
            raise LongalignError(
                f"Cannot write {path}: {error}. Free some space: the same command goes on"
            ) from error


def notes_in(file: Any) -> dict[str, Any]:
    """What `save_noted` was given, of an open file; notes of earlier versions are several.

    Args:
        file: as `safe_open` gives it.

    Raises:
        ValueError: it has no such notes.
    """
    told = file.metadata() or {}
    found: dict[str, Any] = json.loads(told[_NOTES]) if _NOTES in told else told
    return found


class Reader:
    """Reads single tensors of the shards of a cache; those used last stay mapped.

    Args:
        folder: of the cache.
        kind: name of the folder of shards in it.
        parts: the caches that a merged one refers to: ``folder`` and, under the name of the kind, the number of its
            first shard here. None: the shards are in the folder itself.
    """

    def __init__(self, folder: Path, kind: str, parts: Sequence[Mapping[str, Any]] | None = None) -> None:
        told = parts or [{"folder": ".", kind: 0}]
        self._folders = [_beside(folder, part["folder"]) / kind for part in told]
        self._firsts = [int(part[kind]) for part in told]
        self._open: OrderedDict[int, Any] = OrderedDict()

    def read(self, shard: int, key: str, part: str) -> Tensor:
        """
        Raises:
            LongalignError: the shard is missing or damaged.
        """
        try:
            if shard not in self._open:
                if len(self._open) >= _OPEN_FILES:
                    self._open.popitem(last=False)
                self._open[shard] = safe_open(fetched(self._path(shard)), "pt")
            self._open.move_to_end(shard)
            found: Tensor = self._open[shard].get_tensor(f"{key}.{part}")
            return found
        except (SafetensorError, OSError) as error:
            raise LongalignError(
                f"{self._path(shard)}: cannot be read ({error}): run longalign cache again"
            ) from None

    def _path(self, shard: int) -> Path:
        of = bisect_right(self._firsts, shard) - 1
        return self._folders[of] / _name(shard - self._firsts[of])


def _beside(folder: Path, part: str) -> Path:
    """The folder of a part, as a merged cache names it."""
    if part == ".":
        return folder
    return folder / part if is_remote(folder) else Path(os.path.normpath(folder / part))


def _name(shard: int) -> str:
    return f"{shard:05d}.safetensors"
