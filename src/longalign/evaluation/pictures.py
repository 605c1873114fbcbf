"""Sets of pictures with their prompts, read from run folders and from folders of captioned pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longalign.data.entries import CaptionedPicture, Failure
from longalign.data.prompt_rows import PromptRow
from longalign.data.sources import (
    METADATA,
    open_source,
)
from longalign.errors import LongalignError
from longalign.evaluation.matched import by_file_name, with_ids
from longalign.evaluation.sets import PictureSet
from longalign.picture_formats import is_picture
from longalign.worlds import WORLDS, world

if TYPE_CHECKING:
    from PIL.Image import Image

REFERENCE = "reference"  # name of the column with the right pictures
_RECORD = "report.jsonl"


def read_sets(names: Sequence[str], rows: Sequence[PromptRow] = ()) -> list[PictureSet]:
    """Reads the sets of pictures of several folders.

    A run folder of `longalign generate` holds one set. A run folder of `longalign demo` holds one set for each column
    of its report, labelled ``LABEL · column``. `longalign.data.sources.open_source` reads all other folders.

    Args:
        names: of the folders, each ``FOLDER`` or ``LABEL=FOLDER``.
        rows: prompts of a file, for folders of pictures that have none of their own.

    Raises:
        LongalignError: no such folder, no pictures in it, two sets with one label.
    """
    found: dict[str, PictureSet] = {}
    for name in names:
        label, path = labelled(name)
        for pictures in _read(label, path, rows):
            if pictures.label in found:
                raise LongalignError(f"two runs are called {pictures.label!r}: give labels, NAME=FOLDER")
            found[pictures.label] = pictures
    return list(found.values())


class Renderings(Sequence[CaptionedPicture]):
    """Reference pictures that a world draws when they are asked for.

    Args:
        images: prompt → picture.
        names: prompt → name of its picture.
    """

    def __init__(self, images: Mapping[str, Image], names: Mapping[str, str]) -> None:
        self._images, self._names = images, names
        self._prompts = list(images)

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        prompt = self._prompts[place]
        return CaptionedPicture(self._images[prompt], prompt, self._names[prompt])


def labelled(name: str) -> tuple[str, Path]:
    """Splits ``LABEL=FOLDER``. Without a label, the folder's own name is the label.

    Args:
        name: what the user wrote.

    Raises:
        LongalignError: no such folder, or an empty label.
    """
    label, equals, folder = name.partition("=")
    if not equals or Path(name).exists():
        label, folder = "", name
    elif not label or not folder:
        raise LongalignError(f"run {name!r}: write FOLDER or NAME=FOLDER")
    path = Path(folder)
    if not path.exists():
        raise LongalignError(f"{folder}: no such run folder")
    return label or path.resolve().name, path


def _read(label: str, path: Path, rows: Sequence[PromptRow] = ()) -> list[PictureSet]:
    if (path / _RECORD).is_file():
        return _of_run(label, path)
    if (path / "config.yaml").is_file() and not any((path / name).is_file() for name in METADATA):
        raise LongalignError(
            f"{path}: this run drew no pictures, or is not done. Draw some with `longalign generate --model "
            f"{path}/model`. The curves of a training run are shown by `longalign curves`"
        )
    if rows and path.is_dir() and not _has_prompts(path):
        files = sorted(f for f in path.rglob("*") if is_picture(f))
        if files:
            return [by_file_name(label, files, rows, path)]
    return [with_ids(_of_entries(label, path, open_source(path)), rows)]


def _has_prompts(path: Path) -> bool:
    """Do the pictures of a folder have prompts of their own?"""
    if any((path / name).is_file() for name in METADATA):
        return True
    return any(next(path.glob(p), None) for p in ("*.txt", "*.tar", "*.parquet", "*.arrow"))


def _of_run(label: str, path: Path) -> list[PictureSet]:
    """Sets from the report's record, in which a case has a prompt and panels, and a panel has a column and a file."""
    columns: dict[str, list[CaptionedPicture]] = {}
    for case in _cases(path / _RECORD):
        for panel in case.get("panels", ()):
            if panel.get("file") and not panel.get("aside") and case.get("prompt", "").strip():
                picture = CaptionedPicture(path / panel["file"], case["prompt"], panel["file"])
                columns.setdefault(panel["column"], []).append(picture)
    if not columns:
        raise LongalignError(f"{path}: its report lists no picture files")
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


def _of_entries(label: str, path: Path, entries: Iterable[CaptionedPicture | Failure]) -> PictureSet:
    pictures: list[CaptionedPicture] = []
    failed: list[Failure] = []
    for entry in entries:
        if isinstance(entry, Failure):
            failed.append(entry)
        elif not entry.text.strip():
            failed.append(Failure(entry.name, "its caption is empty"))
        else:
            pictures.append(entry)
    if not pictures:
        first = f", such as {failed[0].name}: {failed[0].reason}" if failed else ""
        raise LongalignError(f"{path}: holds no picture with a prompt{first}")
    return PictureSet(label, pictures, failed)


def read_reference(name: str, prompts: Sequence[str]) -> PictureSet:
    """Reads the pictures with which others are compared.

    Args:
        name: a world such as ``stickers``, which gives a clean rendering of every scene that a prompt describes in
            full; or a folder as in `read_sets` (of a run with several columns the column ``reference`` is taken); or a
            folder of picture files without captions.
        prompts: of the sets that are compared.

    Raises:
        LongalignError: fewer than two pictures; no such folder.
    """
    if name in WORLDS:
        right = world(name).reference(prompts)
        numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        names = {prompt: f"scene {numbers[prompt]}" for prompt in right}
        found = PictureSet("clean renderings", Renderings(right, names), ids=list(right))
    else:
        label, path = labelled(name)
        files = sorted(f for f in path.rglob("*") if is_picture(f)) if path.is_dir() else []
        captioned = (path / _RECORD).is_file() or any((path / m).is_file() for m in METADATA)
        if files and not captioned:
            found = PictureSet(label, [CaptionedPicture(f, "", str(f.relative_to(path))) for f in files])
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
