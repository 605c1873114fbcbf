"""`caption_pictures`: long captions by a vision-language model, as in LongAlign's data (LLaVA-Next, §5.1)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from longalign.data.block_log import BlockLog
from longalign.data.entries import CaptionedPicture, Failure
from longalign.data.files import JsonLineList, pictures_in
from longalign.data.of_worlds import names_world, parse_world
from longalign.data.vision_language import VisionLanguageModel
from longalign.engine import Engine, Work, block_count, block_rows, run_work
from longalign.errors import Interrupted, LongalignError
from longalign.paths import need_local
from longalign.picture_formats import picture_suffixes
from longalign.runs import (
    atomic_path,
    atomic_write_bytes,
    atomic_write_text,
    json_line,
    read_json_object,
    remove_leftovers,
)

_BATCHES = 8  # of a block
_WANTED, _STATE = "wanted.jsonl", "round.json"

INSTRUCTION = (
    "Describe this image in detail: every object with its colour, its place and what it does, then the background, the "
    "light and the style. Write plain sentences that can be understood one by one."
)


@dataclass(frozen=True)
class CaptionReport:
    """How many captions were written now, were there before, and could not be written."""

    written: int
    kept: int
    skipped: int


class Captioner(VisionLanguageModel):
    """Captions by any transformers image-text-to-text model.

    Args:
        model, processor: as `AutoModelForImageTextToText` and `AutoProcessor` give them.
        instruction: what to write.
        max_new_tokens: at most so many tokens a caption.
        name: of the model, for messages.
    """

    purpose = "caption pictures"

    def __init__(
        self,
        model: Any,
        processor: Any,
        instruction: str = INSTRUCTION,
        max_new_tokens: int = 384,
        name: str = "the model",
    ) -> None:
        super().__init__(model, processor, name)
        self.instruction, self.max_new_tokens = instruction, max_new_tokens

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """A caption for each picture, by greedy decoding."""
        return self.describe(images, self.instruction, self.max_new_tokens)


def caption_pictures(
    pictures: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    captioner: Callable[[Sequence[Image.Image]], list[str]] | None = None,
    *,
    load: Callable[[], Callable[[Sequence[Image.Image]], list[str]]] | None = None,
    settings: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    engine: Engine | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> CaptionReport:
    """Write ``{"file_name": …, "text": …}`` a line for each picture: a ``metadata.jsonl`` that training reads.

    Pictures that ``out`` has already are left alone. The others are captioned in blocks, whose captions are in a folder
    beside ``out`` until all are done: the same call goes on after an interruption, and gives the same file. A last line
    that was cut off is dropped. What cannot be captioned is listed in ``skipped.jsonl`` beside it.

    Args:
        pictures: files, and folders that are searched for them; or a world's pictures, such as ``stickers:1000``.
        out: the JSONL file. File names in it are relative to its folder.
        captioner: pictures → captions; for this process alone.
        load: gives a captioner; a function that can be sent to other processes.
        settings: what captions depend on, in JSON, such as the model's name: an interrupted call goes on with the same.
        batch_size: pictures at once.
        engine: where the work is done; None: in this process.
        on_rows: called with the number of pictures that were done.

    Raises:
        LongalignError: no pictures, more than 5 % of them unreadable, the disk is full, or an interrupted call had
            other pictures or settings.
        Interrupted: Ctrl-C. The message says how many captions are kept.
    """
    need_local(out, "captions")
    out = Path(out)
    folder = out.with_name(out.stem + ".parts")
    remove_leftovers(out.parent, out.stem)  # of a call that was killed
    begin = Round.of(folder, out, pictures, {**(settings or {}), "batch_size": batch_size})
    work = CaptionWork(str(folder), begin.rows, batch_size, captioner, load)
    log = BlockLog(work, begin.rows + begin.kept, "the pictures", out.parent, work.failures)
    log.log.seen = begin.kept
    log.begin()
    try:
        run_work(work, engine, on_rows, log.add)
    except KeyboardInterrupt:
        done = sum(map(work.has, range(work.blocks)))
        raise Interrupted(
            f"{min(done * work.size, begin.rows):,} of {begin.rows:,} pictures are done; their captions are kept in "
            f"{folder}. The same command goes on with the rest"
        ) from None
    skipped = log.write()
    written = begin.join(work)
    return CaptionReport(written, begin.kept, skipped)


@dataclass
class CaptionWork(Work):
    """Captions of blocks of pictures; the part of a block has a line a picture.

    Attributes:
        folder: of the parts, and of the list of pictures.
        rows: how many pictures.
        batch_size: pictures at once.
        captioner, load: as of `caption_pictures`.
    """

    folder: str
    rows: int
    batch_size: int
    captioner: Callable[[Sequence[Image.Image]], list[str]] | None = None
    load: Callable[[], Callable[[Sequence[Image.Image]], list[str]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "captioner": None}

    @property
    def size(self) -> int:
        """Pictures of a block."""
        return _BATCHES * self.batch_size

    @property
    def blocks(self) -> int:
        return block_count(self.size, self.rows)

    def part(self, block: int) -> Path:
        """Where a block's captions are.

        Args:
            block: its number.
        """
        return Path(self.folder) / f"{block:06d}.jsonl"

    def has(self, block: int) -> bool:
        return self.part(block).is_file()

    def open(self) -> None:
        if self.captioner is None:
            if self.load is None:
                raise LongalignError("other processes need a captioner that they can load")
            self.captioner = self.load()
        self._wanted = JsonLineList(Path(self.folder) / _WANTED)
        self._worlds: dict[str, Any] = {}

    def do(self, block: int) -> int:
        assert self.captioner is not None
        rows = [self._wanted[i] for i in block_rows(block, self.size, self.rows)]
        lines = []
        for first in range(0, len(rows), self.batch_size):
            batch = rows[first : first + self.batch_size]
            opened = [self._open(row) for row in batch]
            good = [image for image in opened if not isinstance(image, Failure)]
            texts = iter(self.captioner(good) if good else [])
            for row, image in zip(batch, opened, strict=True):
                text = "" if isinstance(image, Failure) else next(texts)
                reason = image.reason if isinstance(image, Failure) else "the model wrote nothing"
                kept = {"text": text} if text else {"error": reason}
                lines.append(json.dumps({"file_name": row["name"], **kept}, ensure_ascii=False) + "\n")
        atomic_write_bytes(self.part(block), "".join(lines).encode("utf-8", errors="replace"))
        return len(rows)

    def lines(self, block: int) -> list[dict[str, str]]:
        """What was found of a block's pictures: ``file_name`` and ``text``, or ``error``.

        Args:
            block: its number.

        Raises:
            LongalignError: the part is damaged.
        """
        path = self.part(block)
        try:
            # Not splitlines(): it also cuts at characters such as U+2028, which may stand in a caption.
            with open(path, encoding="utf-8", newline="\n") as file:
                return [json.loads(line) for line in file]
        except (OSError, ValueError) as error:
            raise LongalignError(
                f"{path}: cannot be read ({error}). Remove it: the same command captions these pictures again"
            ) from None

    def captions(self) -> Iterator[bytes]:
        """The lines for the final file, in order, of the blocks that are done.

        Raises:
            LongalignError: a part is damaged.
        """
        for block in filter(self.has, range(self.blocks)):
            for line in self.lines(block):
                if "error" not in line:
                    yield (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "replace")

    def failures(self, block: int) -> tuple[int, list[Failure]]:
        """How many rows a block has, and those without a caption.

        Args:
            block: its number.
        """
        lines = self.lines(block)
        return len(lines), [Failure(x["file_name"], x["error"]) for x in lines if "error" in x]

    def _open(self, row: dict[str, Any]) -> Image.Image | Failure:
        try:
            if "of" in row:
                if row["of"] not in self._worlds:
                    self._worlds[row["of"]] = parse_world(row["of"]).open()
                image: Image.Image = self._worlds[row["of"]].picture(row["row"])
                return image
            return CaptionedPicture(Path(row["path"]), "", row["name"]).picture()
        except LongalignError as error:
            return Failure(row["name"], str(error))


@dataclass(frozen=True)
class Round:
    """The pictures that `caption_pictures` has still to caption, fixed when it begins.

    Attributes:
        folder: where the list and the parts are.
        out: the file that the captions go to.
        rows: how many pictures.
        kept: how many have a caption in ``out`` already.
        before: bytes of ``out`` when the round began.
    """

    folder: Path
    out: Path
    rows: int
    kept: int
    before: int

    @classmethod
    def of(
        cls,
        folder: Path,
        out: Path,
        pictures: Sequence[str | os.PathLike[str]],
        settings: Mapping[str, Any],
    ) -> Round:
        """Goes on with the round in a folder, or begins one.

        Raises:
            LongalignError: as of `caption_pictures`; the folder has a round of other pictures or settings, or ``out``
                was changed since it began.
        """
        given = json.loads(json_line({"pictures": list(map(_absolute, pictures)), **settings}))
        done = _done(out)
        size = out.stat().st_size if out.is_file() else 0
        state = folder / _STATE
        if state.is_file():
            earlier = read_json_object(state)
            begun = cls(folder, out, earlier["rows"], earlier["kept"], earlier["before"])
            other = [name for name in given if earlier.get(name) != given[name]]
            if size == begun.before and not other:
                return begun
            if size == begun.before:
                raise LongalignError(
                    f"{folder}: holds captions of an interrupted run with another {' and '.join(other)}. Go on with "
                    "the same, or remove the folder"
                )
            if size != begun.before + begun._bytes(earlier["batch_size"]):
                raise LongalignError(
                    f"{out}: was changed since the run that was interrupted, whose captions are in {folder}. Put the "
                    "file back, or remove the folder"
                )
            shutil.rmtree(folder)  # its captions are in the file already
        rows = kept = 0
        with atomic_path(folder / _WANTED) as path, open(path, "wb") as file:
            for row in _wanted(pictures, out.parent):
                if _hash(row["name"]) in done:
                    kept += 1
                    continue
                rows += 1
                file.write(json_line(row).encode("utf-8", errors="backslashreplace"))
        atomic_write_text(state, json_line({**given, "rows": rows, "kept": kept, "before": size}))
        return cls(folder, out, rows, kept, size)

    def join(self, work: CaptionWork) -> int:
        """Adds all captions to the file, in order and at once, removes the folder, and returns how many they are.

        Args:
            work: all blocks of which are done.
        """
        written = 0
        if self.rows:
            with atomic_path(self.out) as path, open(path, "wb") as file:
                if self.before:
                    with open(self.out, "rb") as old:
                        shutil.copyfileobj(old, file)
                for line in work.captions():
                    file.write(line)
                    written += 1
        shutil.rmtree(self.folder)
        return written

    def _bytes(self, batch_size: int) -> int:
        """Of the captions that are there."""
        return sum(map(len, CaptionWork(str(self.folder), self.rows, batch_size).captions()))


def _wanted(pictures: Sequence[str | os.PathLike[str]], beside: Path) -> Iterator[dict[str, Any]]:
    """A row a picture: its name, and where it is. No name comes twice."""
    seen: set[int] = set()
    for given in pictures:
        told = _absolute(given)
        if _is_world(given):
            named = parse_world(told)
            # Other options mean other pictures, and so other names.
            named_as = ":".join([named.world, *told.split(":")[2:]])
            found: Iterator[dict[str, Any]] = (
                {"name": f"{named_as}/{i:06d}", "of": told, "row": i} for i in range(named.count)
            )
        else:
            found = ({"name": os.path.relpath(p, beside), "path": str(p)} for p in find_pictures([told]))
        for row in found:
            if len(pictures) > 1:
                if (key := _hash(row["name"])) in seen:
                    continue
                seen.add(key)
            yield row


def _is_world(given: str | os.PathLike[str]) -> bool:
    return names_world(os.fspath(given)) and not os.path.exists(given)


def _absolute(given: str | os.PathLike[str]) -> str:
    """A file or folder, as any process finds it; or the name of a world's pictures."""
    return os.fspath(given) if _is_world(given) else os.path.abspath(given)


