"""Training data from a cache folder (`longalign.data.cache`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from longalign.data.buckets import Frame
from longalign.data.captioned import Example
from longalign.data.store import Reader, notes_in
from longalign.data.text_states import Padding, TextSide, TextStates
from longalign.errors import LongalignError
from longalign.paths import fetched, local_file, path_of
from longalign.runs import atomic_path
from longalign.weights.fingerprint import Fingerprint, difference

SETTINGS, ROWS, PADDING = "cache.json", "rows.npy", "padding.safetensors"
LATENTS, TEXTS = "latents", "texts"  # folders of shards
PARTS = "parts"  # the caches that a merged one refers to
# The bucket and frame of a picture (`longalign.data.buckets`); a caption's padded shape, whether it was cut, its bytes.
ROW = np.dtype(
    [
        ("row", "<i8"),
        ("picture", "S32"),
        ("picture_shard", "<u4"),
        ("text", "S32"),
        ("text_shard", "<u4"),
        ("clip", "<u4"),
        ("sd3_t5", "<u4"),
        ("t5", "<u4"),
        ("cut", "?"),
        ("bytes", "<u4"),
        ("bucket", "<u4", (2,)),
        ("frame", "<u4", (4,)),
    ]
)
# Of caches that were made before there were buckets: all pictures are square, and nothing is known of their frames.
_SQUARE_ROW = np.dtype([(name, ROW[name]) for name in ROW.names or () if name not in ("bucket", "frame")])


def is_cache(name: str | Path) -> bool:
    """Whether a folder is a cache."""
    return (path_of(name) / SETTINGS).is_file()


class CachedPictures(Dataset[Example]):
    """The rows of a cache folder. The list of them is mapped, so that processes share it.

    Attributes:
        padding: what `longalign.data.text_states.join` needs.
        bucket_of: (rows,) the number of each row's bucket, for `longalign.training.batches`; None where all pictures
            have one size.

    Raises:
        LongalignError: the cache is not complete, or a file of it is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = path_of(folder)
        try:
            self.settings: dict[str, Any] = json.loads((self.folder / SETTINGS).read_text())
            if not self.settings["complete"]:
                raise LongalignError(
                    f"{folder}: the cache is not complete: the same longalign cache command goes on with it"
                )
            self.rows = np.load(fetched(self.folder / ROWS), mmap_mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise LongalignError(f"{folder}: cannot be read as a cache: {error}") from None
        padding = read_padding(self.folder)
        if padding is None or self.rows.dtype not in (ROW, _SQUARE_ROW):
            raise LongalignError(f"{folder}: cannot be read as a cache: run longalign cache again")
        self.padding = padding
        self.bucket_of: np.ndarray | None = None
        if self.rows.dtype == ROW:
            sizes, numbers = np.unique(self.rows["bucket"], axis=0, return_inverse=True)
            self.bucket_of = numbers.reshape(-1) if len(sizes) > 1 else None
        parts = self.settings.get(PARTS)
        self._latents, self._texts = (Reader(self.folder, name, parts) for name in (LATENTS, TEXTS))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        latent = self._latents.read(int(row["picture_shard"]), row["picture"].decode(), "latent")
        key, shard = row["text"].decode(), int(row["text_shard"])

        def part(name: str, there: bool) -> Any:
            return self._texts.read(shard, key, name) if there else None

        shape = (int(row["clip"]), int(row["sd3_t5"]))
        states = TextStates(
            part("own", sum(shape) > 0),
            shape,
            part("t5", bool(row["t5"])),
            part("pooled", self.padding.pooled is not None),
            bool(row["cut"]),
        )
        frame = Frame(*row["frame"].tolist()) if self.rows.dtype == ROW else None
        return Example(latent, states, frame=frame)

    def check(self, vae: Any, texts: TextSide, size_px: int) -> None:
        """Was it made for this model, by this strategy, at this size?

        Raises:
            LongalignError: no; the message says what differs.
        """
        made = self.settings
        wanted = {"strategy": repr(texts.strategy), "length": texts.length, "size_px": size_px}
        for name, value in wanted.items():
            if made[name] != value:
                raise LongalignError(
                    f"{self.folder}: the cache was made with {name} {made[name]}, and {value} is wanted: run "
                    "longalign cache with that, or change the recipe"
                )
        modules = [vae, *texts.modules]
        noted = [made["vae"], *made["encoders"]]
        if len(modules) != len(noted):
            raise LongalignError(f"{self.folder}: the cache was made with other text encoders")
        for module, note in zip(modules, noted, strict=True):
            if told := difference(Fingerprint.from_json(note), module):
                raise LongalignError(
                    f"{self.folder}: the cache was made with another {type(module).__name__}: {told}"
                )


def write_rows(folder: Path, count: int, tables: Iterable[np.ndarray]) -> None:
    """Writes the index of a cache, a table at a time.

    Written and not mapped: where the disk is full, writing to a mapping ends the process.

    Args:
        folder: of the cache.
        count: rows of all tables.
        tables: (n,) of dtype `ROW` each.

    Raises:
        LongalignError: the disk refuses.
    """
    told = {"descr": np.lib.format.dtype_to_descr(ROW), "fortran_order": False, "shape": (count,)}
    with atomic_path(folder / ROWS) as path, open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, told)
        for table in tables:
            file.write(table.tobytes())


def read_padding(folder: Path, made_of: str | None = None) -> Padding | None:
    """What `longalign.data.cache` wrote; None where there is none, or it is of other encoders than ``made_of``."""
    path = folder / PADDING
    if not path.is_file():
        return None
    try:
        with local_file(path) as local, safe_open(local, "pt") as file:
            notes = notes_in(file)
            if made_of is not None and notes["made_of"] != made_of:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return padding_of(tensors, notes)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise LongalignError(f"{path}: cannot be read: {error}") from None


def padding_of(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> Padding:
    """What `padding_tensors` gave.

    Args:
        tensors: by name.
        notes: of the file.
    """
    padding = Padding(
        notes["family"], bool(int(notes["zeros"])), tensors.get("pad_star"), tensors.get("pooled")
    )
    for name, tensor in tensors.items():
        kind, *numbers = name.split(".")
        if kind == "own":
            padding.own[int(numbers[0]), int(numbers[1])] = tensor
        elif kind == "t5":
            padding.t5[int(numbers[0])] = tensor
    return padding


def padding_tensors(padding: Padding, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Padding as tensors by name and notes, for a safetensors file.

    Args:
        padding: what batches need.
        dtype: of the tensors.
    """
    tensors = {f"own.{a}.{b}": t for (a, b), t in padding.own.items()}
    tensors |= {f"t5.{length}": t for length, t in padding.t5.items()}
    single = (("pad_star", padding.pad_star), ("pooled", padding.pooled))
    tensors |= {name: t for name, t in single if t is not None}
    stored = {name: t.detach().cpu().to(dtype).contiguous() for name, t in sorted(tensors.items())}
    return stored, {"family": padding.family, "zeros": str(int(padding.zeros))}
