"""Recipes of the package: listed, found by name or file, and copied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from longalign.cli.main import app
from longalign.errors import LongalignError
from longalign.recipes import find_recipe, recipe_file, recipe_names, recipe_text, recipe_title
from longalign.training.recipe import read_recipe


def recipes(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["recipes", *arguments])


def test_each_recipe_has_a_headline_of_its_own() -> None:
    """One whole sentence, no longer than 128 characters: `longalign recipes` shows it on one line."""
    titles = [recipe_title(name) for name in recipe_names()]
    assert len(set(titles)) == len(titles) == 22
    assert all(title.endswith(".") and len(title) <= 128 for title in titles)


def test_they_are_listed_with_a_line_each() -> None:
    lines = recipes().stdout.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(line.endswith(recipe_title(line.split()[0])) for line in lines)
    assert json.loads(recipes("--json").stdout)["stickers-sft"] == recipe_title("stickers-sft")


def test_one_is_shown_and_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is the same recipe, also with changes of the user; an earlier copy is not written over."""
    monkeypatch.chdir(tmp_path)
    assert recipes("show", "sd15-sft").stdout == recipe_text("sd15-sft")
    assert recipes("copy", "sd15-sft").stdout == "sd15-sft.yaml\n"
    assert recipes("copy", "sd15-sft", "mine.yaml").exit_code == 0
    assert read_recipe("mine.yaml") == read_recipe(tmp_path / "sd15-sft.yaml") == read_recipe("sd15-sft")
    Path("mine.yaml").write_text("objective: other")
    refused = recipes("copy", "sd15-sft", "mine.yaml").exception
    assert isinstance(refused, LongalignError) and "mine.yaml is there already" in str(refused)
    assert recipes("copy", "sd15-sft", "mine.yaml", "--overwrite").exit_code == 0
    assert Path("mine.yaml").read_text() == recipe_text("sd15-sft")


def test_a_file_goes_before_a_recipe_and_a_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stickers-sft").mkdir()  # such as a run folder
    assert find_recipe("stickers-sft") == recipe_file("stickers-sft")
    Path("stickers-lcm").write_text("objective: x")
    assert find_recipe("stickers-lcm") == Path("stickers-lcm")


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(LongalignError, match=r"^stickers-stf: no such recipe; did you mean 'stickers-sft'\?"):
        read_recipe("stickers-stf")
    shown = recipes("show", "softrepa").exception
    assert isinstance(shown, LongalignError) and "There are clip-h-denscore, sd15-lcm" in str(shown)


def test_the_path_of_earlier_versions_names_the_new_form() -> None:
    with pytest.raises(LongalignError, match=r"recipes/sd15-sft\.yaml: no such file\.") as refused:
        read_recipe("recipes/sd15-sft.yaml")
    assert "`longalign train sd15-sft`" in str(refused.value)
    assert "`longalign recipes copy sd15-sft`" in str(refused.value)


def test_a_wrong_key_is_reported_with_the_name() -> None:
    with pytest.raises(
        LongalignError, match=r"^stickers-sft: train\.lrr: no such key; did you mean train\.lr"
    ):
        read_recipe("stickers-sft", ["train.lrr=1"])
