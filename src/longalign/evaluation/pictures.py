"""Sets of pictures with their prompts, read from run folders and from folders of captioned pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longalign.data.entries import CaptionedPicture, Failure
from longalign.data.sources import (
    METADATA,
    open_source,
)
from longalign.errors import LongalignError
from longalign.metrics.metric import Metric
from longalign.metrics.prompt_bootstrap import TableCell
from longalign.picture_formats import is_picture
from longalign.report import Estimate
from longalign.worlds import WORLDS, world

REFERENCE = "reference"  # name of the column with the right pictures
_RECORD = "report.jsonl"


@dataclass(frozen=True)
class PictureSet:
    """The pictures that one model, or one setting of it, made.

    Attributes:
        label: its name in tables.
        pictures: each with the prompt that it was made for as its ``text``.
        failed: rows that have no picture or no prompt, with the reason.
    """

    label: str
    pictures: Sequence[CaptionedPicture]
    failed: Sequence[Failure] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def prompts(self) -> list[str]:
        """Each prompt once, in order."""
        return list(dict.fromkeys(p.text for p in self.pictures))


@dataclass
class MeasuredSet:
    """A set of pictures with its numbers.

    Attributes:
        label: as of the `PictureSet`.
        pictures: those that could be read.
        metrics: by which the set was measured.
        failed: pictures that could not be read, with the reason.
        per_picture: name of a metric → its values, one a picture.
        values: key of a column → its number, NaN where there is none.
        cells: key of a column → the number as the table shows it, with its interval if it has one.
    """

    label: str
    pictures: Sequence[CaptionedPicture]
    metrics: Sequence[Metric]
    failed: Sequence[Failure]
    per_picture: Mapping[str, Sequence[Any]]
    values: dict[str, float] = field(default_factory=dict)
    cells: dict[str, TableCell] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; those that are means over pictures with their intervals."""
        result: dict[str, Any] = {
            "run": self.label,
            "pictures": len(self.pictures),
            "prompts": len({p.text for p in self.pictures}),
            "failed": [{"picture": f.name, "reason": f.reason} for f in self.failed],
        }
        for key, value in self.values.items():
            cell = self.cells[key]
            whole = {"value": value}
            if isinstance(cell, Estimate) and cell.bounded:
                whole |= {"low": cell.low, "high": cell.high, "n": cell.n}
            result[key] = whole
        return result


def read_sets(names: Sequence[str]) -> list[PictureSet]:
    """Reads the sets of pictures of several folders.

    A run folder of `longalign generate` holds one set. A run folder of `longalign demo` holds one set for each column
    of its report, labelled ``LABEL · column``. `longalign.data.sources.open_source` reads all other folders.

    Args:
        names: of the folders, each ``FOLDER`` or ``LABEL=FOLDER``.

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


def _read(label: str, path: Path) -> list[PictureSet]:
    if (path / _RECORD).is_file():
        return _of_run(label, path)
    if (path / "config.yaml").is_file() and not any((path / name).is_file() for name in METADATA):
        raise LongalignError(
            f"{path}: this run drew no pictures, or is not done. Draw some with `longalign generate --model "
            f"{path}/model`. The curves of a training run are shown by `longalign curves`"
        )
    return [_of_entries(label, path, open_source(path))]


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
        pictures = [
            CaptionedPicture(image, prompt, f"scene {numbers[prompt]}") for prompt, image in right.items()
        ]
        found = PictureSet("clean renderings", pictures)
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
