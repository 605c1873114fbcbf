"""`longalign recipes`: the recipes of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import Json
from longalign.cli.terminal import print_json
from longalign.errors import LongalignError
from longalign.recipes import recipe_names, recipe_text, recipe_title

app = typer.Typer(help="List, show and copy the recipes that `longalign train NAME` knows.")
Name = Annotated[
    str,
    typer.Argument(help="Name of a recipe, as `longalign recipes` lists it.", autocompletion=recipe_names),
]


@app.callback(invoke_without_command=True)
def recipes(context: typer.Context, as_json: Json = False) -> None:
    """List the recipes that `longalign train NAME` knows, with a line each; show or copy one of them.

    Examples:

        longalign recipes

        longalign recipes show stickers-sft

        longalign recipes copy stickers-sft mine.yaml
    """
    if context.invoked_subcommand is not None:
        return
    titles = {name: recipe_title(name) for name in recipe_names()}
    if as_json:
        print_json(titles)
        return
    width = max(map(len, titles))
    for name, title in titles.items():
        print(f"{name:{width}}  {title}")


@app.command()
def show(name: Name) -> None:
    """Print a recipe."""
    print(recipe_text(name), end="")


@app.command()
def copy(
    name: Name,
    file: Annotated[
        Path | None, typer.Argument(help="File to write; else NAME.yaml here.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
) -> None:
    """Write a recipe to a file, to be changed and trained: longalign train FILE."""
    from longalign.runs import atomic_write_text

    text = recipe_text(name)
    target = file or Path(f"{name}.yaml")
    if target.is_dir():
        target = target / f"{name}.yaml"
    if target.exists() and not overwrite:
        raise LongalignError(f"{target} is there already: choose another name, or --overwrite")
    atomic_write_text(target, text)
    print(target)
