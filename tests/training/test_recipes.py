"""The recipes that come along: all are valid, what their headers say to type, too, and the sticker ones train."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from longalign.objectives import OBJECTIVES
from longalign.objectives.contrastive.settings import ContrastiveSettings
from longalign.objectives.pictures.settings import PictureSettings
from longalign.objectives.reward.settings import RewardSettings
from longalign.recipes import recipe_file, recipe_names
from longalign.stickers import preference_names
from longalign.training import fit, read_recipe
from longalign.training.recipe import TrainSettings

FILES = [recipe_file(name) for name in recipe_names()]


def commands(file: Path) -> list[list[str]]:
    """The arguments of each `longalign train` in a recipe's comments."""
    lines = [line.removeprefix("#").strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("longalign train ")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_recipe_is_valid_and_so_is_what_it_says_to_type(file: Path) -> None:
    """The header names the recipe itself; `--out` gives no folder to two of its runs."""
    recipe = read_recipe(file)
    assert recipe.objective in OBJECTIVES and isinstance(recipe.train, TrainSettings)
    given = commands(file)
    assert any(arguments[0] == file.stem for arguments in given), "its header has no command"
    folders = []
    for arguments in given:
        if "--out" in arguments:
            at = arguments.index("--out")
            folders.append(arguments[at + 1])
            arguments = arguments[:at] + arguments[at + 2 :]
        read_recipe(arguments[0], arguments[1:])
    assert len(folders) == len(set(folders))


def test_stages_start_from_what_others_leave() -> None:
    """Every `start_from` is the folder of a run that some header starts."""
    made = {
        arguments[arguments.index("--out") + 1]
        for file in FILES
        for arguments in commands(file)
        if "--out" in arguments
    }
    for file in FILES:
        settings = read_recipe(file).settings
        if isinstance(settings, (PictureSettings, RewardSettings)):
            for folder in settings.start_from:
                assert folder.startswith("stickers/") or folder.removesuffix("/model") in made, file.name


def test_sticker_recipes_name_what_is_embedded() -> None:
    for file in FILES:
        recipe = read_recipe(file)
        if file.stem.startswith("stickers") and isinstance(recipe.settings, RewardSettings):
            judges = [*recipe.settings.rewards, *recipe.settings.evaluate_with]
            assert {judge.model.removeprefix("stickers/") for judge in judges} <= set(preference_names())
            trained = {judge.model for judge in recipe.settings.rewards}
            assert not trained & {judge.model for judge in recipe.settings.evaluate_with}


def test_the_papers_numbers() -> None:
    """FACTS §1.5, §1.6: what the released models were trained with."""
    sft, rft, lcm = (read_recipe(f"sd15-{n}") for n in ("sft", "reward", "lcm-reward"))
    assert (sft.train.lr, sft.train.batch_size, sft.train.steps, sft.train.warmup_steps) == (
        3e-5,
        192,
        30_000,
        2_000,
    )
    assert (rft.train.lr, rft.train.batch_size, rft.train.steps, rft.train.max_grad_norm) == (
        3e-5,
        96,
        4_000,
        0.3,
    )
    assert isinstance(rft.settings, RewardSettings) and isinstance(lcm.settings, RewardSettings)
    assert (rft.settings.omega, rft.settings.half, rft.settings.guidance) == (0.3, True, 7.5)
    assert (rft.settings.resolved_steps, rft.settings.resolved_gradient_steps) == (50, 5)
    assert (lcm.settings.resolved_steps, lcm.settings.resolved_gradient_steps) == (4, 4)


def test_the_numbers_of_softrepa() -> None:
    """FACTS §2.1: AdamW 1e-3, restarts every ten validations of 500 steps, floor 1e-5; λ is 10, for SD3 0."""
    for name, weight in (("sd15", 10.0), ("sdxl", 10.0), ("sd3", 0.0)):
        recipe = read_recipe(f"softrepa-{name}")
        assert isinstance(recipe.settings, ContrastiveSettings)
        assert (recipe.settings.scale, recipe.settings.temperature) == (4.0, 0.07)
        assert (recipe.settings.matched_weight, recipe.settings.tokens) == (weight, 4)
        train = recipe.train
        assert (train.lr, train.min_lr, train.weight_decay, train.betas) == (1e-3, 1e-5, 1e-4, (0.9, 0.999))
        assert (train.schedule, train.restart_steps, train.lr_every) == ("cosine_with_restarts", 5000, 500)


SMALL: dict[str, list[str]] = {
    "stickers-reward": ["reward.start_from=[]", "reward.steps=2", "reward.gradient_steps=1"],
    "stickers-lcm": ["consistency.start_from=[]", "consistency.oracle_scenes=1"],
    "stickers-lcm-reward": ["reward.start_from=[]", "reward.distance_to=pictures"],
}


@pytest.mark.parametrize("name", SMALL)
def test_sticker_recipes_take_a_step(name: str, tmp_path: Path) -> None:
    """One step of one row in float32; its evaluation on two captions has all figures, and leaves pictures to show."""
    small = ["train.steps=1", "train.batch_size=1", "train.precision='no'", "data.held_out_count=2"]
    recipe = read_recipe(name, [*small, *SMALL[name]])
    result = fit(recipe, tmp_path / "run")
    assert result.step == 1 and result.model is not None
    wanted = {"true", "looks"} | (
        {"reward", "score_pickscore", "score_clip", "diversity", "fid", "cmmd"}
        if "reward" in name
        else {"loss"}
    )
    assert set(result.evaluation) == wanted
    left: dict[str, Any] = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert left["seed"] == recipe.seed
