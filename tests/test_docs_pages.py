"""The site's reference has every command, every key of a recipe and every public name; its menu has every page."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import longalign
from longalign.recipes import evaluation_names, recipe_names

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    """A file of tools/, without leaving its folder on the path."""
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:] = before


docs_pages, docs_api = load("docs_pages"), load("docs_api")


@cache
def pages() -> dict[str, str]:
    return docs_pages.pages()


def test_every_command_and_option_is_on_the_page() -> None:
    text = pages()["commands.md"]
    for name, command in docs_pages.command_tree().items():
        assert f"\n### {name}\n" in text
        section = text.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help" and not parameter.hidden:
                assert f"`{parameter.opts[0]}`" in section, f"{name} {parameter.opts[0]}"
    assert len(docs_pages.command_tree()) > 30


def test_every_recipe_and_key_is_on_the_page() -> None:
    text = pages()["recipes.md"]
    for name in (*recipe_names(), *evaluation_names()):
        assert f"\n### {name}\n" in text
    for section, model in docs_pages.settings_models().items():
        part = text.partition(f"\n### {section}\n")[2].partition("\n#")[0]
        for name, field in model.model_fields.items():
            assert f"| `{field.alias or name}` |" in part, f"{section}: {name}"
    assert "| `best.patience` |" in text  # a key of a section inside a section


def test_every_public_name_is_documented() -> None:
    """What `longalign` and its packages have in ``__all__``, but for constants; each on one page alone."""
    listed = [name for names in docs_api.documented().values() for name in names]
    assert len(listed) == len(set(listed))
    packages = [m.name for m in pkgutil.walk_packages(longalign.__path__, "longalign.") if m.ispkg]
    for package in ("longalign", *packages):
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                assert f"{value.__module__}.{value.__qualname__}" in listed, f"{package}.{name}"
    for name, full in docs_api.top_names().items():
        assert f"[`{name}`]" in pages()["api/index.md"] and full in listed


LINKS = sorted(
    {
        (file.name, page, anchor)
        for file in (ROOT / "docs").glob("*.md")
        for page, anchor in re.findall(r"\]\((api/[\w-]+\.md)#([\w.]+)\)", file.read_text("utf-8"))
    }
)


@pytest.mark.parametrize(("document", "page", "anchor"), LINKS)
def test_links_into_the_api_go_to_names_that_are_there(document: str, page: str, anchor: str) -> None:
    """The name, or for a method its class, is documented on that page."""
    parts = anchor.split(".")
    found = [p for p in range(2, len(parts) + 1) if f"::: {'.'.join(parts[:p])}\n" in pages()[page] + "\n"]
    assert found, f"{anchor} is not on {page}"
    value: Any = importlib.import_module(".".join(parts[: found[-1] - 1]))
    for part in parts[found[-1] - 1 :]:
        value = getattr(value, part)


def test_every_page_is_in_the_menu() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    named = set(re.findall(r"[\w/-]+\.md", str(menu)))
    written = {file.name for file in (ROOT / "docs").glob("*.md")} - {"repair.md"}  # added by the hook
    assert written <= named
    assert named <= written | set(pages())


def test_every_guide_page_has_a_picture_or_an_example() -> None:
    for file in (ROOT / "docs").glob("*.md"):
        text = file.read_text("utf-8")
        assert "![" in text or "```" in text or "\n    " in text, file.name


def test_links_out_of_docs_become_text() -> None:
    text = "[`LOG.md`](LOG.md), [evaluation](docs/evaluation.md), [Keep](https://keepachangelog.com)"
    assert (
        docs_pages.inside_docs(text)
        == "`LOG.md`, [evaluation](evaluation.md), [Keep](https://keepachangelog.com)"
    )


def test_what_another_host_would_send_is_found() -> None:
    """Scripts, styles and pictures; not links that a reader may follow. The build stops at them (`on_post_page`)."""
    asked = '<script src="https://a.org/x.js"></script><img src=//b.org/y.png><link rel="stylesheet" href="https://c.org/z.css">'
    assert docs_pages.foreign(asked) == ["https://a.org/x.js", "//b.org/y.png", "https://c.org/z.css"]
    assert (
        docs_pages.foreign('<a href="https://arxiv.org">paper</a><script src="assets/x.js"></script>') == []
    )
    assert "font: false" in (ROOT / "mkdocs.yml").read_text("utf-8")
