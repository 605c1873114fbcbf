"""Captioned pictures of any source → WebDataset tars or parquet files, block by block (`longalign.engine`)."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from longalign.data.arrow import pyarrow
from longalign.data.block_log import BlockLog
from longalign.data.captioned import usable
from longalign.data.entries import CaptionedPicture, Failure, Source
from longalign.engine import Engine, Work, block_count, block_rows, run_work
from longalign.errors import LongalignError
from longalign.runs import atomic_path, atomic_write_text, json_line, read_json_object

FORMATS = {"webdataset": ".tar", "parquet": ".parquet"}
_SETTINGS, _LEFT_OUT = "convert.json", "left_out"
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
# So that `datasets` decodes the pictures.
_FEATURES = {"image": {"_type": "Image"}}


@dataclass(frozen=True)
class ConvertReport:
    """What `convert` did.

    Attributes:
        rows: that were written, now or before.
        skipped: that cannot be used.
        shards: files.
    """

    rows: int
    skipped: int
    shards: int

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def convert(
    load_source: Callable[[], Source],
    out: Path,
    *,
    name: str = "the data",
    format: str = "webdataset",
    rows: int = 10_000,
    engine: Engine | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> ConvertReport:
    """Writes shards ``00000.tar`` or ``00000.parquet``, …, which `open_source` reads as the same data.

    Files of pictures are copied as they are; drawn pictures become PNG. A picture with several captions has all of them
    (``.json`` in a tar, a list in parquet). Each shard is whole or absent, and the same call goes on with those that
    are missing. What cannot be read is listed in ``skipped.jsonl``.

    Args:
        load_source: opens the data; a function that can be sent to other processes.
        out: the folder.
        name: of the data, for messages.
        format: one of `FORMATS`.
        rows: of a shard.
        engine: where the work is done; None: in this process.
        on_rows: called with the number of rows of each shard.

    Raises:
        LongalignError: an unknown format; the folder has other files, or shards of other settings; more than 5 % of the
            rows cannot be used; the disk is full.
    """
    if format not in FORMATS:
        raise LongalignError(f"--format {format}: should be one of {', '.join(FORMATS)}")
    source = load_source()
    counts = source.caption_counts()
    several = counts is not None and bool((counts > 1).any())
    settings = {"data": name, "format": format, "rows": rows, "count": len(source)}
    if out.is_dir() and any(out.iterdir()):
        earlier = read_json_object(out / _SETTINGS) if (out / _SETTINGS).is_file() else None
        if earlier != settings:
            raise LongalignError(
                f"{out} already holds {'other files' if earlier is None else 'shards of other data or settings'}. "
                "Choose another --out."
            )
    atomic_write_text(out / _SETTINGS, json_line(settings))
    work = ConvertWork(load_source, str(out), len(source), rows, format, several)
    log = BlockLog(work, len(source), name, out, work.failures)
    log.begin()
    run_work(work, engine, on_rows, log.add)
    skipped = log.write()
    return ConvertReport(len(source) - skipped, skipped, work.blocks)


@dataclass
class ConvertWork(Work):
    """Writes shards.

    Attributes:
        load_source: as of `convert`.
        out: the folder.
        rows: of the source.
        size: rows of a shard.
        format: one of `FORMATS`.
        several: whether some pictures have several captions.
    """

    load_source: Callable[[], Source]
    out: str
    rows: int
    size: int
    format: str
    several: bool

    @property
    def blocks(self) -> int:
        return block_count(self.size, self.rows)

    def path(self, block: int) -> Path:
        """The shard of a block.

        Args:
            block: its number.
        """
        return Path(self.out) / f"{block:05d}{FORMATS[self.format]}"

    def has(self, block: int) -> bool:
        return self.path(block).is_file()

    def open(self) -> None:
        self._source = self.load_source()

    def do(self, block: int) -> int:
        numbers = block_rows(block, self.size, self.rows)
        failures: list[Failure] = []
        write = _write_tar if self.format == "webdataset" else _write_parquet
        with atomic_path(self.path(block)) as path:
            write(path, self._entries(numbers, failures), self.several)
            if failures:  # first: the shard says that the block is whole
                lines = (json_line({"name": f.name, "reason": f.reason}) for f in failures)
                atomic_write_text(self._left_out(block), "".join(lines))
        return len(numbers)

    def failures(self, block: int) -> tuple[int, list[Failure]]:
        """How many rows a block has, and those that cannot be used.

        Args:
            block: its number.
        """
        rows, file = len(block_rows(block, self.size, self.rows)), self._left_out(block)
        if not file.is_file():
            return rows, []
        return rows, [Failure(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]

    def _left_out(self, block: int) -> Path:
        return Path(self.out) / _LEFT_OUT / f"{block:05d}.jsonl"

    def _entries(self, numbers: range, failures: list[Failure]) -> Any:
        """Number, encoded picture, its suffix, and captions of each row that can be used."""
        for i in numbers:
            entry = usable(self._source[i])
            if isinstance(entry, CaptionedPicture):
                try:
                    yield i, *_encoded(entry), entry.texts
                    continue
                except LongalignError as error:
                    entry = Failure(entry.name, str(error))
            failures.append(entry)


def _encoded(entry: CaptionedPicture) -> tuple[bytes, str]:
    """The bytes of a picture's file, and the suffix that suits them; PNG of one that has no file."""
    if isinstance(entry.image, Image.Image):
        buffer = io.BytesIO()
        entry.image.save(buffer, "PNG")
        return buffer.getvalue(), "png"
    data = entry.content()
    try:
        with Image.open(io.BytesIO(data)) as image:
            suffix = _SUFFIXES.get(image.format or "")
            if suffix is not None:
                return data, suffix
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise LongalignError(f"cannot be read as a picture: {error}") from None
    buffer = io.BytesIO()  # of a kind that few programs read from a tar
    entry.picture().save(buffer, "PNG")
    return buffer.getvalue(), "png"


def _write_tar(path: Path, entries: Any, several: bool) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)  # no time, no owner: the same bytes each time
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        for number, data, suffix, texts in entries:
            add(f"{number:09d}.{suffix}", data)
            if len(texts) > 1:
                told = json.dumps({"captions": list(texts)}, ensure_ascii=False)
                add(f"{number:09d}.json", told.encode("utf-8", "replace"))
            else:
                add(f"{number:09d}.txt", texts[0].encode("utf-8", "replace"))


def _write_parquet(path: Path, entries: Any, several: bool) -> None:
    pa = pyarrow()
    text = pa.list_(pa.string()) if several else pa.string()
    kind = {"_type": "Value", "dtype": "string"}
    features = {**_FEATURES, "text": [kind] if several else kind}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("text", text)],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    with pa.parquet.ParquetWriter(path, schema) as writer:
        group: list[dict[str, Any]] = []
        for number, data, suffix, texts in entries:
            told = [t.encode("utf-8", "replace").decode() for t in texts]
            name = f"{number:09d}.{suffix}"
            group.append({"image": {"bytes": data, "path": name}, "text": told if several else told[0]})
            if len(group) == _GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


_GROUP = 256  # rows of a parquet row group, which is what is read at once
