"""Pictures of a world by a name such as ``stickers:1000:objects=7-9:seed=1``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longalign.errors import LongalignError
from longalign.plugins import unknown
from longalign.worlds import WORLDS, world

_OPTIONS = ("split", "seed", "objects", "referring", "retold")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class WorldPictures:
    """Which pictures of a world are meant.

    Attributes:
        name: as the user wrote it.
        world: the world's name.
        count: how many.
        split, seed, objects, referring, retold: as of `longalign.worlds.World.pictures`.
    """

    name: str
    world: str
    count: int
    split: str = "test"
    seed: int = 0
    objects: tuple[tuple[int, int], ...] = ((1, 9),)
    referring: float = 0.0
    retold: int = 1

    def open(self) -> Any:
        """The captioned pictures, as a `longalign.data.entries.Source`; `text(index)` draws nothing.

        Raises:
            LongalignError: the world has no such split, or not so many objects.
        """
        further = {"retold": self.retold} if self.retold > 1 else {}
        try:
            pictures = world(self.world).pictures(
                self.count, self.split, self.seed, self.objects, self.referring, **further
            )
            pictures.text(0)
        except (KeyError, IndexError, ValueError) as error:
            raise LongalignError(
                f"{self.name}: the world {self.world} has no such pictures: {error}"
            ) from error
        return pictures


def names_world(name: str) -> bool:
    """Whether a name is that of a world, with a number of pictures or without one. A file of this name is meant first.

    Args:
        name: of a source.
    """
    head, colon, _ = name.partition(":")
    return head in WORLDS and not (colon and Path(name).exists())


def parse_world(name: str, split: str = "test") -> WorldPictures:
    """Reads ``WORLD:COUNT`` with options behind it.

    Args:
        name: such as ``stickers:1000`` or ``stickers:1000:objects=7-9:seed=1``.
        split: where the name does not say one.

    Raises:
        LongalignError: no number, an unknown option, or a value of the wrong form.
    """
    head, *options = name.split(":")
    form = f"{head}:1000 or {head}:1000:objects=7-9:seed=1"
    if not options or not options[0].isdecimal() or int(options[0]) < 1:
        raise LongalignError(f"{name}: say how many prompts of the world {head}: {form}")
    given: dict[str, str] = {}
    for option in options[1:]:
        key, equals, value = option.partition("=")
        if key not in _OPTIONS:
            raise LongalignError(f"{name}: {unknown('option', key, _OPTIONS)}")
        if not equals or not value or key in given:
            raise LongalignError(f"{name}: {key} needs one value: {form}")
        given[key] = value
    return WorldPictures(
        name,
        head,
        int(options[0]),
        given.get("split", split),
        _number(given.get("seed", "0"), "seed", name, int),
        tuple(_range(part, name) for part in given.get("objects", "1-9").split(",")),
        _number(given.get("referring", "0"), "referring", name, float),
        _number(given.get("retold", "1"), "retold", name, int),
    )


def _number(text: str, key: str, told: str, kind: type[int] | type[float]) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise LongalignError(f"{told}: {key} should be a number of at least 0, not {text!r}")
    return number


def _range(text: str, told: str) -> tuple[int, int]:
    found = _RANGE.fullmatch(text.strip())
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if low > high:
        raise LongalignError(f"{told}: objects should be ranges such as 7-9 or 1-3,7-9, not {text!r}")
    return low, high
