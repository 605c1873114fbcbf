"""The command line: a table of commands. Each parses its options, calls one function of the library and prints.

Torch and diffusers are imported inside the commands, so that `--help` answers at once. Exit codes: 0 done,
1 something broke, 2 the input was wrong (the message says what to do), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from longalign.cli import recipes as of_recipes
from longalign.cli.cache import cache
from longalign.cli.calibrate import calibrate
from longalign.cli.caption import caption
from longalign.cli.curves import curves
from longalign.cli.data import convert, duplicates
from longalign.cli.decompose import decompose
from longalign.cli.demo import demo
from longalign.cli.doctor import doctor
from longalign.cli.edit import edit
from longalign.cli.evaluate import evaluate
from longalign.cli.export import export
from longalign.cli.generate import generate
from longalign.cli.import_checkpoint import import_checkpoint
from longalign.cli.information import information
from longalign.cli.merge import merge
from longalign.cli.retrieve import retrieve
from longalign.cli.score import score
from longalign.cli.segment import segment
from longalign.cli.stickers.check import check
from longalign.cli.stickers.edits import edits
from longalign.cli.stickers.identify import identify
from longalign.cli.stickers.localise import localise
from longalign.cli.stickers.pack import pack
from longalign.cli.stickers.render import render
from longalign.cli.stickers.study import study
from longalign.cli.stickers.train import train as train_stickers
from longalign.cli.stickers.trust import trust
from longalign.cli.studio import studio
from longalign.cli.train import train
from longalign.errors import LongalignError
from longalign.versions import VERSION

Commands = Mapping[str, "Callable[..., None] | typer.Typer"]

STICKERS: Commands = {
    "render": render,
    "check": check,
    "study": study,
    "edits": edits,
    "identify": identify,
    "localise": localise,
    "trust": trust,
    "train": train_stickers,
    "pack": pack,
}


def group(commands: Commands, **settings: Any) -> typer.Typer:
    """A Typer application of some commands."""
    made = typer.Typer(**settings)
    add(made, commands)
    return made


def add(app: typer.Typer, commands: Commands, panel: str | None = None) -> None:
    """Adds commands to an application, under one heading of its help."""
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)


GROUPS: Mapping[str, Commands] = {
    "Make pictures": {"demo": demo, "generate": generate, "edit": edit, "segment": segment, "studio": studio},
    "Judge pictures, models and runs": {
        "score": score,
        "calibrate": calibrate,
        "evaluate": evaluate,
        "curves": curves,
        "decompose": decompose,
        "retrieve": retrieve,
        "information": information,
    },
    "Train": {
        "train": train,
        "recipes": of_recipes.app,
        "merge": merge,
        "import": import_checkpoint,
        "export": export,
    },
    "Data": {
        "cache": cache,
        "caption": caption,
        "data": group(
            {"convert": convert, "duplicates": duplicates},
            no_args_is_help=True,
            help="Captioned pictures in other files; pictures that occur more than once.",
        ),
    },
    "This machine": {"doctor": doctor},
    "Sticker world": {
        "stickers": group(
            STICKERS,
            no_args_is_help=True,
            help="The embedded sticker world: its pictures, models and oracle.",
        )
    },
}

app = typer.Typer(
    name="longalign",
    help="Make text-to-image diffusion models follow long, detailed prompts.\n\nStart with: longalign demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for heading, of_group in GROUPS.items():
    add(app, of_group, heading)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"longalign {VERSION}")
        raise typer.Exit


@app.callback()
def _before(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_version,
            is_eager=True,
            help="Print the version of longalign and stop.",
        ),
    ] = False,
) -> None:
    pass  # without a docstring: the help of the application stays as it is


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """One line for each warning, without its place in the code. Plans of libraries are left out: users cannot act."""
    if not issubclass(category, (DeprecationWarning, FutureWarning, ResourceWarning)):
        print(f"longalign: {message}", file=sys.stderr)


def main() -> None:
    """Entry point: runs the command; wrong input ends with one line and status 2, Ctrl-C with one line and 130."""
    warnings.showwarning = _show_warning
    try:
        app()
    except LongalignError as error:
        print(f"longalign: {error}", file=sys.stderr)
        sys.exit(2)
    except (SystemExit, KeyboardInterrupt, BrokenPipeError) as end:
        if _caused_by(end, BrokenPipeError):  # whoever read our output has read enough, as `head` does
            _close_output()
            sys.exit(0)
        if stop := _caused_by(end, KeyboardInterrupt):
            print(f"longalign: stopped{f': {stop}' if str(stop) else ' by Ctrl-C'}", file=sys.stderr)
            sys.exit(130)
        _flush_output()
        raise


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The first error of this kind in the chain of causes: Typer and rich turn it into `SystemExit`."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _flush_output() -> None:
    """Writes what is buffered now: at Python's exit a closed pipe would be an error with a traceback."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _close_output()
        sys.exit(0)


def _close_output() -> None:
    """Sends the rest of the output to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
