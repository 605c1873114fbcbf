"""Sets of pictures with the prompts that they were made for: run folders, and folders of captioned pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longalign.data.entries import SUFFIXES, Entry, Failure
from longalign.data.sources import (
    METADATA,
    open_source,
)
from longalign.errors import LongalignError
from longalign.preference.images import ImageLike
from longalign.worlds import WORLDS, world

REFERENCE = "reference"  # the column of a run that holds the right pictures
_RECORD = "report.jsonl"


@dataclass(frozen=True)
class Picture:
    """A picture, or its file, and the prompt that it was made for. ``name`` stands for it in messages."""

    image: ImageLike
    prompt: str
    name: str


@dataclass(frozen=True)
class PictureSet:
    """The pictures of one way of making them.

    Attributes:
        failed: what could not be taken in, with the reason.
    """

    label: str
    pictures: Sequence[Picture]
    failed: Sequence[Failure] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def prompts(self) -> list[str]:
        """Each prompt once, in order."""
        return list(dict.fromkeys(p.prompt for p in self.pictures))


def read_sets(names: Sequence[str]) -> list[PictureSet]:
    """The sets of pictures in several folders, each named ``FOLDER`` or ``LABEL=FOLDER``.

    A run folder of `generate` holds one set; one that compares several ways (`demo`) holds one for each, labelled
    ``LABEL · way``. Any other folder is read as `longalign.data.sources.open_source` does.

    Raises:
        LongalignError: no such folder, no pictures in it, two sets with one label.
    """
    found: dict[str, PictureSet] = {}
    for name in names:
        label, path = labelled(name)
        for pictures in _read(label, path):
            if pictures.label in found:
                raise LongalignError(f"two runs are called {pictures.label!r}: give labels, NAME=FOLDER")
            found[pictures.label] = pictures
    return list(found.values())


def labelled(name: str) -> tuple[str, Path]:
    """``LABEL=FOLDER`` → both; of a folder alone its own name is the label."""
    label, equals, folder = name.partition("=")
    if not equals or Path(name).exists():
        label, folder = "", name
    elif not label or not folder:
        raise LongalignError(f"run {name!r}: write FOLDER or NAME=FOLDER")
    path = Path(folder)
    if not path.exists():
        raise LongalignError(f"{folder}: no such run folder")
    return label or path.resolve().name, path


def _read(label: str, path: Path) -> list[PictureSet]:
    if (path / _RECORD).is_file():
        return _of_run(label, path)
    if (path / "config.yaml").is_file() and not any((path / name).is_file() for name in METADATA):
        raise LongalignError(
            f"{path}: this run drew no pictures, or is not done. Draw some with `longalign generate --model "
            f"{path}/model`; what a training run measured on its way shows `longalign curves`"
        )
    return [_of_entries(label, path, open_source(path))]


def _of_run(label: str, path: Path) -> list[PictureSet]:
    """From the report's record: every case has a prompt, and panels with a column and a file."""
    columns: dict[str, list[Picture]] = {}
    for case in _cases(path / _RECORD):
        for panel in case.get("panels", ()):
            if panel.get("file") and case.get("prompt", "").strip():
                picture = Picture(path / panel["file"], case["prompt"], panel["file"])
                columns.setdefault(panel["column"], []).append(picture)
    if not columns:
        raise LongalignError(f"{path}: its report speaks of no picture files")
    if all(column.startswith("seed ") for column in columns):  # `generate`: several pictures of a prompt
        return [PictureSet(label, [p for pictures in columns.values() for p in pictures])]
    if len(columns) == 1:
        return [PictureSet(label, pictures) for pictures in columns.values()]
    return [PictureSet(f"{label} · {column}", pictures) for column, pictures in columns.items()]


def _cases(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise LongalignError(f"{file}, line {number}: is no JSON: {error}") from None
        if isinstance(row, dict) and row.get("kind") == "case":
            yield row


def _of_entries(label: str, path: Path, entries: Iterable[Entry | Failure]) -> PictureSet:
    pictures: list[Picture] = []
    failed: list[Failure] = []
    for entry in entries:
        if isinstance(entry, Failure):
            failed.append(entry)
        elif not entry.text.strip():
            failed.append(Failure(entry.name, "its caption is empty"))
        else:
            try:
                image = entry.picture() if isinstance(entry.image, bytes) else entry.image
                pictures.append(Picture(image, entry.text, entry.name))
            except LongalignError as error:
                failed.append(Failure(entry.name, str(error)))
    if not pictures:
        first = f", such as {failed[0].name}: {failed[0].reason}" if failed else ""
        raise LongalignError(f"{path}: holds no picture with a prompt{first}")
    return PictureSet(label, pictures, failed)


def read_reference(name: str, prompts: Sequence[str]) -> PictureSet:
    """The pictures that others are held against.

    Args:
        name: a world such as ``stickers``: a clean rendering of every scene that ``prompts`` describe in full; else a
            folder as in `read_sets` (of a run with several columns its ``reference``), or one of picture files without
            captions.

    Raises:
        LongalignError: fewer than two pictures; no such folder.
    """
    if name in WORLDS:
        right = world(name).reference(prompts)
        numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        pictures = [Picture(image, prompt, f"scene {numbers[prompt]}") for prompt, image in right.items()]
        found = PictureSet("clean renderings", pictures)
    else:
        label, path = labelled(name)
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES) if path.is_dir() else []
        captioned = (path / _RECORD).is_file() or any((path / m).is_file() for m in METADATA)
        if files and not captioned:
            found = PictureSet(label, [Picture(f, "", str(f.relative_to(path))) for f in files])
        else:
            sets = _read(label, path)
            found = next((s for s in sets if s.label.endswith(f" · {REFERENCE}")), sets[0])
            if len(sets) > 1 and not found.label.endswith(REFERENCE):
                raise LongalignError(
                    f"{path}: holds several sets of pictures, none of them called {REFERENCE}"
                )
    if len(found) < 2:
        raise LongalignError(
            f"reference {name!r}: {len(found)} pictures are too few"
            + ("; the prompts describe no whole sticker scenes, so name a folder" if name in WORLDS else "")
        )
    return found
