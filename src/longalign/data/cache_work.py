"""A cache block by block, by any process (`longalign.engine`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longalign.data.cached import LATENTS, ROW, TEXTS, padding_of, padding_tensors, read_padding
from longalign.data.entries import Failure, Source
from longalign.data.row_encoder import Prepared, RowEncoder
from longalign.data.store import Store, notes_in, save_noted, shard_numbers, write_shard
from longalign.data.text_states import Padding
from longalign.engine import Work, block_count, block_rows
from longalign.errors import LongalignError
from longalign.paths import local_file, path_of

BLOCKS = "blocks"  # a folder of the parts, until all are there
_TABLE = "rows"  # name of the table among the tensors of a part


class Part(NamedTuple):
    """What is known of a block.

    Attributes:
        rows: (n,) of dtype `longalign.data.cached.ROW`.
        failures: rows that cannot be used.
        latents, texts: how many were computed.
        padding: what its captions need besides themselves; None where none was encoded.
    """

    rows: np.ndarray
    failures: list[Failure]
    latents: int
    texts: int
    padding: Padding | None


@dataclass
class CacheWork(Work):
    """Computes the latents and text states of blocks of rows.

    Shards of block b are numbers ``first`` + b. They have what no shard below ``first`` has: those are of earlier
    commands, and stay as they are while this one runs. What two blocks have in common each of them computes for itself.

    Attributes:
        out: the cache folder.
        rows: of all blocks.
        size: rows of a block.
        first: the number of the first shard.
        source, encoder: in place of loading them; for this process alone.
        load_source, load_encoder: functions that can be sent to other processes.
    """

    out: str
    rows: int
    size: int
    first: int
    source: Source | None = None
    encoder: RowEncoder | None = None
    load_source: Callable[[], Source] | None = None
    load_encoder: Callable[[], RowEncoder] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "source": None, "encoder": None}

    @property
    def blocks(self) -> int:
        return block_count(self.size, self.rows)

    def path(self, block: int) -> Path:
        """Where the part of a block is.

        Args:
            block: its number.
        """
        return path_of(self.out) / BLOCKS / f"{block:06d}.safetensors"

    def has(self, block: int) -> bool:
        return self.path(block).is_file()

    def open(self) -> None:
        if self.source is None or self.encoder is None:
            if self.load_source is None or self.load_encoder is None:
                raise LongalignError("other processes need functions that load the data and the model")
            self.source, self.encoder = self.load_source(), self.load_encoder()
        if len(self.source) != self.rows:
            raise LongalignError(
                f"the data have {len(self.source):,} rows here and {self.rows:,} where the command was started"
            )
        out = path_of(self.out)
        self._latents = Store(out / LATENTS, below=self.first)
        self._texts = Store(out / TEXTS, below=self.first)
        self._padding = read_padding(
            out, self.encoder.of_texts
        )  # of an earlier command; written anew at the end

    def do(self, block: int) -> int:
        assert self.encoder is not None and self.source is not None
        encoder, shard = self.encoder, self.first + block
        numbers = block_rows(block, self.size, self.rows)
        found: list[Prepared | Failure] = []
        latents: dict[str, Tensor] = {}
        readers = (partial(self.source.__getitem__, i) for i in numbers)
        for some in encoder.prepare_all(readers, self._latents.__contains__):
            new = {
                p.key: p.pixels
                for p in some
                if isinstance(p, Prepared)
                and p.pixels is not None
                and p.key not in self._latents
                and p.key not in latents
            }
            latents |= encoder.latents(new)
            found += [p if isinstance(p, Failure) else p.without_pixels() for p in some]
        good = [(i, p) for i, p in zip(numbers, found, strict=True) if isinstance(p, Prepared)]
        wanted = {p.text_key: p.text for _, p in good if p.text_key not in self._texts}
        encoder.texts.forget_padding()  # which captions share a batch decides its last bits
        texts = encoder.captions(wanted) if wanted else {}
        encodes_padding = self._fill_padding({p.text_key: p.text for _, p in good if p.text_key not in texts})
        out = path_of(self.out)
        write_shard(out / LATENTS, shard, {key: ({"latent": t}, None) for key, t in latents.items()})
        write_shard(out / TEXTS, shard, texts)

        def row(i: int, p: Prepared) -> tuple[Any, ...]:
            picture = shard if p.key in latents else self._latents.where(p.key)[0]
            text, note = (
                (shard, texts[p.text_key][1]) if p.text_key in texts else self._texts.where(p.text_key)
            )
            return (i, p.key, picture, p.text_key, text, *note, p.bucket, tuple(p.frame))

        table = np.array([row(i, p) for i, p in good], ROW)
        failures = [[f.name, f.reason] for f in found if isinstance(f, Failure)]
        notes = {"failures": json.dumps(failures), "latents": str(len(latents)), "texts": str(len(texts))}
        tensors = {_TABLE: torch.frombuffer(bytearray(table.tobytes() or b"\0"), dtype=torch.uint8)}
        if texts or encodes_padding:
            of_padding, more = padding_tensors(encoder.texts.padding, encoder.dtype)
            tensors, notes = {**tensors, **of_padding}, {**notes, **more}
        save_noted(self.path(block), tensors, {**notes, "rows": str(len(table))})
        return len(numbers)

    def _fill_padding(self, known: dict[str, str]) -> bool:
        """Encodes captions that earlier shards have, where the padding that they need was lost or is another model's.

        Args:
            known: key → caption.
        """
        assert self.encoder is not None
        side, lacking = self.encoder.texts, dict[tuple[int, ...], str]()
        for key, text in known.items():
            clip, sd3_t5, t5, *_ = self._texts.where(key)[1]
            there = [side.padding, *([] if self._padding is None else [self._padding])]
            if not any(padding.covers((clip, sd3_t5), t5) for padding in there):
                lacking.setdefault((clip, sd3_t5, t5), text)
        if lacking:
            side.encode(list(lacking.values()))
        return bool(lacking)

    def part(self, block: int) -> Part:
        """What was found of a block.

        Args:
            block: its number.

        Raises:
            LongalignError: the part is damaged.
        """
        path = self.path(block)
        try:
            with local_file(path) as local, safe_open(local, "pt") as file:
                notes = notes_in(file)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            rows = np.frombuffer(tensors.pop(_TABLE).numpy().tobytes(), ROW, int(notes["rows"]))
            failures = [Failure(*f) for f in json.loads(notes["failures"])]
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise LongalignError(
                f"{path}: cannot be read ({error}). Remove it: the same command makes it again"
            ) from None
        padding = padding_of(tensors, notes) if "family" in notes else None
        return Part(rows, failures, int(notes["latents"]), int(notes["texts"]), padding)

    def remove_broken(self) -> None:
        """Removes parts whose shards are gone, so that these blocks are done again.

        Raises:
            LongalignError: a part is damaged.
        """
        there = {kind: shard_numbers(path_of(self.out) / kind) for kind in (LATENTS, TEXTS)}
        for block in range(self.blocks):
            if self.has(block):
                rows = self.part(block).rows
                named = {LATENTS: rows["picture_shard"], TEXTS: rows["text_shard"]}
                if any(
                    not there[kind].issuperset(np.unique(found).tolist()) for kind, found in named.items()
                ):
                    self.path(block).unlink()

    def failures(self, block: int) -> tuple[int, list[Failure]]:
        """How many rows a block has, and those that cannot be used.

        Args:
            block: its number.
        """
        return len(block_rows(block, self.size, self.rows)), self.part(block).failures
