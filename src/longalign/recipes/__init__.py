"""The recipes that the package ships, by name: `longalign recipes`, `longalign train NAME`.

A recipe is a YAML file that says what is trained, on which data and how. `README.md` in this folder describes its keys.
"""

from __future__ import annotations

from pathlib import Path

from longalign.errors import LongalignError
from longalign.plugins import unknown

FOLDER = Path(__file__).parent


def recipe_names() -> list[str]:
    """The names of all shipped recipes, in alphabetical order."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def recipe_file(name: str) -> Path:
    """The file of a shipped recipe.

    Args:
        name: one of `recipe_names`.

    Raises:
        LongalignError: there is no recipe of this name; the message lists all and names the nearest.
    """
    if name not in recipe_names():
        raise LongalignError(unknown("recipe", name, recipe_names()))
    return FOLDER / f"{name}.yaml"


def recipe_text(name: str) -> str:
    """The YAML text of a shipped recipe, with its comments.

    Raises:
        LongalignError: there is no recipe of this name.
    """
    return recipe_file(name).read_text(encoding="utf-8")


def recipe_title(name: str) -> str:
    """What a shipped recipe trains, in one line: the first comment of its file.

    Raises:
        LongalignError: there is no recipe of this name.
    """
    return recipe_text(name).partition("\n")[0].removeprefix("#").strip()


def find_recipe(name: str | Path) -> Path:
    """The file that a user means by the name of a shipped recipe or by the path of a file.

    A file goes before a recipe of the same name.

    Raises:
        LongalignError: there is neither. The message lists the recipes and names the nearest one, also for a path
            such as ``recipes/stickers-sft.yaml``.
    """
    path = Path(name)
    if path.is_file():
        return path
    if str(name) in recipe_names():
        return recipe_file(str(name))
    if path.exists():
        return path  # a folder: reading it fails with a message that says so
    if path.stem in recipe_names():
        raise LongalignError(
            f"{path}: no such file. {path.stem} is a recipe of this package: write `longalign train {path.stem}`, or "
            f"make a file of your own by `longalign recipes copy {path.stem}`"
        )
    beside = [str(file) for file in sorted(path.parent.glob("*.yaml"))]
    advice = unknown("recipe", str(name), [*beside, *recipe_names()]).partition("; ")[2]
    raise LongalignError(f"{name}: no such recipe; {advice}")


def evaluation_names() -> list[str]:
    """The names of the shipped recipes of evaluations, for `longalign evaluate NAME`."""
    return sorted(file.stem for file in (FOLDER / "evaluate").glob("*.yaml"))


def evaluation_file(name: str) -> Path:
    """The file of a shipped recipe of an evaluation.

    Args:
        name: one of `evaluation_names`.

    Raises:
        LongalignError: there is no recipe of this name; the message lists all and names the nearest.
    """
    if name not in evaluation_names():
        raise LongalignError(unknown("recipe of an evaluation", name, evaluation_names()))
    return FOLDER / "evaluate" / f"{name}.yaml"
