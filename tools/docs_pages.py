"""Pages of the docs site that are made from the package: commands, recipes, API, changelog. A hook of mkdocs.

Nothing of it is committed: `make docs` makes these pages each time, so they cannot fall behind the code. Tests call the
functions without mkdocs (`tests/test_docs_pages.py`).
"""

from __future__ import annotations

import inspect
import logging
import re
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docs_api import API, ROOT, api_pages, cell

# ---------------------------------------------------------------------------------------------------- commands


@cache
def command_tree() -> dict[str, Any]:
    """``longalign generate`` → the command of Typer, for all commands, those inside groups, too."""
    import typer

    from longalign.cli.main import app

    found: dict[str, Any] = {}

    def walk(command: Any, name: str) -> None:
        for word, below in getattr(command, "commands", {}).items():
            found[f"{name} {word}"] = below
            walk(below, f"{name} {word}")

    walk(typer.main.get_command(app), "longalign")
    return found


def commands_page() -> str:
    """The reference of all commands: what each does, its arguments, options and defaults."""
    from longalign.cli.main import GROUPS

    tree = command_tree()
    lines = [
        "# Commands",
        "",
        "Every command with its options. `longalign COMMAND --help` prints the same. Exit codes: 0 done, 1 something",
        "broke, 2 the input was wrong (the message says what to do), 130 stopped by Ctrl-C.",
        "",
        '```bash\nlongalign segment "A fox is in the centre. It stands on a red disc." --model stickers\n```',
        "",
    ]
    for heading, commands in GROUPS.items():
        lines += [f"## {heading}", ""]
        for word in commands:
            names = [
                name for name in tree if name == f"longalign {word}" or name.startswith(f"longalign {word} ")
            ]
            for name in names:
                lines += _command(name, tree[name])
    return "\n".join(lines)


def _command(name: str, command: Any) -> Iterator[str]:
    yield from (f"### {name}", "", *_help(command.help or ""), "")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [
        p for p in command.params if p.param_type_name == "option" and not p.hidden and p.name != "help"
    ]
    for title, parameters in (("Argument", arguments), ("Option", options)):
        if parameters:
            yield from (f"| {title} | | Default |", "|---|---|---|")
            for parameter in parameters:
                shown = parameter.opts if title == "Option" else [parameter.name.upper()]
                names = " ".join(f"`{opt}`" for opt in [*shown, *parameter.secondary_opts])
                yield f"| {names} | {cell(parameter.help or '')} | {_default(parameter)} |"
            yield ""


def _help(text: str) -> Iterator[str]:
    """Examples of a docstring (indented lines) as one block of code for each run of them."""
    for block in re.split(r"((?:^    .*\n?\n?)+)", text, flags=re.M):
        if block.startswith("    "):
            examples = [line.strip() for line in block.splitlines() if line.strip()]
            yield from ("", "```bash", *examples, "```", "")
        elif block.strip():
            yield re.sub(r"\s*\n\s*", " ", block.replace("\n\n", "\0")).replace("\0", "\n\n").strip()


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return cell(parameter.show_default)
    value = parameter.default
    return "" if value is None or value is False or callable(value) else f"`{cell(str(value))}`"


# ---------------------------------------------------------------------------------------------------- recipes


def settings_models() -> dict[str, Any]:
    """Section of a recipe → its pydantic model: ``train``, and ``data`` and its own section for each objective."""
    from longalign.objectives import OBJECTIVES
    from longalign.training.recipe import TrainSettings

    found: dict[str, Any] = {"train": TrainSettings}
    for name in sorted(OBJECTIVES):
        if OBJECTIVES[name].__module__.startswith("longalign.stickers"):
            continue  # how the tiny models were made: not public
        found[f"data of {name}"] = OBJECTIVES[name].DataSettings
        found[name] = OBJECTIVES[name].Settings
    return found


