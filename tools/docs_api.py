"""The API reference of the docs site: which names are on which page, and the text of those pages (for `docs_pages`)."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]
import longalign  # noqa: E402  (the code beside these docs, not an installed one: mkdocs takes the path away again)

# Page → title, and what it documents: a package by its `__all__`, a module by all that is public in it.
API: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "encoding": (
        "Encoding",
        (
            "longalign.encoding",
            "longalign.encoding.segments",
            "longalign.encoding.strategy",
            "longalign.encoding.layout",
            "longalign.encoding.adapter",
            "longalign.encoding.towers",
        ),
    ),
    "generation": ("Drawing", ("longalign.generation", "longalign.picture_info")),
    "diffusion": (
        "Diffusion",
        (
            "longalign.diffusion.denoiser",
            "longalign.diffusion.sampling",
            "longalign.diffusion.solver",
            "longalign.diffusion.pipelines",
            "longalign.backbones",
            "longalign.backbones.base",
        ),
    ),
    "weights": (
        "LoRAs",
        ("longalign.weights.stack", "longalign.weights.lora", "longalign.weights.convert"),
    ),
    "soft-tokens": ("Soft tokens", ("longalign.soft_tokens",)),
    "editing": (
        "Editing and repair",
        ("longalign.editing.edit", "longalign.editing.methods", "longalign.repairing"),
    ),
    "preference": (
        "Preference models",
        ("longalign.preference", "longalign.preference.decomposition", "longalign.losses"),
    ),
    "scoring": (
        "Scoring",
        ("longalign.scoring.score", "longalign.scoring.outcome", "longalign.scoring.data"),
    ),
    "evaluation": (
        "Evaluation",
        (
            "longalign.evaluation.evaluate",
            "longalign.evaluation.settings",
            "longalign.evaluation.information",
            "longalign.evaluation.retrieval",
        ),
    ),
    "metrics": (
        "Metrics",
        (
            "longalign.metrics",
            "longalign.metrics.metric",
            "longalign.metrics.distances",
            "longalign.metrics.intervals",
        ),
    ),
    "training": ("Training", ("longalign.training", "longalign.recipes")),
    "objectives": (
        "Objectives",
        (
            "longalign.objectives",
            "longalign.objectives.pictures.supervised",
            "longalign.objectives.pictures.consistency",
            "longalign.objectives.reward.gradient",
            "longalign.objectives.reward.rewards",
            "longalign.objectives.preference.objective",
            "longalign.objectives.contrastive.objective",
            "longalign.objectives.contrastive.guided",
        ),
    ),
    "data": (
        "Data",
        (
            "longalign.data.sources",
            "longalign.data.entries",
            "longalign.data.prompts",
            "longalign.data.cache",
            "longalign.data.preferences",
            "longalign.data.recaption",
        ),
    ),
    "report": ("Reports", ("longalign.report",)),
    "engine": ("Work on many rows", ("longalign.engine",)),
    "plugins": (
        "Worlds, plugins, errors",
        (
            "longalign.worlds",
            "longalign.plugins",
            "longalign.errors",
            "longalign.runtime",
            "longalign.stickers",
        ),
    ),
}


def cell(text: str) -> str:
    """Text for a cell of a table, where a bar ends the cell and ``<`` begins a tag, but not inside code."""
    pieces = re.split(r"(`[^`]*`)", re.sub(r"\s+", " ", text).strip())
    return "".join(p if p.startswith("`") else p.replace("<", "&lt;") for p in pieces).replace("|", "\\|")


def top_names() -> dict[str, str]:
    """Name in `longalign.__all__` → where it is defined, such as ``longalign.encoding.encode.encode``."""
    return {
        name: _home(getattr(longalign, name), f"longalign.{name}")
        for name in longalign.__all__
        if name != "__version__"
    }


@cache
def modules_of(page: str) -> tuple[str, ...]:
    """The modules of a page; the last one also has packages with an `__all__` that no page names."""
    named = {module for _, modules in API.values() for module in modules} | {"longalign"}
    walked = pkgutil.walk_packages(longalign.__path__, "longalign.")
    others = [m.name for m in walked if m.ispkg and m.name not in named]
    rest = [name for name in others if hasattr(importlib.import_module(name), "__all__")]
    return (*API[page][1], *(rest if page == list(API)[-1] else ()))


def documented() -> dict[str, list[str]]:
    """Page of the API reference → the full names that it documents, each name on one page alone."""
    seen: set[str] = set()
    pages: dict[str, list[str]] = {"index": []}
    for page in API:
        names: list[str] = []
        for module_name in modules_of(page):
            module = importlib.import_module(module_name)
            listed = getattr(module, "__all__", None)
            if listed is None:
                listed = [n for n, v in vars(module).items() if _is_own(module, n, v)]
            names += [_home(getattr(module, name), f"{module_name}.{name}") for name in listed]
        pages[page] = [name for name in dict.fromkeys(names) if name not in seen]
        seen.update(pages[page])
    pages["index"] = [name for name in dict.fromkeys(top_names().values()) if name not in seen]
    return pages


def _is_own(module: Any, name: str, value: Any) -> bool:
    kind = inspect.isfunction(value) or inspect.isclass(value)
    return name[0] != "_" and kind and value.__module__ == module.__name__


def _home(value: Any, default: str) -> str:
    if inspect.isfunction(value) or inspect.isclass(value):
        return f"{value.__module__}.{value.__qualname__}"
    return default


def api_pages() -> dict[str, str]:
    """``api/encoding.md`` → its text."""
    pages = documented()
    place = {name: page for page, names in pages.items() for name in names}
    home = top_names()
    index = [
        "# API",
        "",
        "These names are `longalign.NAME`. The pages of the menu have the modules below them.",
        "",
        "```python\nimport longalign\n\nlongalign.__all__\n```",
        "",
        "| name | what it is |",
        "|---|---|",
        *(
            f"| [`{name}`]({place[full]}.md#{full}) | {cell(_summary(full))} |"
            for name, full in sorted(home.items(), key=lambda pair: pair[0].lower())
        ),
        "",
        "| page | modules |",
        "|---|---|",
        *(
            f"| [{title}]({page}.md) | {', '.join(f'`{m}`' for m in modules_of(page))} |"
            for page, (title, _) in API.items()
        ),
        "",
        *_entries(pages["index"]),
    ]
    found = {"api/index.md": "\n".join(index)}
    for page, (title, _) in API.items():
        head = [f"# {title}", ""]
        for module in modules_of(page):
            summary = (inspect.getdoc(importlib.import_module(module)) or "").splitlines()[0]
            head += [f"`{module}`: {cell(summary)}", ""]
        found[f"api/{page}.md"] = "\n".join([*head, *_entries(pages[page])])
    return found


def _entries(names: list[str]) -> Iterator[str]:
    for name in names:
        yield from (f"::: {name}", "")


def _summary(full: str) -> str:
    module, _, name = full.rpartition(".")
    value = getattr(importlib.import_module(module), name)
    return (inspect.getdoc(value) or "").partition("\n")[0]
