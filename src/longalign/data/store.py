"""Tensors by key in sharded safetensors files. A shard is written whole or not at all."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longalign.errors import LongalignError
from longalign.runs import atomic_path

_OPEN_FILES = 64
_NOTES = "notes"


class Store:
    """A folder of shards ``00000.safetensors``, …; each key has named tensors and a note.

    Raises:
        LongalignError: a shard cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, tuple[int, Any]] = {}
        self._next = 0
        for path in sorted(folder.glob("[0-9]*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    notes = json.loads((file.metadata() or {})[_NOTES])
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                raise LongalignError(
                    f"{path}: is no shard of a cache, or a damaged one ({error}): remove it and run longalign cache "
                    "again"
                ) from None
            self._note(int(path.stem), notes)
            self._next = int(path.stem) + 1

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __len__(self) -> int:
        return len(self._found)

    def where(self, key: str) -> tuple[int, Any]:
        """The number of a key's shard, and its note."""
        return self._found[key]

    def write(self, entries: Mapping[str, tuple[Mapping[str, Tensor], Any]]) -> None:
        """One new shard.

        Args:
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
        notes = {key: note for key, (_, note) in entries.items()}
        with atomic_path(self.folder / _name(self._next)) as path:
            save_file(tensors, path, {_NOTES: json.dumps(notes)})
        self._note(self._next, notes)
        self._next += 1

    def _note(self, shard: int, notes: Mapping[str, Any]) -> None:
        for key, note in notes.items():
            self._found[key] = (shard, note)


class Reader:
    """Reads single tensors of a folder of shards; those used last stay mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
                self._open[shard] = safe_open(self.folder / _name(shard), "pt")
            self._open.move_to_end(shard)
            found: Tensor = self._open[shard].get_tensor(f"{key}.{part}")
            return found
        except (SafetensorError, OSError) as error:
            raise LongalignError(
                f"{self.folder / _name(shard)}: cannot be read ({error}): run longalign cache again"
            ) from None


def _name(shard: int) -> str:
    return f"{shard:05d}.safetensors"
