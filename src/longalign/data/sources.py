"""Captioned pictures by the name of their source."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from longalign.data.entries import TEXT_KEYS, Entry, Failure, Source
from longalign.data.files import CocoCaptions, CsvRows, JsonLines, TextFiles
from longalign.errors import LongalignError

if TYPE_CHECKING:
    from longalign.stickers.world import Scene

STICKERS = "stickers"
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
Objects = tuple[int, int]


class StickerScenes(Source):
    """Random scenes with captions that state everything, drawn when they are asked for.

    Args:
        count: how many.
        split, seed: which series of scenes; those of different splits never meet.
        objects: least and most stickers of a scene; of several such ranges scenes take one after the other.
        referring: share of captions with sentences that refer to the one before ("It stands on a red disc.").
    """

    def __init__(
        self,
        count: int,
        split: str = "train",
        seed: int = 0,
        objects: tuple[Objects, ...] = ((1, 9),),
        referring: float = 0.0,
    ) -> None:
        self.count, self.split, self.seed = count, split, seed
        self.objects, self.referring = objects, referring

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Entry:
        return Entry(self.picture(index), self.text(index), f"scene {index}")

    def picture(self, index: int) -> Image.Image:
        """The scene, drawn."""
        from longalign.stickers.world import render

        return render(self._scene(index))

    def text(self, index: int) -> str:
        """Its caption; nothing is drawn for it."""
        from longalign.stickers.captions import caption, text_of

        rng = np.random.default_rng([self.seed, index])
        refers = bool(rng.random() < self.referring)
        return text_of(caption(self._scene(index), rng, referring=refers))

    def _scene(self, index: int) -> Scene:
        from longalign.stickers.world import scene

        if not 0 <= index < self.count:
            raise IndexError(index)
        objects = self.objects[index % len(self.objects)]
        return scene(index, objects=objects, split=self.split, seed=self.seed)


def open_source(
    name: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    column: str | None = None,
) -> Source:
    """Captioned pictures from files.

    Args:
        name: a file: ``.jsonl``, ``.csv``, ``.parquet`` or ``.arrow`` with a row a picture, COCO's captions as
            ``.json``, or a WebDataset shard (``.tar``); or a folder: with ``metadata.jsonl``, ``.csv`` or ``.parquet``
            (as the imagefolder of `datasets`), with ``.parquet``, ``.arrow`` or ``.tar`` files, or with pictures and a
            ``.txt`` beside each.
        images: the folder that picture paths are relative to; else that of the file.
        column: key or column of the captions; else the first of caption, prompt, text.

    Raises:
        LongalignError: no such file or folder, or nothing of that kind in it. What is wrong with one row becomes a
            `Failure`.
    """
    path = Path(name)
    if not path.exists():
        raise LongalignError(f"{path}: no such file or folder")
    folder = None if images is None else Path(images)
    keys = (column,) if column else TEXT_KEYS
    if path.is_dir():
        found = next((path / m for m in METADATA if (path / m).is_file()), None)
        if found is None:
            if any(path.glob("*.parquet")) or any(path.glob("*.arrow")):
                from longalign.data.tables import CaptionTable

                return CaptionTable(path, folder, keys)
            if shards := sorted(path.glob("*.tar")):
                from longalign.data.tars import TarShards

                return TarShards(shards, keys)
            return TextFiles(path)
        path = found
    if path.suffix in (".parquet", ".arrow"):
        from longalign.data.tables import CaptionTable

        return CaptionTable(path, folder, keys)
    if path.suffix == ".tar":
        from longalign.data.tars import TarShards

        return TarShards([path], keys)
    if path.suffix == ".csv":
        return CsvRows(path, folder, keys)
    if path.suffix == ".json" and _is_one_object(path):
        return CocoCaptions(path, folder)
    return JsonLines(path, folder, keys)


def named_source(
    name: str,
    *,
    split: str = "train",
    seed: int = 0,
    count: int = 100_000,
    objects: tuple[Objects, ...] = ((1, 9),),
    referring: float = 0.0,
    images: str | None = None,
    column: str | None = None,
) -> Source:
    """``stickers`` (`StickerScenes`), or `open_source`, which takes files whole."""
    if name == STICKERS:
        return StickerScenes(count, split, seed, objects, referring)
    return open_source(name, images=images, column=column)


def _is_one_object(path: Path) -> bool:
    """Whether a file is one JSON object and not one a line."""
    with open(path, "rb") as file:
        try:
            json.loads(file.readline())
        except ValueError:
            return True
        return not file.readline().strip()


__all__ = ["Entry", "Failure", "Source", "StickerScenes", "named_source", "open_source"]
