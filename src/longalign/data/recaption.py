"""`caption_pictures`: long captions by a vision-language model, as in LongAlign's data (LLaVA-Next, §5.1)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from longalign.data.captioned import SKIPPED_FILE, SkipLog
from longalign.data.entries import CaptionedPicture, Failure
from longalign.data.files import pictures_in
from longalign.data.vision_language import VisionLanguageModel
from longalign.errors import LongalignError
from longalign.picture_formats import picture_suffixes

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
    captioner: Callable[[Sequence[Image.Image]], list[str]],
    *,
    batch_size: int = 8,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> CaptionReport:
    """Write ``{"file_name": …, "text": …}`` a line for each picture: a ``metadata.jsonl`` that training reads.

    Pictures that ``out`` has already are left alone, so the same call goes on after an interruption. Lines come in
    batches and whole; a last one that was cut off is dropped. What cannot be captioned is listed in ``skipped.jsonl``
    beside it.

    Args:
        pictures: files, and folders that are searched for them.
        out: the JSONL file. File names in it are relative to its folder.

    Raises:
        LongalignError: no pictures, more than 5 % of them unreadable, or the disk is full.
    """
    out = Path(out)
    wanted = {os.path.relpath(p, out.parent): p for p in find_pictures(pictures)}
    done = _done(out)
    left = [(name, path) for name, path in wanted.items() if name not in done]
    log = SkipLog(len(wanted), "the pictures")
    log.seen = len(wanted) - len(left)
    (out.parent / SKIPPED_FILE).unlink(missing_ok=True)
    log.open(out.parent)
    written = 0
    for first in range(0, len(left), batch_size):
        batch = left[first : first + batch_size]
        opened = [_open(name, path) for name, path in batch]
        good = [(name, o) for (name, _), o in zip(batch, opened, strict=True) if not isinstance(o, Failure)]
        texts = captioner([image for _, image in good]) if good else []
        rows = [(name, text) for (name, _), text in zip(good, texts, strict=True) if text]
        empty = {name for name, _ in good} - {name for name, _ in rows}
        _append(out, [{"file_name": name, "text": text} for name, text in rows])
        written += len(rows)
        failures = [o for o in opened if isinstance(o, Failure)]
        log.add(
            [*failures, *(Failure(name, "the model wrote nothing") for name in sorted(empty))], len(batch)
        )
        on_rows(len(batch))
    return CaptionReport(written, len(wanted) - len(left), len(log))


def find_pictures(pictures: Sequence[str | os.PathLike[str]]) -> Iterator[Path]:
    """The picture files among files and folders.

    Raises:
        LongalignError: one of them is missing, or a folder without pictures.
    """
    for given in map(Path, pictures):
        if given.is_dir():
            inside = list(pictures_in(given))
            if not inside:
                raise LongalignError(f"{given}: holds no pictures ({', '.join(picture_suffixes())})")
            yield from inside
        elif given.is_file():
            yield given
        else:
            raise LongalignError(f"{given}: no such file or folder")


def _open(name: str, path: Path) -> Image.Image | Failure:
    try:
        return CaptionedPicture(path, "", name).picture()
    except LongalignError as error:
        return Failure(name, str(error))


def _done(out: Path) -> set[str]:
    """File names in ``out``, whose last line is removed if it was cut off."""
    if not out.is_file():
        return set()
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(out, len(whole))
    try:
        return {json.loads(line)["file_name"] for line in whole.splitlines() if line.strip()}
    except (ValueError, KeyError, TypeError) as error:
        raise LongalignError(f"{out}: is no JSONL with file_name: choose another --out ({error!r})") from None


def _append(out: Path, rows: Sequence[dict[str, str]]) -> None:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out, "ab") as file:
            file.write(data.encode("utf-8", errors="replace"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise LongalignError(f"Cannot write {out}: {error.strerror}") from error
