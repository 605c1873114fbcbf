"""`CacheBuilder`: latents and text-encoder outputs, computed once.

    cache.json             what it was made with
    rows.npy               the index: a record a row of the data, with the shards of its picture and its caption
    latents/00000.safetensors …
    texts/00000.safetensors …
    padding.safetensors    pad* and the empty prompt
    skipped.jsonl          rows that cannot be used
    blocks/                parts of the index, until all are there

Rows are done in blocks (`longalign.data.cache_work`); the shards of a block are written whole. A command that was
stopped goes on with the blocks that are missing. A command on a complete cache looks at all rows, and computes what no
shard has: whether a caption was changed, a picture, or the model. What is no longer needed stays: remove the folder to
be rid of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from longalign.data.block_log import BlockLog
from longalign.data.buckets import Buckets, are_enlarged, describe
from longalign.data.cache_work import BLOCKS, CacheWork
from longalign.data.cached import (
    LATENTS,
    PADDING,
    PARTS,
    ROWS,
    SETTINGS,
    TEXTS,
    padding_tensors,
    read_padding,
    write_rows,
)
from longalign.data.entries import Source
from longalign.data.row_encoder import RowEncoder, digest
from longalign.data.store import check_shards, next_shard, save_noted
from longalign.data.text_states import Padding, TextSide
from longalign.engine import Engine, run_work
from longalign.errors import LongalignError
from longalign.paths import is_remote, path_of, remove_tree
from longalign.runs import atomic_write_text, read_json_object, remove_leftovers


@dataclass(frozen=True)
class CacheReport:
    """What `build_cache` did.

    Attributes:
        rows: that can be trained on. skipped: that cannot.
        latents, texts: computed now; the others were there.
        latent_bytes, text_bytes: of a row on average.
        padded_text_bytes: what padded text states would take.
        buckets: what `longalign.data.buckets.describe` says; None without buckets.
    """

    rows: int
    skipped: int
    latents: int
    texts: int
    latent_bytes: int
    text_bytes: int
    padded_text_bytes: int
    buckets: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class CacheBuilder:
    """Fills a cache folder.

    Args:
        out: the folder.
        pipe: a diffusers pipeline.
        texts: its text side.
        size_px: side of the squares that pictures are cut to, where there are no buckets.
        buckets: sizes that pictures are cut to instead.
        model: its name, to be noted.
        stored: dtype of what is stored.
        at_once: rows of a block, and what an interruption loses at most.
        batch_size: most pictures at once in the VAE.

    Raises:
        LongalignError: the folder holds other files, or a merge of caches; a shard is damaged; an unknown dtype.
    """

    def __init__(
        self,
        out: Path,
        pipe: Any,
        texts: TextSide,
        size_px: int,
        *,
        buckets: Buckets | None = None,
        model: str = "",
        stored: str = "bfloat16",
        at_once: int = 1024,
        batch_size: int = 16,
    ) -> None:
        self._set_up(
            out,
            RowEncoder(
                pipe, texts, size_px, buckets=buckets, model=model, stored=stored, batch_size=batch_size
            ),
            at_once,
        )

    @classmethod
    def of(cls, out: Path, encoder: RowEncoder, at_once: int = 1024) -> CacheBuilder:
        """The same, of an encoder that is there already.

        Args:
            out: the folder.
            encoder: the model, with the settings of the cache.
            at_once: rows of a block.

        Raises:
            LongalignError: as the class.
        """
        found = cls.__new__(cls)
        found._set_up(out, encoder, at_once)
        return found

    def _set_up(self, out: Path, encoder: RowEncoder, at_once: int) -> None:
        self.encoder, self.out, self.at_once = encoder, path_of(out), at_once
        self._earlier = _earlier(self.out)
        for folder in (LATENTS, TEXTS):
            check_shards(self.out / folder)
        self._note(self._earlier.get("work"), complete=False)

    def build(
        self,
        source: Source,
        name: str = "the data",
        on_rows: Callable[[int], None] = lambda rows: None,
        *,
        engine: Engine | None = None,
        load_source: Callable[[], Source] | None = None,
        load_encoder: Callable[[], RowEncoder] | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> CacheReport:
        """Make the cache hold all rows of a source.

        Args:
            source: the rows.
            name: of the data. A command that was stopped goes on with data of the same name.
            on_rows: called with the number of rows of each block.
            engine: where the work is done; None: in this process.
            load_source, load_encoder: give the same to other processes; functions that can be pickled.
            reading: how the source reads the data, in JSON. A command that was stopped goes on where it is the same.

        Raises:
            LongalignError: more than 5 % of the rows cannot be used, or the disk is full. What is done stays done.
        """
        for folder in (self.out, *(self.out / name for name in (LATENTS, TEXTS, BLOCKS))):
            remove_leftovers(folder)  # of a command that was killed
        told = self._begin(source, {"name": name, **(reading or {})})
        here = engine is None or engine.on == "local"
        work = CacheWork(
            str(self.out),
            len(source),
            self.at_once,
            told["first"],
            source if here else None,
            self.encoder if here else None,
            load_source,
            load_encoder,
        )
        work.remove_broken()
        log = BlockLog(work, len(source), name, self.out, work.failures)
        log.begin()
        done: list[int] = []

        def on_block(block: int) -> None:
            done.append(block)
            log.add(block)

        run_work(work, engine, on_rows, on_block)
        skipped = log.write()
        rows = self._join(work)
        counts = [work.part(block)[2:4] for block in done]
        latents, texts = (sum(c[k] for c in counts) for k in range(2))
        self._note(None, complete=True)
        remove_tree(self.out / BLOCKS)
        return self._report(rows, skipped, latents, texts)

    def _begin(self, source: Source, reading: Mapping[str, Any]) -> dict[str, Any]:
        """What the blocks depend on: of the command that was stopped, if it was this one; else a new one begins."""
        file = getattr(source, "path", None)
        stat = file.stat() if isinstance(file, Path) and file.is_file() else None
        told = {
            "rows": len(source),
            "size": self.at_once,
            "batch_size": self.encoder.batch_size,
            "reading": json.loads(json.dumps(reading)),
            "file": None if stat is None else [stat.st_size, stat.st_mtime_ns],
            "settings": digest(json.dumps(self.encoder.settings).encode()),
        }
        earlier = self._earlier.get("work")
        if earlier is not None and {name: earlier.get(name) for name in told} == told:
            return dict(earlier)
        remove_tree(self.out / BLOCKS)
        told["first"] = max(next_shard(self.out / LATENTS), next_shard(self.out / TEXTS))
        self._note(told, complete=False)
        return told

    def _join(self, work: CacheWork) -> np.ndarray:
        """The index of all blocks, in order."""
        count = sum(len(work.part(block).rows) for block in range(work.blocks))
        if not count:
            raise LongalignError(f"{self.out}: no row of the data can be used")
        padding = read_padding(self.out, self.encoder.of_texts)

        def tables() -> Iterator[np.ndarray]:
            nonlocal padding
            for block in range(work.blocks):
                part = work.part(block)
                padding = (
                    padding.filled_up(part.padding) if padding and part.padding else padding or part.padding
                )
                yield part.rows

        write_rows(self.out, count, tables())
        self._write_padding(padding or self.encoder.texts.padding)
        if is_remote(self.out):
            with (self.out / ROWS).open("rb") as file:
                return cast(np.ndarray, np.load(file))
        return np.load(self.out / ROWS, mmap_mode="r")

    def _write_padding(self, padding: Padding) -> None:
        self.padding = padding
        tensors, notes = padding_tensors(padding, self.encoder.dtype)
        save_noted(self.out / PADDING, tensors, {**notes, "made_of": self.encoder.of_texts})

    def _note(self, work: dict[str, Any] | None, *, complete: bool) -> None:
        told = {**self.encoder.settings, "complete": complete, **({} if work is None else {"work": work})}
        atomic_write_text(self.out / SETTINGS, json.dumps(told, indent=1) + "\n")

    def _report(self, rows: np.ndarray, skipped: int, latents: int, texts: int) -> CacheReport:
        size = self.encoder.dtype.itemsize
        padding = self.padding
        width = next((t.shape[-1] for t in padding.own.values()), 0)
        t5_width = next((t.shape[-1] for t in padding.t5.values()), 0)
        pooled = 0 if padding.pooled is None else len(padding.pooled)
        padded = width * (rows["clip"] + rows["sd3_t5"]) + t5_width * rows["t5"] + pooled
        factor = 2 ** (len(self.encoder.pipe.vae.config.block_out_channels) - 1)
        latents_a_row = (rows["bucket"] // factor).prod(1).mean()
        return CacheReport(
            rows=len(rows),
            skipped=skipped,
            latents=latents,
            texts=texts,
            latent_bytes=round(self.encoder.pipe.vae.config.latent_channels * float(latents_a_row) * size),
            text_bytes=round(float(rows["bytes"].mean())),
            padded_text_bytes=round(float(padded.mean() * size)),
            buckets=None if self.encoder.buckets is None else _described(rows, self.encoder.buckets),
        )


def _earlier(out: Path) -> dict[str, Any]:
    """The settings of the cache in a folder; none of an empty folder."""
    if out.exists() and not out.is_dir():
        raise LongalignError(f"{out} is a file; a cache needs a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return {}
    if not (out / SETTINGS).is_file():
        raise LongalignError(f"{out} already holds files, and no cache. Choose another --out.")
    found = read_json_object(out / SETTINGS)
    if PARTS in found:
        raise LongalignError(f"{out}: is a merge of caches: go on with those, and merge them again")
    return found


def _described(rows: np.ndarray, buckets: Buckets) -> str:
    sizes, cut = rows["frame"][:, :2], rows["bucket"]
    enlarged, beyond = are_enlarged(sizes, cut).sum(), buckets.are_beyond(sizes).sum()
    return describe(list(map(tuple, cut.tolist())), int(enlarged), int(beyond))
