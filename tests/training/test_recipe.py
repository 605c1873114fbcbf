"""Recipes: what is read, what is refused and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from line_objective import line_recipe, recipe

from longalign.errors import LongalignError
from longalign.training.keys import override
from longalign.training.recipe import Recipe, read_recipe


def refused(**values: Any) -> str:
    with pytest.raises(LongalignError) as caught:
        line_recipe(**values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("train__lrr", "train.lrr: no such key; did you mean train.lr?"),
        ("lr", "lr: no such key; did you mean train.lr?"),
        ("train__rows", "train.rows: no such key; did you mean data.rows?"),
        ("line__drop_out", "line.drop_out: no such key; did you mean line.dropout?"),
        ("data__row", "data.row: no such key; did you mean data.rows?"),
        ("seeed", "seeed: no such key; did you mean seed?"),
        ("data__zzz", "data.zzz: no such key; there are data.rows"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(key: str, says: str) -> None:
    """A neighbour with a similar name comes first, then a key of another section."""
    assert refused(**{key: 1}) == says


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"train__steps": 0}, "train.steps: input should be greater than 0, not 0"),
        ({"train__lr": "fast"}, "train.lr: input should be a valid number"),
        ({"train__lr": float("inf")}, "train.lr: input should be a finite number"),
        (
            {"train__micro_batch_size": 0},
            "train.micro_batch_size: should be a number of rows greater than 0, or",
        ),
        (
            {"train__micro_batch_size": "ato"},
            "train.micro_batch_size: should be a number of rows greater than 0",
        ),
        ({"train__best": {"metric": "loss"}}, "train.best.mode: is missing"),
        (
            {"train__best": {"metric": "loss", "mode": "min"}},
            "train.best: chooses among evaluations, and there are none on the way: set train.evaluate_every",
        ),
        (
            {"train__best": {"metric": "loss", "mod": "min"}},
            "train.best.mod: no such key; did you mean train.best.mode?",
        ),
        ({"train__betas": [0.9, 1.0]}, "train.betas: both betas should be at least 0 and below 1"),
        (
            {"train__schedule": "cosinus"},
            "train.schedule: input should be 'constant', 'cosine', 'linear' or 'cosine_with_restarts'",
        ),
        (
            {"train__schedule": "cosine_with_restarts"},
            "train.restart_steps: is missing: cosine_with_restarts needs the number of steps between",
        ),
        (
            {"train__schedule": "cosine", "train__restart_steps": 5},
            "train.restart_steps: belongs to train.schedule cosine_with_restarts, and to no other, not 5",
        ),
        (
            {"train__schedule": "cosine", "train__min_lr": 0.2},
            "train.min_lr: is the floor of the schedule, and should be at most train.lr, not 0.2",
        ),
        (
            {"train__min_lr": 0.01},
            "train.min_lr: is the floor of a schedule that falls, and train.schedule is",
        ),
        ({"train": None}, "train.steps: is missing; train.batch_size: is missing; train.lr: is missing"),
        ({"train": [1]}, "train: a section of keys is wanted"),
        ({"model": None}, "model: input should be a valid string"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0"),
        (
            {"objective": "lines"},
            "objective 'lines' is unknown; did you mean 'line'? There are consistency, ",
        ),
        ({"objective": ["line"]}, "objective \"['line']\" is unknown"),
        ({"objective": None}, "objective: is missing; there are "),
    ],
)
def test_wrong_values_are_said_with_their_path(values: dict[str, Any], says: str) -> None:
    assert refused(**values).startswith(says)


def test_overrides_are_yaml_and_reach_into_sections() -> None:
    """`1e-4` is a string to YAML 1.1 and `no` is false; both come to what was meant."""
    values = override(
        recipe(),
        ["train.lr=1e-4", "train.precision=no", "line.sick=[1, 2]", "seed=7", "train.max_grad_norm=null"],
    )
    read = Recipe.from_mapping(values)
    assert (read.train.lr, read.train.precision, read.seed) == (1e-4, "no", 7)
    assert read.settings.sick == [1, 2] and read.train.max_grad_norm is None  # type: ignore[attr-defined]
    assert recipe()["train"]["lr"] == 0.1  # what was overridden is a copy


@pytest.mark.parametrize(
    ("text", "says"),
    [("train.lr", "key=value"), ("=1", "key=value"), ("train..lr=1", "key=value"), ("seed.x=1", "seed is no section"),
     ("seed=[", "while parsing")],
)  # fmt: skip
def test_wrong_overrides(text: str, says: str) -> None:
    with pytest.raises(LongalignError, match="override .*" + says):
        override(recipe(), [text])


def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    read = line_recipe(train__lr=3e-6, train__max_grad_norm=None)
    assert Recipe.from_mapping(read.to_mapping()) == read


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(
        "objective: line\nmodel: line\ntrain: {steps: 1, batch_size: 2, lr: 1e-3, precision: no}\n"
    )
    assert read_recipe(good, ["data.rows=3"]).data.rows == 3  # type: ignore[attr-defined]
    with pytest.raises(LongalignError, match=r"goood\.yaml: no such recipe; did you mean .*good\.yaml"):
        read_recipe(tmp_path / "goood.yaml")
    for text, says in [
        ("a: [", "is no YAML"),
        ("- a", "mapping"),
        ("", "mapping"),
        ("seed: 1", "objective: is missing"),
    ]:
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(LongalignError, match=rf"bad\.yaml: .*{says}"):
            read_recipe(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LongalignError, match="cannot be read"):
        read_recipe(tmp_path / "bad.yaml")
    with pytest.raises(LongalignError, match="cannot be read"):
        read_recipe(tmp_path)
