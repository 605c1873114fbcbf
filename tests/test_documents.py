"""README and docs/ against the package: commands parse, names import, files that they mention are there.

Nothing is run here (`tests/test_docs_run.py` does that). A command counts as right if it exists and knows each
option that is written after it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import longalign
from longalign.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted((ROOT / "integrations").rglob("*.md")),
]
RECIPES = {file.stem for file in ROOT.glob("**/recipes/*.yaml")}


def commands(text: str) -> Iterator[str]:
    """Each `longalign …` of a document: lines of code blocks (a backslash continues one), and code in sentences."""
    joined = re.sub(r"\\\n\s*", " ", text)
    blocks = "\n".join(
        code
        for kind, code in re.findall(r"^```(\w*)\n(.*?)^```", joined, re.M | re.S)
        if kind in ("", "bash")
    )
    lines = [*blocks.splitlines(), *re.findall(r"^    (.*)$", joined, re.M)]
    pieces = [piece.replace("\n", " ") for piece in re.findall(r"(?<!`)`([^`]+)`(?!`)", joined)]
    for line in (*lines, *pieces):
        if found := re.match(
            r"(?:[A-Z_]+=\S+ )*(?:accelerate launch (?:.*? )?-m )?(longalign [a-z].*)", line
        ):
            yield found[1]


def wrong(line: str) -> list[str]:
    """What a command line has that the command line of longalign does not know."""
    words = shlex.split(line, comments=True)[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and (words or not command.invoke_without_command):
        name = words.pop(0) if words else ""
        if name not in command.commands:
            return [f"command {name!r}"]
        command = command.commands[name]
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    missing = [w for w in words if w.startswith("--") and w.split("=")[0] not in {*options, "--help"}]
    if (
        command.name == "train"
        and words
        and re.fullmatch(r"[a-z][\w-]*", words[0])
        and words[0] not in RECIPES
    ):
        missing.append(f"recipe {words[0]}")
    return missing


COMMANDS = sorted({(file.name, line) for file in DOCUMENTS for line in commands(file.read_text("utf-8"))})


@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_each_command_parses(document: str, line: str) -> None:
    assert wrong(line) == []


def test_a_wrong_command_is_found() -> None:
    text = "```\nlongalign segments x  # no such command\nlongalign segment x --modes y\n```\n"
    assert [wrong(line) for line in commands(text)] == [["command 'segments'"], ["--modes"]]
    assert wrong("longalign train stickers-nothing") == ["recipe stickers-nothing"]


def named(dotted: str) -> Any:
    """The module or the name in a module that ``longalign.a.b`` says.

    Raises:
        AttributeError, ModuleNotFoundError: it is not there.
    """
    found: Any = longalign
    path = "longalign"
    for part in dotted.split(".")[1:]:
        path += f".{part}"
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(path)
    return found


SNIPPETS = [
    (file.name, code)
    for file in DOCUMENTS
    for code in re.findall(r"^```python\n(.*?)^```", file.read_text("utf-8"), re.M | re.S)
]


@pytest.mark.parametrize(("document", "code"), SNIPPETS)
def test_python_names_and_arguments_are_there(document: str, code: str) -> None:
    """`longalign.encode(pipe, prompt, negative_prompt=…)`: `encode` is there and takes `negative_prompt`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("longalign."):
            signature = inspect.signature(named(ast.unparse(node.func)))
            given = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            signature.bind(*node.args, **given)
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("longalign."):
            named(ast.unparse(node))


NAMES = sorted(
    {
        (file.name, name)
        for file in DOCUMENTS
        if file.name != "CHANGELOG.md"  # it speaks of former names
        for name in re.findall(r"`(?:help\()?(longalign(?:\.\w+)+)", file.read_text("utf-8"))
    }
)


@pytest.mark.parametrize(("document", "name"), NAMES)
def test_names_import(document: str, name: str) -> None:
    named(name)


FILES = sorted(
    {
        (file.name, path)
        for file in DOCUMENTS
        for path in re.findall(
            r"`((?:src/longalign|docs|benchmarks|tools|tests)/[\w./-]*)`", file.read_text("utf-8")
        )
    }
)


@pytest.mark.parametrize(("document", "path"), FILES)
def test_files_are_there(document: str, path: str) -> None:
    assert (ROOT / path).exists()


def test_documents_have_commands_and_code() -> None:
    """Empty lists above would let every test pass."""
    assert len(COMMANDS) > 20 and SNIPPETS and NAMES and FILES