def find_pictures(pictures: Sequence[str | os.PathLike[str]]) -> Iterator[Path]:
    """The picture files among files and folders.

    Raises:
        LongalignError: one of them is missing, or a folder without pictures.
    """
    for given in map(Path, pictures):
        if given.is_dir():
            inside = False
            for path in pictures_in(given):
                inside = True
                yield path
            if not inside:
                raise LongalignError(f"{given}: holds no pictures ({', '.join(picture_suffixes())})")
        elif given.is_file():
            yield given
        else:
            raise LongalignError(f"{given}: no such file or folder")


def count_pictures(pictures: Sequence[str | os.PathLike[str]]) -> int:
    """How many pictures `caption_pictures` finds.

    Args:
        pictures: as there.

    Raises:
        LongalignError: as there.
    """
    count = 0
    for given in pictures:
        told = os.fspath(given)
        count += parse_world(told).count if _is_world(told) else sum(1 for _ in find_pictures([told]))
    return count


class _Hashes:
    """A set of 64-bit numbers in 8 bytes each."""

    def __init__(self, values: Iterable[int]) -> None:
        self._sorted = np.sort(np.fromiter(values, np.uint64))

    def __contains__(self, value: int) -> bool:
        place = int(np.searchsorted(self._sorted, np.uint64(value)))
        return place < len(self._sorted) and int(self._sorted[place]) == value


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def _done(out: Path) -> _Hashes:
    """Of the file names in ``out``, whose last line is removed if it was cut off."""
    if not out.is_file():
        return _Hashes(())
    whole, found = 0, array("Q")
    try:
        with open(out, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                if line.strip():
                    found.append(_hash(json.loads(line)["file_name"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LongalignError(f"{out}: is no JSONL with file_name: choose another --out ({error!r})") from None
    if whole < out.stat().st_size:
        os.truncate(out, whole)
    return _Hashes(found)
