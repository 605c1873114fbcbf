"""The command line and the library agree: options have the names and the defaults of the settings they fill."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from longalign.cli.edit import edit
from longalign.cli.evaluate import evaluate
from longalign.cli.generate import generate
from longalign.cli.main import GROUPS, STICKERS, app
from longalign.cli.options import settings_of, stack_of
from longalign.cli.score import score
from longalign.cli.stickers.edits import edits
from longalign.editing.run import EditConfig
from longalign.evaluation.settings import EvaluateConfig
from longalign.generation import GenerateConfig
from longalign.scoring.outcome import ScoreConfig
from longalign.studies.edits import EditStudyConfig

# Fields that the command line has under another name, or in another form
OTHER_FORM = {
    GenerateConfig: {"loras", "check_base", "negative_prompt"},
    EditConfig: {"loras", "check_base"},
    EditStudyConfig: {
        "loras",
        "check_base",
        "objects",
        "changes",
        "methods",
        "method",
        "device",  # studies draw tiny pictures: the command's default is the CPU
        "dtype",
        "finish",
        "soft_token_branches",
        "strategy",
    },
    EvaluateConfig: {"options", "drawing"},  # both are --set
    ScoreConfig: {"worst"},
}


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (generate, GenerateConfig),
        (edit, EditConfig),
        (edits, EditStudyConfig),
        (evaluate, EvaluateConfig),
        (score, ScoreConfig),
    ],
)
def test_defaults_stand_in_two_places_and_are_equal(command: Callable[..., None], kind: Any) -> None:
    """Settings load torch, options must not: so a default stands in both, and this test joins them."""
    options = {name: p.default for name, p in inspect.signature(command).parameters.items()}
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    assert set(fields) - set(options) == OTHER_FORM[kind] - set(options)
    for name in set(fields) & set(options) - OTHER_FORM[kind]:
        assert options[name] == fields[name], name


def test_settings_take_what_they_know_from_a_command() -> None:
    """`batch_size` and `lora` of the command: the first has the field's name, the second another form."""
    given = {"steps": 3, "batch_size": 2, "as_json": True, "lora": ["a", "b"]}
    config = settings_of(GenerateConfig, given, **stack_of(given["lora"], force_lora=True), seed=7)  # type: ignore[arg-type]
    assert config == GenerateConfig(steps=3, batch_size=2, loras=("a", "b"), check_base=False, seed=7)


def test_every_command_is_in_the_table_once() -> None:
    names = [name for commands in GROUPS.values() for name in commands]
    assert len(set(names)) == len(names)
    assert [info.name for info in app.registered_commands] + [g.name for g in app.registered_groups] == [
        *(n for n in names if n not in ("recipes", "data", "stickers")),
        "recipes",
        "data",
        "stickers",
    ]
    for command in (*STICKERS.values(), *(c for commands in GROUPS.values() for c in commands.values())):
        if inspect.isfunction(command):
            assert inspect.getmodule(command).__name__.startswith("longalign.cli.")  # type: ignore[union-attr]


def longalign(*arguments: str, **environment: str) -> str:
    return subprocess.check_output(
        [sys.executable, "-m", "longalign", *arguments],
        text=True,
        env={**os.environ, "COLUMNS": "100", **environment},
    )


def test_help_groups_the_commands() -> None:
    shown = longalign("--help")
    places = [shown.index(heading) for heading in GROUPS]
    assert places == sorted(places)
    assert shown.index("generate") < places[1] < shown.index(" evaluate") < places[2] < shown.index(" train ")


def test_completion_of_the_shell() -> None:
    """What bash asks for when a user types `longalign stickers ed<Tab>` and `longalign recipes show sd3<Tab>`."""
    code = "from longalign.cli.main import app; app(prog_name='longalign')"

    def completed(words: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "_LONGALIGN_COMPLETE": "complete_bash",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
        )
        return done.stdout.split()

    assert completed("longalign stickers ed") == ["edits"]
    assert completed("longalign recipes show sd3") == ["sd3-reward"]
    assert "--install-completion" in longalign("--help")
