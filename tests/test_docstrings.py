"""What is public explains itself.

Public are the functions and classes in ``__all__`` of `longalign` and of every package in it, and those that a module
defines which README, docs/ or CONTRIBUTING.md mention as ``longalign.NAME``. The rule:

- each has a docstring of its own (a dataclass's automatic signature is none);
- the docstring speaks of every parameter: the parameter's name stands in it as a word, or each word of the name does
  (``on_step``: "on" and "step"), where a word counts in the plural, too. Of a class, the docstring of its ``__init__``
  counts with the class's own, and the fields of a dataclass are its parameters.

The fields of settings (pydantic models) are explained where they stand, so only the class needs a docstring.
``self``, ``cls``, names that begin with an underscore, and what a function passes on (``*args``, ``**kwargs``) need no
word.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

import longalign

MODULES = {m.name: m.ispkg for m in pkgutil.walk_packages(longalign.__path__, "longalign.")}
PACKAGES = ["longalign", *(name for name, is_package in MODULES.items() if is_package)]


def _mentioned() -> list[ModuleType]:
    """Modules that the documents name."""
    root = Path(__file__).resolve().parent.parent
    documents = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]
    text = "\n".join(file.read_text("utf-8") for file in documents)
    text = re.sub(r"\]\([^)]*\)", "]", text)  # addresses of links into the API reference are no words
    found = []
    for name in sorted(set(re.findall(r"\blongalign(?:\.[a-z_0-9]+)+", text))):
        # `longalign.encode` is a function: then the module that holds it
        module = name if name in MODULES else name.rpartition(".")[0]
        found.append(importlib.import_module(module))
    return [module for module in found if module is not longalign]


def _public() -> dict[str, Any]:
    """Name → object, each object once."""
    objects: dict[int, tuple[str, Any]] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                objects.setdefault(id(value), (f"{package}.{name}", value))
    for module in _mentioned():
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__ and name[0] != "_"
            if own and (inspect.isfunction(value) or inspect.isclass(value)):
                objects.setdefault(id(value), (f"{module.__name__}.{name}", value))
    return dict(sorted(objects.values(), key=lambda pair: pair[0]))


PUBLIC = _public()


def docstring(value: Any) -> str:
    """The docstring that was written for it, "" where there is none."""
    own = [value.__doc__ or ""]
    if inspect.isclass(value):
        if own[0].startswith(f"{value.__name__}("):  # written by dataclasses
            own = [""]
        own.append(vars(value).get("__init__").__doc__ or "" if "__init__" in vars(value) else "")
    return "\n".join(part for part in own if part)


def parameters(value: Any) -> list[str]:
    """Names of the parameters that need a word."""
    if inspect.isclass(value) and issubclass(value, BaseModel):
        return []
    try:
        given = inspect.signature(value).parameters.values()
    except ValueError:  # classes without a signature, such as exceptions
        return []
    return [p.name for p in given if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name[0] != "_"]


def speaks_of(text: str, name: str) -> bool:
    words = set(re.findall(r"[a-z0-9]+", text.lower()))
    if re.search(rf"\b{re.escape(name)}\b", text):
        return True
    return all(
        {part, f"{part}s", f"{part}es", part.removesuffix("s")} & words for part in name.lower().split("_")
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_explain_themselves(name: str) -> None:
    text = docstring(PUBLIC[name])
    assert text, "no docstring"
    silent = [p for p in parameters(PUBLIC[name]) if not speaks_of(text, p)]
    assert silent == [], "the docstring does not speak of these parameters"


def test_the_rule_finds_what_is_missing() -> None:
    def scale(picture: Any, on_step: Any, size_px: int) -> None:
        """Scales pictures, with a call on each step."""

    assert [p for p in parameters(scale) if not speaks_of(docstring(scale), p)] == ["size_px"]
    assert len(PUBLIC) > 50
