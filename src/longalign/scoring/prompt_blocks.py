"""V of a prompt set block by block, by any process (`longalign.engine`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from pathlib import Path

from longalign.engine import Work, block_count, block_rows
from longalign.errors import LongalignError
from longalign.preference import PreferenceModel
from longalign.preference.decomposition import Decomposition, fit_prompts
from longalign.runtime import inference

CHUNK = 1024  # prompts of a block


@dataclass(frozen=True)
class Texts:
    """A prompt set that can be read again from its beginning, also by another process.

    Attributes:
        read: begins to read it; a function that can be pickled.
        limit: so many prompts at most; None: all.
        shard: ``"1/4"``: every fourth prompt, from the second on; None: all.
    """

    read: Callable[[], Iterable[str]]
    limit: int | None = None
    shard: str | None = None

    def __iter__(self) -> Iterator[str]:
        return shard_of(islice(self.read(), self.limit), self.shard)


def shard_of(texts: Iterable[str], shard: str | None) -> Iterator[str]:
    """``"1/4"``: every fourth text, from the second on; None: all of them.

    Raises:
        LongalignError: not of that form.
    """
    if shard is None:
        return iter(texts)
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise LongalignError(f"a shard is written as 0/4, 1/4, 2/4 or 3/4, not {shard!r}")
    return islice(iter(texts), int(index), None, int(count))


@dataclass
class FitWork(Work):
    """Sums of the embeddings of prompts, a decomposition a block.

    A worker reads the prompt set from its beginning up to its block, and goes on from there to its next one. So each
    worker reads the whole set once; embedding it takes far longer.

    Attributes:
        texts: the prompts.
        count: how many they are.
        folder: of the parts.
        load: loads the preference model; a function that can be pickled.
        model: in place of loading it; for this process alone.
    """

    texts: Texts
    count: int
    folder: str
    load: Callable[[], PreferenceModel]
    model: PreferenceModel | None = None

    @property
    def blocks(self) -> int:
        return block_count(CHUNK, self.count)

    def part(self, block: int) -> Path:
        """Where a block's decomposition is.

        Args:
            block: its number.
        """
        return Path(self.folder) / f"{block:06d}.safetensors"

    def has(self, block: int) -> bool:
        return self.part(block).is_file()

    def open(self) -> None:
        self._judge = self.model or self.load()
        self._stream, self._at = iter(self.texts), 0

    def do(self, block: int) -> int:
        rows = block_rows(block, CHUNK, self.count)
        if rows.start < self._at:
            self._stream, self._at = iter(self.texts), 0
        chunk = list(islice(self._stream, rows.start - self._at, rows.stop - self._at))
        self._at = rows.stop
        if len(chunk) < len(rows):
            raise LongalignError(
                f"the prompt set has fewer than the {self.count:,} prompts it had when the command began: begin again "
                "with --overwrite"
            )
        with inference(self._judge.clip):
            fit_prompts(self._judge, chunk, chunk=CHUNK).save(self.part(block))
        return len(chunk)

    def merged(self) -> Decomposition:
        """The decomposition of all blocks, added in their order."""
        return reduce(Decomposition.merge, (Decomposition.load(self.part(b)) for b in range(self.blocks)))
