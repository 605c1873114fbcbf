"""Checking pictures that were not made here: which of their sentences are true. Of many, the worst come first."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from longalign.errors import LongalignError
from longalign.picture_formats import picture_suffixes
from longalign.picture_info import prompt_of
from longalign.preference.images import load_image
from longalign.report import counted
from longalign.studio.settings import Limits
from longalign.studio.stacks import Stacks
from longalign.studio.stepping import Done, Progress
from longalign.studio.verdicts import Judged, judge_pictures, lowest

_CAPTIONS = ("text", "caption", "prompt")


@dataclass(frozen=True)
class Checked:
    """A picture with its sentences.

    Attributes:
        name: of its file.
        path: the file.
        prompt: its text.
        sentences: judged.
    """

    name: str
    path: Path
    prompt: str
    sentences: tuple[Judged, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        rows = [row.to_json() for row in self.sentences]
        return {"name": self.name, "prompt": self.prompt, "sentences": rows}


@dataclass(frozen=True)
class CheckedMany:
    """Many pictures.

    Attributes:
        pictures: the one with the lowest sentence first.
        failures: names and reasons of those that could not be checked.
    """

    pictures: tuple[Checked, ...]
    failures: tuple[tuple[str, str], ...]


def open_bounded(path: Path, limits: Limits) -> Image.Image:
    """A picture from outside, if it is not too large. Its size is read before its pixels.

    Args:
        path: the file.
        limits: of this studio.

    Raises:
        LongalignError: it is too large, or no picture.
    """
    picture_suffixes()  # registers plugins
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
    except UnidentifiedImageError:
        raise LongalignError(f"{path.name}: is no picture, or of a format that Pillow cannot read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise LongalignError(f"{path.name}: cannot be read as a picture: {error}") from None
    if width * height > limits.upload_px:
        raise LongalignError(
            f"{path.name}: {width:,} × {height:,} pixels are too many; at most {limits.upload_px:,} are allowed here"
        )
    try:
        return load_image(path)
    except LongalignError as error:
        raise LongalignError(str(error).replace(str(path), path.name)) from None


def check_picture(path: Path, prompt: str, stacks: Stacks, limits: Limits) -> Checked:
    """Which sentences of a prompt are true of a picture.

    Args:
        path: the picture.
        prompt: its text; empty: what the file says.
        stacks: the models.
        limits: of this studio.

    Raises:
        LongalignError: no picture, too large, or there is no text.
    """
    image = open_bounded(path, limits)
    text = limits.text(prompt if prompt.strip() else _prompt_in(path))
    [rows] = judge_pictures(stacks.scorer, [image], text, _sentences(text, stacks))
    return Checked(path.name, path, text, tuple(rows))


def check_many(
    paths: Sequence[Path], stacks: Stacks, limits: Limits, captions: Mapping[str, str] | None = None
) -> Iterator[Progress | Done[CheckedMany]]:
    """Checks pictures one after the other; what cannot be checked is listed.

    Args:
        paths: pictures, and text files beside them: ``NAME.txt`` for ``NAME.png``, or ``metadata.jsonl``.
        stacks: the models.
        limits: of this studio.
        captions: name of a file → its text.

    Raises:
        LongalignError: there are no pictures, or too many.
    """
    told = {**captions_among(paths), **(captions or {})}
    pictures = [path for path in paths if path.suffix.lower() in picture_suffixes()]
    if not pictures:
        raise LongalignError("there are no pictures among these files")
    if len(pictures) > limits.uploads:
        raise LongalignError(
            f"{len(pictures):,} pictures are too many; at most {limits.uploads:,} are allowed here. "
            "`longalign score --data FOLDER --worst 50` checks any number"
        )
    found: list[Checked] = []
    failures: list[tuple[str, str]] = []
    for number, path in enumerate(pictures):
        try:
            found.append(check_picture(path, told.get(path.name, told.get(path.stem, "")), stacks, limits))
        except LongalignError as error:
            failures.append((path.name, str(error)))
        yield Progress((number + 1) / len(pictures), f"{number + 1} of {counted(len(pictures), 'picture')}")
    yield Done(CheckedMany(tuple(sorted(found, key=lambda one: lowest(one.sentences))), tuple(failures)))


def captions_among(paths: Sequence[Path]) -> dict[str, str]:
    """Captions in text files: ``NAME.txt``, or ``metadata.jsonl`` with ``file_name`` and ``text``.

    Args:
        paths: all files.
    """
    found: dict[str, str] = {}
    for path in paths:
        if path.suffix.lower() == ".txt" or path.name == "metadata.jsonl":
            found |= _captions_in(path)
    return {name: text for name, text in found.items() if text}


def _captions_in(path: Path) -> dict[str, str]:
    """Of one file. What cannot be read gives nothing: its pictures are then listed with the reason."""
    found: dict[str, str] = {}
    with suppress(OSError, ValueError):
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix.lower() == ".txt":
            return {path.stem: text.strip()}
        for line in text.split("\n"):
            row = json.loads(line) if line.strip() else None
            if isinstance(row, dict) and isinstance(row.get("file_name"), str):
                told = next((row[k] for k in _CAPTIONS if isinstance(row.get(k), str)), "")
                found[Path(row["file_name"]).name] = told
    return found


def _prompt_in(path: Path) -> str:
    try:
        return prompt_of(path)
    except LongalignError:
        raise LongalignError(
            f"{path.name}: the file does not say its prompt (as pictures of longalign, A1111 and ComfyUI do). "
            "Write what the picture should show"
        ) from None


def _sentences(text: str, stacks: Stacks) -> list[str]:
    if stacks.scorer is not None:
        return [segment.text for segment in stacks.scorer.segments(text)]
    from longalign.encoding.segments import Segmenter

    return [segment.text for segment in Segmenter()(text)]
