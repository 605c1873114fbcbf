"""Keys of a recipe: overrides such as ``train.lr=1e-4``, and errors that name the nearest key for an unknown one."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from typing_extensions import TypeVar

from longalign.errors import LongalignError
from longalign.plugins import nearest as nearest_name

Keys = Mapping[str, "Keys | None"]  # key → the keys below it, or None where anything may stand
M = TypeVar("M", bound=BaseModel)


def keys_of(model: type[BaseModel]) -> Keys:
    """The keys of `model` and of the models inside it. Lists and unions of models are left to pydantic."""
    found: dict[str, Keys | None] = {}
    for name, field in model.model_fields.items():
        inner = [a for a in (field.annotation, *typing.get_args(field.annotation)) if _is_model(a)]
        nested = len(inner) == 1 and typing.get_origin(field.annotation) not in (list, tuple, dict)
        found[field.alias or name] = keys_of(inner[0]) if nested else None
    return found


def check_keys(values: Mapping[str, Any], keys: Keys) -> None:
    """Check that all keys of `values` are known.

    Raises:
        LongalignError: one is not; the message names the nearest known key.
    """
    for path in _unknown(values, keys):
        raise LongalignError(f"{path}: no such key; {_advice(path, keys)}")


def override(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with ``train.lr=1e-4`` and the like set; the part after ``=`` is read as YAML.

    Raises:
        LongalignError: no ``=``, no YAML, or a path that goes through a value.
    """
    result: dict[str, Any] = dict(values)
    for text in overrides:
        path, equals, written = text.partition("=")
        if not equals or not all(path.split(".")):
            raise LongalignError(f"override {text!r}: write it as key=value, for example train.lr=1e-4")
        try:
            value = yaml.safe_load(written)
        except yaml.YAMLError as error:
            raise LongalignError(f"override {text!r}: {one_line(error)}") from error
        *sections, name = path.split(".")
        into = result
        for depth, section in enumerate(sections):
            below = into.get(section)
            if below is not None and not isinstance(below, Mapping):
                raise LongalignError(f"override {text!r}: {'.'.join(sections[: depth + 1])} is no section")
            into[section] = dict(below or {})
            into = into[section]
        into[name] = value
    return result


def validated(model: type[M], values: Any, path: str = "") -> M:
    """`values` as `model`.

    Raises:
        LongalignError: values are wrong; one line names each by its dotted path under `path`.
    """
    if not isinstance(values, Mapping):
        raise LongalignError(f"{path}: a section of keys is wanted, not {values!r}")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise LongalignError("; ".join(_said(problem, path) for problem in error.errors())) from error


def differing(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Dotted paths at which two nested mappings differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            yield from differing(one.get(key), other.get(key), f"{path}.{key}" if path else str(key))
    elif one != other:
        yield path


def nearest(name: str, names: Sequence[str]) -> str:
    """``"did you mean reward?"``, or a list of all names if none is near."""
    near = nearest_name(name, names)
    return f"there are {', '.join(names)}" if near is None else f"did you mean {near}?"


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _unknown(values: Mapping[str, Any], keys: Keys, path: str = "") -> Iterator[str]:
    for name, value in values.items():
        full = f"{path}.{name}" if path else str(name)
        if name not in keys:
            yield full
            continue
        below = keys[name]
        if below is not None and isinstance(value, Mapping):
            yield from _unknown(value, below, full)


def _advice(path: str, keys: Keys) -> str:
    """First a neighbour with a similar name, then a key of the same or a similar name in another section."""
    section, _, name = path.rpartition(".")
    every = list(_paths(keys))
    beside = [p for p in every if p.rpartition(".")[0] == section]
    for among in (beside, [p for p in every if p not in beside]):
        names = {p.rpartition(".")[2]: p for p in reversed(among)}
        if (near := nearest_name(name, names)) is not None:
            return f"did you mean {names[near]}?"
    return f"there are {', '.join(beside)}"


def _paths(keys: Keys, path: str = "") -> Iterator[str]:
    for name, below in keys.items():
        full = f"{path}.{name}" if path else name
        yield full
        if below is not None:
            yield from _paths(below, full)


def _said(problem: Any, path: str) -> str:
    where = ".".join(str(part) for part in (path, *problem["loc"]) if part != "")
    if problem["type"] == "missing":
        return f"{where}: is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    instead = (
        "" if isinstance(given, (Mapping, BaseModel)) else f", not {given!r}"
    )  # a section is too long to repeat
    return f"{where}: {message[:1].lower()}{message[1:]}{instead}"
