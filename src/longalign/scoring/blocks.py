"""The pairs of a data set, scored block by block by any process (`longalign.engine`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from longalign.data.entries import Failure
from longalign.engine import Work, block_count, block_rows
from longalign.errors import LongalignError
from longalign.paths import local_file, path_of
from longalign.preference import PreferenceModel
from longalign.safe_files import write_tensors
from longalign.scoring.data import Pair, open_pairs, pair_at
from longalign.scoring.outcome import ScoreConfig
from longalign.scoring.parts import part_path, write_part
from longalign.scoring.stream import Embedder, Seen, embed_images, score_batch

ROWS = 256  # of a block: what a killed run loses at most


@dataclass
class _OfPairs(Work):
    """Work on the pairs of a data set.

    Attributes:
        data: its name.
        rows: how many pairs it has.
        config: the settings.
        folder: of the parts.
        model: in place of loading the one of the settings; for this process alone.
        size: rows of a block.
    """

    data: str
    rows: int
    config: ScoreConfig
    folder: str
    model: PreferenceModel | None = None
    size: int = ROWS

    @property
    def blocks(self) -> int:
        return block_count(self.size, self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": None}

    def open(self) -> None:
        self.source = open_pairs(self.data)
        if len(self.source) != self.rows:
            raise LongalignError(
                f"{self.data}: has {len(self.source):,} rows here and {self.rows:,} where the command was started"
            )
        self.embedder = Embedder(self.model or self.config.load())

    def seen(self, block: int) -> list[list[tuple[Pair, Seen] | Failure]]:
        """The block's pictures, read and embedded, in batches.

        Args:
            block: its number.
        """
        rows = block_rows(block, self.size, self.rows)
        pairs = (partial(pair_at, self.source, row) for row in rows)
        return list(embed_images(self.embedder, pairs, self.config.batch_size))


class EmbedWork(_OfPairs):
    """The first of two passes for relative scores: embeddings of all pictures, kept on the disk.

    A part has the names of the block's rows and their embeddings, and the sum of these in float64.
    """

    def part(self, block: int) -> Path:
        """Where a block's embeddings are.

        Args:
            block: its number.
        """
        return path_of(self.folder) / f"{block:05d}.safetensors"

    def has(self, block: int) -> bool:
        return self.part(block).is_file()

    def do(self, block: int) -> int:
        found = [item for batch in self.seen(block) for item in batch]
        rows = [
            [item.name, item.reason] if isinstance(item, Failure) else [item[0].name, None, item[0].text]
            for item in found
        ]
        good = [item[1] for item in found if not isinstance(item, Failure)]
        width = self.embedder.model.width
        pooled = torch.stack([s.pooled for s in good]) if good else torch.zeros(0, width)
        tensors = {"pooled": pooled, "total": pooled.double().sum(0)}
        patches = [s.patches for s in good if s.patches is not None]
        if patches:
            tensors["patches"] = torch.stack(patches)
        write_tensors(self.part(block), tensors, {"rows": json.dumps(rows)})
        return len(found)

    def kept(self, block: int, batch_size: int) -> Iterator[list[tuple[Pair, Seen] | Failure]]:
        """What `do` found of a block, in batches. A pair's picture is its name alone.

        Args:
            block: its number.
            batch_size: rows of a batch.

        Raises:
            LongalignError: the file is damaged.
        """
        try:
            with local_file(self.part(block)) as local, safe_open(local, "pt") as file:
                rows = json.loads(file.metadata()["rows"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise LongalignError(
                f"{self.part(block)}: cannot be read ({error}). Remove it: the same command makes it again"
            ) from None
        patches = tensors.get("patches")
        seen = (
            Seen(pooled, None if patches is None else patches[i])
            for i, pooled in enumerate(tensors["pooled"])
        )
        items: list[tuple[Pair, Seen] | Failure] = [
            Failure(row[0], row[1]) if row[1] is not None else (Pair(row[0], row[2], row[0]), next(seen))
            for row in rows
        ]
        return (items[i : i + batch_size] for i in range(0, len(items), batch_size))

    def total(self) -> tuple[Tensor, int]:
        """(D,) float64, the sum of all embeddings, and how many they are.

        Raises:
            LongalignError: fewer than two pictures can be read.
        """
        total, count = torch.zeros(0, dtype=torch.float64), 0
        for block in range(self.blocks):
            with local_file(self.part(block)) as file:
                tensors = load_file(file)
            total = total + tensors["total"] if count else tensors["total"]
            count += len(tensors["pooled"])
        if count < 2:
            raise LongalignError(
                "relative scores compare each picture with the others: give at least two that can be read"
            )
        return total, count


@dataclass
class ScoreWork(_OfPairs):
    """Scores of the pairs of a data set, a parquet file a block.

    Attributes:
        embedded: the first pass of relative scores, with its total; None: pictures are read here.
    """

    embedded: EmbedWork | None = None

    def has(self, block: int) -> bool:
        return part_path(path_of(self.folder), block).is_file()

    def open(self) -> None:
        super().open()
        self.total: Tensor | None = None
        self.count = 0
        if self.embedded is not None:
            self.total, self.count = self.embedded.total()

    def do(self, block: int) -> int:
        self.embedder.forget()  # texts that share a batch decide the last bits, so a block begins with none
        batches: Iterable[list[tuple[Pair, Seen] | Failure]] = (
            self.seen(block) if self.embedded is None else self.embedded.kept(block, self.config.batch_size)
        )
        decomposition = self.embedder.model.decomposition
        results = [
            result
            for batch in batches
            for result in score_batch(self.embedder, batch, decomposition, self.total, self.count)
        ]
        write_part(part_path(path_of(self.folder), block), results)
        return len(results)
