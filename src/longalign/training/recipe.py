"""Recipes: one YAML file says what is trained, on which data and how; see `longalign/recipes/README.md`.

Everything in a recipe is validated before a model or a row of data is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from longalign.errors import LongalignError
from longalign.objectives import OBJECTIVES, Objective
from longalign.plugins import unknown
from longalign.recipes import find_recipe
from longalign.training.keys import (
    check_keys,
    keys_of,
    one_line,
    override,
    validated,
)


class BestSettings(BaseModel):
    """The section `train.best`, a guard against over-fitting: which evaluation is best, and when to stop early.

    The weights of the best evaluation are kept in a checkpoint of their own, and become `model/` at the end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str = Field(
        min_length=1,
        description="a metric of the evaluations, as metrics.jsonl names it: loss, true, score_…",
    )
    mode: Literal["max", "min"] = Field(description="max if larger is better, min if smaller is better")
    patience: int | None = Field(
        None, gt=0, description="stop after so many evaluations without a better one; null: never"
    )


class TrainSettings(BaseModel):
    """The section `train`, the same for every objective.

    A *step* is one update of the weights. Its `batch_size` rows are shared out among the processes in micro-batches of
    `micro_batch_size` rows (by default a process's whole share; with `auto` the largest part of it that fits into
    memory, found by a trial before the first step); gradients are averaged over all of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int = Field(gt=0, description="updates of the weights")
    batch_size: int = Field(gt=0, description="rows a step, over all processes")
    micro_batch_size: int | Literal["auto"] | None = Field(
        None,
        description="rows a process takes at once; auto: as many as fit into memory; null: its whole share",
    )
    lr: float = Field(gt=0, description="peak learning rate of AdamW")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    eps: float = Field(1e-8, gt=0)
    schedule: Literal["constant", "cosine", "linear", "cosine_with_restarts"] = "constant"
    warmup_steps: int = Field(0, ge=0, description="linear warm-up before the schedule")
    restart_steps: int | None = Field(
        None,
        gt=0,
        validate_default=True,
        description="cosine_with_restarts: steps from the peak to the next peak",
    )
    min_lr: float = Field(0.0, ge=0, description="floor that the schedule falls to")
    lr_every: int = Field(
        1,
        gt=0,
        description="steps between changes of the learning rate after the warm-up; 1: every step",
    )
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="gradients are clipped to this norm; null: no clipping"
    )
    precision: Literal["no", "bf16", "fp16"] = Field(
        "no", description="dtype of autocast; trained weights stay float32"
    )
    shard: Literal["none", "fsdp"] = Field(
        "none",
        description="fsdp: frozen weights are divided among the processes while they train",
    )
    compile: bool = Field(
        False,
        validate_default=True,
        description="torch.compile what is trained: minutes at the first step, faster steps on a GPU",
    )
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the average of the weights; 0: none")
    log_every: int = Field(10, gt=0, description="steps between lines of metrics.jsonl")
    evaluate_every: int = Field(0, ge=0, description="steps between evaluations; 0: only at the end")
    evaluate_first: bool = Field(False, description="evaluate before the first step too, as step 0")
    best: BestSettings | None = Field(
        None, description="keep the weights of the best evaluation, and save those; null: the last ones"
    )
    checkpoint_every_s: float = Field(600.0, gt=0)
    checkpoint_every_steps: int = Field(0, ge=0, description="in addition to those by time; 0: by time only")
    keep_checkpoints: int = Field(2, gt=0, description="number of latest checkpoints to keep")
    stop_after_s: float | None = Field(None, gt=0, description="stop with a checkpoint after this time")
    num_workers: int = Field(0, ge=0, description="processes that load data, for each training process")
    tracker: Literal["auto", "none", "tensorboard", "wandb", "trackio"] = Field(
        "auto", description="receives metrics and sample pictures; auto: TensorBoard if it is installed"
    )

    @field_validator("precision", mode="before")
    @classmethod
    def _yaml_no(cls, value: Any) -> Any:
        return "no" if value is False else value  # YAML 1.1 reads a bare `no` as false

    @field_validator("micro_batch_size", mode="before")
    @classmethod
    def _rows_or_auto(cls, value: Any) -> Any:
        count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if value is None or value == "auto" or count:
            return value
        raise ValueError("should be a number of rows greater than 0, or auto")

    @field_validator("compile")
    @classmethod
    def _alone(cls, value: bool, info: ValidationInfo) -> bool:
        if info.data.get("shard") == "fsdp":
            if value:
                raise ValueError("goes with shard none: sharded weights are gathered block by block")
            if info.data.get("micro_batch_size") == "auto":
                raise ValueError("shard fsdp needs a micro_batch_size: processes cannot try each for itself")
        return value

    @field_validator("restart_steps")
    @classmethod
    def _where_it_restarts(cls, value: int | None, info: ValidationInfo) -> int | None:
        restarts = info.data.get("schedule") == "cosine_with_restarts"
        if restarts and value is None:
            raise ValueError(
                "is missing: cosine_with_restarts needs the number of steps between two restarts"
            )
        if not restarts and value is not None and "schedule" in info.data:
            raise ValueError("belongs to train.schedule cosine_with_restarts, and to no other")
        return value

    @field_validator("min_lr")
    @classmethod
    def _below_the_peak(cls, value: float, info: ValidationInfo) -> float:
        if value > info.data.get("lr", value):
            raise ValueError("is the floor of the schedule, and should be at most train.lr")
        if value and info.data.get("schedule") == "constant":
            raise ValueError("is the floor of a schedule that falls, and train.schedule is constant")
        return value

    @field_validator("best")
    @classmethod
    def _with_evaluations(cls, value: BestSettings | None, info: ValidationInfo) -> BestSettings | None:
        if value is not None and info.data.get("evaluate_every") == 0:
            raise ValueError(
                "chooses among evaluations, and there are none on the way: set train.evaluate_every"
            )
        return value

    @field_validator("betas")
    @classmethod
    def _below_one(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("both betas should be at least 0 and below 1")
        return value


# What may differ between a run and its continuation: none of it changes a step that was taken.
HARMLESS = frozenset(
    f"train.{name}"
    for name in ("steps", "log_every", "evaluate_every", "evaluate_first", "best", "best.metric", "best.mode",
                 "best.patience", "checkpoint_every_s", "checkpoint_every_steps", "keep_checkpoints", "stop_after_s",
                 "num_workers", "tracker")
) | {"out"}  # fmt: skip


class _Head(BaseModel):
    """The top level of a recipe, without its sections."""

    model_config = ConfigDict(extra="ignore")

    objective: str
    model: str
    seed: int = Field(0, ge=0, lt=2**63)
    out: Path | None = None


@dataclass(frozen=True)
class Recipe:
    """A validated recipe.

    Attributes:
        objective: name of the objective.
        model: what is trained, or trained on: an embedded model, a folder or a hub name.
        train: the section ``train``.
        data: the section ``data``, a `DataSettings` of the objective.
        settings: the section with the name of the objective, its `Settings`.
        seed: of all random numbers.
        out: the run folder; None: a new one.
    """

    objective: str
    model: str
    train: TrainSettings
    data: BaseModel
    settings: BaseModel
    seed: int = 0
    out: Path | None = None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Recipe:
        """Validate what a YAML file holds.

        Raises:
            LongalignError: an unknown objective or key (the nearest right one is named), a missing or a wrong value.
        """
        name = values.get("objective")
        if name is None:
            raise LongalignError(f"objective: is missing; there are {', '.join(OBJECTIVES)}")
        kind = objective_class(name)
        sections: dict[str, type[BaseModel]] = {
            "data": kind.DataSettings,
            name: kind.Settings,
            "train": TrainSettings,
        }
        check_keys(values, {**keys_of(_Head), **{key: keys_of(model) for key, model in sections.items()}})
        head = validated(_Head, values)
        data, settings, train = (
            validated(model, {} if values.get(key) is None else values[key], key)
            for key, model in sections.items()
        )
        assert isinstance(train, TrainSettings)
        return cls(name, head.model, train, data, settings, head.seed, head.out)

    def to_mapping(self) -> dict[str, Any]:
        """The complete recipe with defaults, as plain values that `from_mapping` reads."""
        return {
            "objective": self.objective,
            "model": self.model,
            "seed": self.seed,
            "out": None if self.out is None else str(self.out),
            "data": self.data.model_dump(mode="json"),
            self.objective: self.settings.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json"),
        }


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe, validated.

    Args:
        path: a YAML file, or the name of a recipe of this package (`longalign.recipes.recipe_names`).
        overrides: ``key=value`` strings that replace values of the file, such as ``train.lr=1e-4``.

    Raises:
        LongalignError: no such file or recipe, no YAML, or what `Recipe.from_mapping` refuses.
    """
    try:
        text = find_recipe(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LongalignError(f"{path}: cannot be read as a recipe: {one_line(error)}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LongalignError(f"{path}: is no YAML: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise LongalignError(
            f"{path}: a recipe is a mapping of keys to values; `longalign recipes show stickers-sft` shows one"
        )
    try:
        return Recipe.from_mapping(override(values, overrides))
    except LongalignError as error:
        raise LongalignError(f"{path}: {error}") from error


def objective_class(name: Any) -> type[Objective]:
    """The class of an objective, by its name in `OBJECTIVES`. This imports torch and loads no weights.

    Raises:
        LongalignError: the name is unknown, or a plugin gives no `Objective` with `Settings` and `DataSettings`.
    """
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise LongalignError(unknown("objective", str(name), OBJECTIVES))
    kind = OBJECTIVES[name]
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise LongalignError(f"objective {name!r}: {kind!r} is no subclass of longalign.objectives.Objective")
    for section in ("Settings", "DataSettings"):
        if not hasattr(kind, section):
            raise LongalignError(f"objective {name!r}: {kind.__name__} lacks its pydantic model {section}")
    return kind
