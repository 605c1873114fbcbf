"""Pictures that occur more than once: with the same bytes, or nearly alike by a perceptual hash."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from longalign.data.entries import CaptionedPicture, Failure, Source
from longalign.engine import Engine, Work, block_count, block_rows, run_work
from longalign.errors import LongalignError
from longalign.runs import atomic_path

_ROWS = 1024  # of a block
_BITS = 64
_HASHES = np.dtype([("digest", "V16"), ("look", "<u8"), ("read", "?")])


@dataclass(frozen=True)
class Group:
    """Rows with one picture.

    Attributes:
        rows: their numbers, in order; at least two.
        same: whether their bytes are equal; else they are nearly alike.
    """

    rows: list[int]
    same: bool


@dataclass(frozen=True)
class Duplicates:
    """What `find_duplicates` found.

    Attributes:
        rows: of the data.
        failed: rows that cannot be read.
        groups: in the order of their first rows.
    """

    rows: int
    failed: int
    groups: list[Group]

    @property
    def extra(self) -> int:
        """Rows that could be left out, so that each picture stays once."""
        return sum(len(group.rows) - 1 for group in self.groups)


def find_duplicates(
    load_source: Callable[[], Source],
    *,
    near: int | None = None,
    folder: Path | None = None,
    engine: Engine | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Duplicates:
    """Groups of rows with the same picture.

    Args:
        load_source: opens the data; a function that can be sent to other processes.
        near: also pictures whose perceptual hashes (64 bits) differ in so many bits at most; groups are joined where
            they touch. None: only pictures with the same bytes.
        folder: keeps the hashes, so that the same call goes on; None: a temporary one, which Ray's workers share on one
            machine alone.
        engine: where the work is done; None: in this process.
        on_rows: called with the number of rows of each block.

    Raises:
        LongalignError: more than 15 bits; ImageHash is needed and not installed; the disk is full.
    """
    if near is not None:
        if not 0 <= near <= 15:
            raise LongalignError(
                f"--near {near}: should be from 0 to 15 bits of {_BITS}; 4 is strict, 10 is loose"
            )
        _perceptual()
    rows = len(load_source())
    with tempfile.TemporaryDirectory(prefix="longalign-") as temporary:
        work = HashWork(load_source, str(folder or temporary), rows, near is not None)
        run_work(work, engine, on_rows)
        parts = [np.load(work.path(b), allow_pickle=False) for b in range(work.blocks)]
    hashes = np.concatenate(parts) if parts else np.zeros(0, _HASHES)
    readable = np.flatnonzero(hashes["read"])
    _, first, same = np.unique(hashes["digest"][readable], return_index=True, return_inverse=True)
    label = first[same.reshape(-1)]  # of each readable row, the place of the first one with these bytes
    joined = label if near is None else _joined(label, hashes["look"][readable], near)
    groups = [
        Group(readable[members].tolist(), bool((label[members] == label[members[0]]).all()))
        for members in _groups(joined)
    ]
    return Duplicates(rows, rows - len(readable), groups)


@dataclass
class HashWork(Work):
    """Hashes of blocks of pictures: 25 bytes each.

    Attributes:
        load_source: as of `find_duplicates`.
        folder: of the parts.
        rows: of the source.
        looks: whether perceptual hashes are computed, too.
    """

    load_source: Callable[[], Source]
    folder: str
    rows: int
    looks: bool

    @property
    def blocks(self) -> int:
        return block_count(_ROWS, self.rows)

    def path(self, block: int) -> Path:
        """Where the hashes of a block are.

        Args:
            block: its number.
        """
        return Path(self.folder) / f"{'looks' if self.looks else 'bytes'}-{block:06d}.npy"

    def has(self, block: int) -> bool:
        return self.path(block).is_file()

    def open(self) -> None:
        self._source = self.load_source()
        self._look = _perceptual() if self.looks else None

    def do(self, block: int) -> int:
        numbers = block_rows(block, _ROWS, self.rows)
        found = np.zeros(len(numbers), _HASHES)
        for place, i in enumerate(numbers):
            found[place] = self._hashed(self._source[i])
        with atomic_path(self.path(block)) as path:
            np.save(path, found, allow_pickle=False)
        return len(numbers)

    def _hashed(self, entry: CaptionedPicture | Failure) -> tuple[bytes, int, bool]:
        if isinstance(entry, Failure):
            return b"", 0, False
        try:
            digest = hashlib.blake2b(entry.content(), digest_size=16).digest()
            look = 0 if self._look is None else self._look(entry.picture())
        except LongalignError:
            return b"", 0, False
        return digest, look, True


def _perceptual() -> Callable[[Any], int]:
    """Picture → 64 bits: which of its low frequencies are above their median (pHash)."""
    try:
        import imagehash
    except ImportError:
        raise LongalignError(
            "pictures that are nearly alike are found with ImageHash, which is not installed: "
            "pip install 'longalign[near]'"
        ) from None

    def look(image: Any) -> int:
        return int(str(imagehash.phash(image)), 16)

    return look


# Two hashes within d bits agree in one of d + 1 bands at least (pigeonhole principle).
def _joined(label: np.ndarray, looks: np.ndarray, near: int) -> np.ndarray:
    """(N,) labels, where rows whose hashes are near get one label."""
    values, places = np.unique(looks, return_inverse=True)
    parent = np.arange(len(values) + len(label))

    def root(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = int(parent[x])
        return x

    def join(a: int, b: int) -> None:
        a, b = root(a), root(b)
        parent[max(a, b)] = min(a, b)

    edges = np.linspace(0, _BITS, near + 2).astype(int)
    for low, high in pairwise(edges.tolist()):
        bands = (values >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(bands, kind="stable")
        cuts = np.flatnonzero(np.diff(bands[order])) + 1
        for alike in np.split(order, cuts):
            for k, one in enumerate(alike[:-1]):
                others = alike[k + 1 :]
                distances = np.bitwise_count(values[others] ^ values[one])
                for other in others[distances <= near]:
                    join(int(one), int(other))
    n = len(values)
    for row, (place, same) in enumerate(zip(places.reshape(-1).tolist(), label.tolist(), strict=True)):
        join(n + row, place)
        join(n + row, n + same)
    return np.array([root(n + row) for row in range(len(label))], np.int64)


def _groups(label: np.ndarray) -> Iterator[np.ndarray]:
    """Places with one label, at least two, in order; groups in the order of their first places."""
    order = np.argsort(label, kind="stable")
    cuts = np.flatnonzero(np.diff(label[order])) + 1
    groups = [members for members in np.split(order, cuts) if len(members) > 1]
    return iter(sorted(groups, key=lambda members: int(members[0])))
