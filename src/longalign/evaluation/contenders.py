"""What is compared: folders of pictures, and models with what is put on them, as a user names them.

``NAME``, ``LABEL=NAME`` or ``LABEL=NAME,key=value,…``. A name is a folder of pictures or a model: an embedded one, a
diffusers folder, a hub name. The keys are settings of `longalign.generation.GenerateConfig` (``lora`` may be repeated);
of a pipeline that longalign has no backbone for, they are arguments of its call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from longalign.diffusion.pipelines import INDEX_FILE
from longalign.errors import LongalignError
from longalign.generation import GenerateConfig
from longalign.plugins import unknown
from longalign.recipes import evaluation_names
from longalign.worlds import WORLDS, owner, world

_SHORT = {"lora": "loras", "negative": "negative_prompt"}
FIELDS = {f.name for f in dataclasses.fields(GenerateConfig)}
# The evaluation decides on the first four. It draws batches, and repairs nothing.
_OURS = FIELDS - {"num", "scorer", "seed", "model", "repair", "best_of"}


@dataclass(frozen=True)
class Contender:
    """One of the things that are compared.

    Attributes:
        label: its name in tables.
        name: a folder of pictures, or a model.
        draws: whether it is a model.
        settings: of a model, as the user gave them.
    """

    label: str
    name: str
    draws: bool
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> GenerateConfig:
        """The settings of a model that longalign has a backbone for.

        Raises:
            LongalignError: an unknown setting, or a value of another type.
        """
        for key in self.settings:
            if key not in _OURS:
                raise LongalignError(f"{self.label}: {unknown('setting', key, sorted([*_OURS, *_SHORT]))}")
        try:
            return TypeAdapter(GenerateConfig).validate_python({"model": self.name, **self.settings})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise LongalignError(f"{self.label}: {where}: {first['msg']}") from None

    def with_settings(self, label: str, **settings: Any) -> Contender:
        """The same with other settings, under another label."""
        return dataclasses.replace(self, label=label, settings={**self.settings, **settings})


def read_contenders(names: Sequence[str], common: Mapping[str, Any] | None = None) -> list[Contender]:
    """What a command line names.

    Args:
        names: each as in the module's docstring.
        common: settings of all models that do not set them themselves.

    Raises:
        LongalignError: an empty label, settings of a folder of pictures, a setting without a value.
    """
    found = []
    for told in names:
        label, name, settings = _parts(told)
        draws = is_model(name)
        if draws and "/" not in name and not _embedded(name) and not Path(name).exists():
            known = [m for w in WORLDS for m in world(w).models] + evaluation_names()
            raise LongalignError(f"{name}: no such run folder, and {unknown('model or recipe', name, known)}")
        if settings and not draws:
            raise LongalignError(f"{told!r}: a folder of pictures takes no settings; {name} is no model")
        chosen = {**(common or {}), **settings} if draws else {}
        found.append(Contender(label, name, draws, chosen))
    return distinct(found)


def contenders_of(table: Mapping[str, Any], common: Mapping[str, Any], where: str) -> list[Contender]:
    """The contenders in a file: label → name, or label → settings with ``model`` or ``folder`` among them.

    Args:
        table: the mapping.
        common: settings of all models that do not set them themselves.
        where: the file, for messages.

    Raises:
        LongalignError: an entry without model and folder.
    """
    found = []
    for label, entry in table.items():
        settings = {"model": entry} if isinstance(entry, str) else dict(entry or {})
        if folder := settings.pop("folder", None):
            found.append(Contender(str(label), str(folder), False))
            continue
        name = settings.pop("model", None)
        if not isinstance(name, str):
            raise LongalignError(f"{where}: {label}: name a model or a folder of pictures")
        settings = {_SHORT.get(key, key): value for key, value in settings.items()}
        if isinstance(settings.get("loras"), str):
            settings["loras"] = [settings["loras"]]
        found.append(Contender(str(label), name, True, {**common, **settings}))
    return distinct(found)


def distinct(contenders: Iterable[Contender]) -> list[Contender]:
    """The contenders as a list.

    Raises:
        LongalignError: two have one label.
    """
    found = list(contenders)
    labels = [c.label for c in found]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise LongalignError(f"two runs are called {twice[0]!r}: give labels, NAME={found[-1].name}")
    return found


def is_model(name: str) -> bool:
    """Is this a model, and no folder of pictures?"""
    of_world = owner(name)
    if of_world is not None and name in of_world.models:
        return True
    path = Path(name)
    if path.exists():
        return (path / INDEX_FILE).is_file()
    return True  # a hub name, or a mistake that loading it explains


def read_settings(pairs: Iterable[str], option: str) -> dict[str, Any]:
    """``key=value`` texts as a dictionary. Values are read as YAML: numbers, true, false, null, else text.

    Args:
        pairs: the texts.
        option: where they are from, for messages.

    Raises:
        LongalignError: no ``=``, or no key.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise LongalignError(f"{option}: {pair!r} should be KEY=VALUE")
        key = _SHORT.get(key, key)
        if key == "loras":
            found["loras"] = [*found.get("loras", ()), text]
            continue
        try:
            found[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            found[key] = text
    return found


def _parts(told: str) -> tuple[str, str, dict[str, Any]]:
    """Label, name and settings of what stands on the command line."""
    if Path(told).exists():
        return Path(told).resolve().name, told, {}
    head, *rest = told.split(",")
    label, equals, name = head.partition("=")
    if equals and (not label or not name):
        raise LongalignError(f"run {told!r}: write NAME, LABEL=NAME or LABEL=NAME,key=value")
    if not equals:
        label, name = "", head
    settings = read_settings(rest, told)
    if not label:
        label = name if _embedded(name) else Path(name).name or name
        told_values = [
            v for value in settings.values() for v in (value if isinstance(value, list) else [value])
        ]
        label += "".join(f" {value}" for value in told_values)
    return label, name, settings


def _embedded(name: str) -> bool:
    return any(name in world(w).models for w in WORLDS)
