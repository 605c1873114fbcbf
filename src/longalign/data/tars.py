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

from longalign.data.entries import SUFFIXES, TEXT_KEYS, CaptionedPicture, Failure, Source, first_text
from longalign.errors import LongalignError

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
            return Failure(name, f"has no picture ({', '.join(SUFFIXES)})")
        if text is None:
            return Failure(name, "has no caption (.txt or .json)")
        try:
            with open(shard, "rb") as file:
                said, data = _read(file, text), _read(file, picture)
            caption = said.decode("utf-8-sig").strip()
            if is_json:
                row = json.loads(caption)
                found = first_text(row, self.text_keys) if isinstance(row, dict) else None
                if found is None:
                    return Failure(
                        name, f"has no caption: none of the keys {', '.join(self.text_keys)} in its JSON"
                    )
                caption = found
        except (OSError, ValueError) as error:
            return Failure(name, f"cannot be read: {error}")
        return CaptionedPicture(data, caption, name)

    def _index(self, number: int, shard: Path) -> None:
        parts: dict[str, dict[str, Place]] = {}
        try:
            with tarfile.open(shard, "r:") as archive:
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
            picture = next((members[s] for s in SUFFIXES if s in members), None)
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
