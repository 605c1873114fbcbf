"""Tables of names: what a user may ask for by name, from this package or from another one.

Each table maps a name to an object, or to a string ``"package.module:attribute"``. Strings are imported when the name
is first asked for. Another package adds an entry by an entry point in the group ``longalign.plugins``, whose name is
``KIND.NAME``::

    [project.entry-points."longalign.plugins"]
    "metric.sharpness" = "my_package.sharpness:Sharpness"
    "world.dice" = "my_package.dice:DiceWorld"

The kinds are the names of the tables: ``world``, ``backbone``, ``objective``, ``metric``, ``source``, ``preference``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from longalign.errors import LongalignError

GROUP = "longalign.plugins"
_NEAR = 0.6  # below it difflib offers words that only share a few letters
_PREFIX = 3  # letters that a beginning must have to mean something


class Table(Mapping[str, Any]):
    """Name → object of one kind. Objects are imported when they are asked for.

    Args:
        kind: of the entry points that add to it, such as ``metric``. It also stands in messages.
        entries: the package's own: objects, or strings ``"package.module:attribute"``.
    """

    def __init__(self, kind: str, entries: Mapping[str, Any]) -> None:
        self.kind = kind
        self._own = dict(entries)

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from (name for name in _of_plugins(self.kind) if name not in self._own)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in _of_plugins(self.kind)

    def __getitem__(self, name: str) -> Any:
        """The object of a name.

        Raises:
            LongalignError: no such name (the message lists all and names the nearest), or the object of a plugin
                cannot be imported.
        """
        if name in self._own:
            found = self._own[name]
            return _imported(found) if isinstance(found, str) else found
        point = _of_plugins(self.kind).get(name)
        if point is None:
            raise LongalignError(unknown(self.kind, name, self))
        try:
            return point.load()
        except Exception as error:
            raise LongalignError(
                f"{self.kind} {name!r}: plugin {point.value!r} cannot be loaded: {error}"
            ) from error

    def __setitem__(self, name: str, value: Any) -> None:
        """Adds an entry for this process; tests and notebooks use this."""
        self._own[name] = value

    def pop(self, name: str) -> Any:
        """Removes an entry that `table[name] = …` added."""
        return self._own.pop(name)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown name: ``metric 'orcale' is unknown; did you mean 'oracle'? There are fid, oracle``.

    Args:
        kind: kind of the name, such as ``metric``.
        name: the unknown name.
        known: the known names.
    """
    names = list(known)
    near = nearest(name, names)
    advice = "" if near is None else f"did you mean {near!r}? "
    return f"{kind} {name!r} is unknown; {advice}There are {', '.join(names) or 'none'}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a user may have meant, or None where none is near enough to be more than a guess.

    Near is a name that shares six tenths of the letters in the same order (difflib's measure): ``orcale`` is near
    ``oracle``, and ``foo`` is not near ``looks``. Or the name is the beginning of a known one: ``den``, ``denscore``.
    """
    names = list(known)
    given = name.casefold()
    exact = [other for other in names if other.casefold() == given]
    near = exact or difflib.get_close_matches(given, names, n=1, cutoff=_NEAR)
    if near or len(name) < _PREFIX:
        return near[0] if near else None
    return next((other for other in names if other.casefold().startswith(given)), None)


def _imported(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


@cache
def _of_plugins(kind: str) -> dict[str, EntryPoint]:
    """Name → entry point, of all installed packages."""
    prefix = f"{kind}."
    points = entry_points(group=GROUP)
    return {p.name.removeprefix(prefix): p for p in points if p.name.startswith(prefix)}
