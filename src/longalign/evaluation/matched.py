"""Pictures of a folder and the prompts of a file: which picture belongs to which prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from longalign.data.entries import CaptionedPicture, Failure
from longalign.data.prompt_rows import PromptRow
from longalign.errors import LongalignError
from longalign.evaluation.sets import PictureSet

_COPY = re.compile(r"^(.*?)[-_](\d+)$")  # several pictures of one prompt: ID-0.png, ID-1.png


def with_ids(pictures: PictureSet, rows: Sequence[PromptRow]) -> PictureSet:
    """The pictures with the ids of their prompts, found by the prompts' text; and which prompts have no picture.

    Args:
        pictures: of a folder.
        rows: the prompts of a file; none: the pictures stay as they are.
    """
    if not rows:
        return pictures
    ids: dict[str, str] = {}
    for row in rows:
        ids.setdefault(row.prompt.strip(), row.id)
    if pictures.ids:
        known = set(pictures.ids)
        return replace(pictures, missing=[row.id for row in rows if row.id not in known])
    found = [ids.get(p.text.strip(), p.text) for p in pictures.pictures]
    known = set(found)
    return replace(pictures, ids=found, missing=[row.id for row in rows if row.id not in known])


def by_file_name(label: str, files: Sequence[Path], rows: Sequence[PromptRow], root: Path) -> PictureSet:
    """Pictures without prompts of their own, which have the id of their prompt as a name: ``ID.png`` or ``ID-0.png``.

    Folders count, too: ``ID/samples/0000.png``, as GenEval's tools write it.

    Args:
        label: of the set.
        files: the picture files.
        rows: the prompts of a file.
        root: of the files.

    Raises:
        LongalignError: no name is the id of a prompt; two files are the same picture of one prompt.
    """
    of_id = {row.id: row for row in rows}
    pictures: list[CaptionedPicture] = []
    ids: list[str] = []
    strangers: list[Failure] = []
    taken: dict[tuple[str, str], Path] = {}
    for file in files:
        name = str(file.relative_to(root))
        key, copy = _id_of(file, root, of_id)
        if key is None:
            strangers.append(Failure(name, "its name is no id of a prompt"))
            continue
        if (before := taken.setdefault((key, copy), file)) != file:
            raise LongalignError(
                f"{root}: {before.relative_to(root)} and {name} are both the picture of prompt {key!r}; keep one, or "
                f"number them {key}-0.png, {key}-1.png"
            )
        pictures.append(CaptionedPicture(file, of_id[key].prompt, name))
        ids.append(key)
    if not pictures:
        raise LongalignError(
            f"{root}: none of its {len(files):,} pictures is named after a prompt; the first prompt would be "
            f"{rows[0].id}.png"
        )
    missing = [row.id for row in rows if row.id not in set(ids)]
    return PictureSet(label, pictures, strangers, ids, missing)


def _id_of(file: Path, root: Path, known: dict[str, PromptRow]) -> tuple[str | None, str]:
    """The prompt that a file is named after, and which of its pictures it is."""
    if file.stem in known:
        return file.stem, ""
    if (copy := _COPY.match(file.stem)) and copy[1] in known:
        return copy[1], copy[2]
    for folder in file.relative_to(root).parts[:-1]:
        if folder in known:
            return folder, file.stem
    return None, ""