def recipes_page() -> str:
    """The reference of recipes: every shipped one, and every key with its type, default and meaning."""
    from longalign import recipes

    lines = [
        "# Recipes",
        "",
        "A recipe is one YAML file that says what is trained, on which data and how. "
        "[Fine-tune on your pictures](fine-tune.md) shows how to use one.",
        "",
        "```bash\nlongalign recipes copy stickers-sft mine.yaml\nlongalign train mine.yaml train.steps=200\n```",
        "",
        "## Recipes of the package",
        "",
        "| recipe | what it trains |",
        "|---|---|",
        *(f"| [`{name}`](#{name}) | {cell(recipes.recipe_title(name))} |" for name in recipes.recipe_names()),
        "",
        "| recipe of `longalign evaluate` | what it compares |",
        "|---|---|",
        *(
            f"| [`{name}`](#{name}) | {cell(_first_comment(recipes.evaluation_file(name)))} |"
            for name in recipes.evaluation_names()
        ),
        "",
        "## Keys",
        "",
        "At the top level stand `objective`, `model`, `seed` and `out`; the sections below hold the rest.",
        "",
    ]
    for section, model in settings_models().items():
        lines += [f"### {section}", "", *_keys(model), ""]
    lines += ["## Text of the recipes", ""]
    for name in recipes.recipe_names():
        lines += [f"### {name}", "", "```yaml", recipes.recipe_text(name).rstrip(), "```", ""]
    for name in recipes.evaluation_names():
        lines += [
            f"### {name}",
            "",
            "```yaml",
            recipes.evaluation_file(name).read_text("utf-8").rstrip(),
            "```",
            "",
        ]
    return "\n".join(lines)


def _keys(model: Any, prefix: str = "") -> Iterator[str]:
    """A table of the fields of a pydantic model; models inside it have rows of their own, with dots."""
    from pydantic import BaseModel
    from pydantic_core import PydanticUndefined

    if not prefix:
        yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *typing.get_args(field.annotation)]
        inner = [k for k in kinds if inspect.isclass(k) and issubclass(k, BaseModel)]
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"`{cell(_yaml(default))}`"
        kind = cell(_type(field.annotation))
        yield f"| `{prefix}{field.alias or name}` | {kind} | {shown} | {cell(field.description or '')} |"
        for below in inner:
            yield from _keys(below, f"{prefix}{field.alias or name}.")


def _type(annotation: Any) -> str:
    text = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    text = re.sub(r"\b(?:typing|pathlib\.\w+|longalign(?:\.\w+)*)\.", "", text)
    text = re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace("'", "").replace(", ", " or "), text)
    return text.replace("NoneType", "null").replace("None", "null").replace(" | ", " or ")


def _yaml(value: Any) -> str:
    plain = {None: "null", True: "true", False: "false"}
    return plain[value] if value is None or isinstance(value, bool) else str(value)


def _first_comment(file: Path) -> str:
    return file.read_text("utf-8").partition("\n")[0].removeprefix("#").strip()


# ---------------------------------------------------------------------------------------------------- changelog, hook


def inside_docs(text: str) -> str:
    """Links of a file of the repository's root as they are from inside docs/; links out of docs/ become plain text."""

    def moved(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        if target.startswith("docs/"):
            return f"[{words}]({target.removeprefix('docs/')})"
        return words

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", moved, text)


def pages() -> dict[str, str]:
    """Path of each page → its text."""
    return {
        "commands.md": commands_page(),
        "recipes.md": recipes_page(),
        "changelog.md": inside_docs((ROOT / "CHANGELOG.md").read_text("utf-8")),
        **api_pages(),
    }


def on_config(config: Any) -> Any:
    """Adds the API's pages, and pages that another change may add, to the menu."""
    for section in config.nav:
        if "Reference" in section:
            entries = [{title: f"api/{page}.md"} for page, (title, _) in API.items()]
            for place, entry in enumerate(section["Reference"]):
                if "API" in entry:
                    section["Reference"][place] = {"API": [{"Overview": "api/index.md"}, *entries]}
        if "Guide" in section and (ROOT / "docs" / "repair.md").exists():
            section["Guide"].insert(4, {"Repair in detail": "repair.md"})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of this file to the site."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """``<!-- page: repair.md Repair in detail -->`` becomes a link where that page is there."""

    def link(found: re.Match[str]) -> str:
        return f"[{found[2]}]({found[1]})" if (ROOT / "docs" / found[1]).exists() else ""

    return re.sub(r"<!-- page: (\S+) (.*?) -->", link, markdown)


def foreign(html: str) -> list[str]:
    """Scripts, styles, pictures and frames of a page that another host would have to send."""
    loaded = re.findall(
        r"<(?:script|img|iframe|source|video)\b[^>]*?\bsrc=[\"']?((?:https?:)?//[^\"' >]+)", html
    )
    links = re.findall(r"<link\b[^>]*>", html)
    styles = [tag for tag in links if re.search(r"rel=[\"']?(?:stylesheet|preconnect|preload|icon)", tag)]
    return loaded + re.findall(r"href=[\"']?((?:https?:)?//[^\"' >]+)", " ".join(styles))


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Ends a strict build where a page would ask another host for something."""
    if found := foreign(output):
        logging.getLogger("mkdocs.hooks").warning(f"{page.file.src_uri} asks other hosts: {', '.join(found)}")
    return output
