"""Preference pairs by the name of their source."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from longalign.data.jsonl import JsonlPairs
from longalign.data.pairs import PreferenceData
from longalign.data.pickapic import PickaPicPairs
from longalign.errors import LongalignError
from longalign.published import how_to_get
from longalign.worlds import WORLDS, world


def load_pairs(
    source: str,
    *,
    split: str = "train",
    seed: int = 0,
    count: int = 100_000,
) -> PreferenceData:
    """Pairs by the name of their source.

    Args:
        source: ``stickers`` (the simulated raters), a ``.jsonl`` file, a ``.parquet`` file with Pick-a-Pic's columns,
            or a folder of such files or of the ``.arrow`` files that `datasets.Dataset.save_to_disk` writes.
        split, seed, count: which sticker pairs, and how many; a file is taken as it is.

    Raises:
        LongalignError: no such source, or one that cannot be trained on (the message says why).
    """
    if source in WORLDS:
        return cast("PreferenceData", world(source).pairs(count, split, seed))
    path = Path(source)
    if path.suffix in (".jsonl", ".ndjson") and path.is_file():
        return JsonlPairs(path)
    if path.is_dir() or (path.suffix in (".parquet", ".arrow") and path.is_file()):
        return PickaPicPairs(path)
    if not path.exists():
        raise LongalignError(
            f"{source}: no such file or folder of preference pairs ('stickers' is built in){how_to_get(source)}"
        )
    raise LongalignError(f"{source}: preference pairs are read from .jsonl, .parquet or .arrow files")
