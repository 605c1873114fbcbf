"""WebDataset shards: tar files in which members of one name (up to its first dot) belong together.

    000012.jpg  000012.txt        or        000012.png  000012.json with a caption in it

Only headers are read at first, and where each member's bytes lie is kept. So any sample can be read by itself, in any
order, and a run goes on at any row, which a stream of shards could not do. That wants plain tar, not tar.gz.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from longalign.data.entries import TEXT_KEYS, CaptionedPicture, Failure, Source, texts_in
from longalign.data.text_files import decode_text
from longalign.errors import LongalignError
from longalign.picture_formats import picture_suffixes

Place = tuple[int, int]  # first byte and size


class TarShards(Source):
    """The samples of some tar files, in order.

    Raises:
        LongalignError: no tar file, or a compressed one.
    """

    def __init__(self, shards: Sequence[Path], text_keys: Sequence[str] = TEXT_KEYS) -> None:
        self.shards, self.text_keys = list(shards), text_keys
        # shard, sample, picture, text, the text is JSON
        self._rows: list[tuple[int, str, Place | None, Place | None, bool]] = []
        for number, shard in enumerate(self.shards):
            self._index(number, shard)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> CaptionedPicture | Failure:
        number, sample, picture, text, is_json = self._rows[index]
        shard = self.shards[number]
        name = f"{shard.name}/{sample}"
        if picture is None:
            return Failure(name, f"has no picture ({', '.join(picture_suffixes())})")
        if text is None:
            return Failure(name, "has no caption (.txt or .json)")
        try:
            with shard.open("rb") as file:
                said, data = _read(file, text), _read(file, picture)
            caption = decode_text(said, name).strip()
            texts: list[str] | str = [caption]
            if is_json:
                row = json.loads(caption)
                texts = texts_in(row if isinstance(row, dict) else {}, self.text_keys)
                if isinstance(texts, str):
                    return Failure(name, f"{texts} in its JSON")
        except (OSError, ValueError) as error:
            return Failure(name, f"cannot be read: {str(error).removeprefix(f'{name}: ')}")
        return CaptionedPicture(data, texts[0], name, tuple(texts[1:]))

    def caption_counts(self) -> np.ndarray | None:
        """All JSON members are read: any of them may have a list."""
        counts = np.array([self._count(row) for row in self._rows], np.int64)
        return counts if (counts > 1).any() else None

    def _count(self, row: tuple[int, str, Place | None, Place | None, bool]) -> int:
        number, name, _, text, is_json = row
        if not is_json or text is None:
            return 1
        try:
            with self.shards[number].open("rb") as file:
                found = json.loads(decode_text(_read(file, text), name))
        except (OSError, ValueError):
            return 1
        texts = texts_in(found if isinstance(found, dict) else {}, self.text_keys)
        return len(texts) if isinstance(texts, list) else 1

    def _index(self, number: int, shard: Path) -> None:
        parts: dict[str, dict[str, Place]] = {}
        try:
            with shard.open("rb") as opened, tarfile.open(fileobj=opened, mode="r:") as archive:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps them all
                    if member.isfile():
                        folder, slash, base = member.name.rpartition("/")
                        key, dot, suffix = base.partition(".")
                        parts.setdefault(folder + slash + key, {})[f"{dot}{suffix}".lower()] = (
                            member.offset_data,
                            member.size,
                        )
        except (OSError, tarfile.TarError) as error:
            raise LongalignError(
                f"{shard}: cannot be read as a tar file ({error}); a compressed one has to be unpacked to plain .tar"
            ) from None
        for sample, members in parts.items():
            picture = next((members[s] for s in picture_suffixes() if s in members), None)
            # A key was asked for by name: then the JSON is meant.
            order = (".txt", ".json") if self.text_keys == TEXT_KEYS else (".json", ".txt")
            kind = next((s for s in order if s in members), None)
            text = None if kind is None else members[kind]
            self._rows.append((number, sample, picture, text, kind == ".json"))


def _read(file: object, place: Place) -> bytes:
    file.seek(place[0])  # type: ignore[attr-defined]
    data: bytes = file.read(place[1])  # type: ignore[attr-defined]
    if len(data) != place[1]:
        raise OSError("the shard ends in the middle of it")
    return data
