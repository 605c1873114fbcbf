"""Settings of `longalign evaluate`: options of the command, and recipes (YAML files) that hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from longalign.errors import LongalignError
from longalign.evaluation.contenders import Contender, contenders_of, read_contenders, read_settings
from longalign.metrics import METRICS
from longalign.metrics.judge import JudgeOptions
from longalign.metrics.metric import Tools
from longalign.plugins import unknown
from longalign.recipes import evaluation_file, evaluation_names

ALL = "all"
JUDGE = "judge"  # is no metric of pictures: it compares runs


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `longalign evaluate`.

    Attributes:
        metrics: names of `METRICS` with commas between; ``all``: every one that can be computed here; None: the default
            ones whose needs are met.
        reference: of fid and its like: a folder, or ``stickers``; None: ``stickers`` where the prompts are about them.
        model: preference model of denscore.
        features: extractor of fid, cmmd and diversity; None: for sticker pictures the plain embedded CLIP, which no
            reward has been trained on, else ``model``.
        show: of how many prompts a page shows the pictures; None: of all.
        samples: bootstrap draws.
        device, dtype: as in `longalign.runtime`.
        prompts: of models, as of `longalign.data.prompt_rows.read_prompt_rows`; of folders, whose pictures have no
            prompts of their own, the same.
        limit: the first so many prompts; None: all.
        seed: of the first picture of each prompt.
        num: pictures of each prompt.
        batch_size: prompts that are drawn and measured together.
        sweep: such as ``length=15,60,120``; None: none.
        options: settings of metrics, ``METRIC.KEY`` → value.
        drawing: settings of all models, such as ``steps``.
        baseline: label of the run that the others are compared with; None: the first.
    """

    metrics: str | None = None
    reference: str | None = None
    model: str | None = None
    features: str | None = None
    show: int | None = None
    samples: int = 2000
    device: str = "auto"
    dtype: str = "auto"
    prompts: str | None = None
    limit: int | None = None
    seed: int = 0
    num: int = 1
    batch_size: int = 16
    sweep: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    drawing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    baseline: str | None = None


class Recipe(BaseModel):
    """A recipe of an evaluation: what is compared, and settings under the names of the command's options."""

    model_config = ConfigDict(extra="forbid")

    runs: dict[str, Any]
    metrics: str | None = None
    reference: str | None = None
    model: str | None = None
    features: str | None = None
    prompts: str | None = None
    limit: int | None = None
    seed: int | None = None
    num: int | None = None
    batch_size: int | None = None
    sweep: str | None = None
    set: dict[str, Any] = {}
    baseline: str | None = None


def read_job(names: Sequence[str], config: EvaluateConfig) -> tuple[list[Contender], EvaluateConfig]:
    """What is compared and how, from the names on the command line. One of them may be a recipe.

    Args:
        names: folders, models, and at most one recipe: a shipped one by name, or a YAML file.
        config: options of the command. Those that are at their defaults give way to the recipe.

    Raises:
        LongalignError: two recipes, a recipe with an unknown key or a value of another type; or as `read_contenders`.
    """
    recipes = [name for name in names if is_recipe(name)]
    others = [name for name in names if name not in recipes]
    if len(recipes) > 1:
        raise LongalignError(f"one recipe at a time, please: {', '.join(recipes)}")
    contenders: list[Contender] = []
    if recipes:
        file = Path(recipes[0]) if Path(recipes[0]).is_file() else evaluation_file(recipes[0])
        recipe = _read(file)
        config = _with_recipe(config, recipe)
        contenders = contenders_of(recipe.runs, _common(config), str(file))
    more = read_contenders(others, _common(config)) if others else []
    from longalign.evaluation.contenders import distinct

    return distinct([*contenders, *more]), config


def is_recipe(name: str) -> bool:
    """Is this a recipe of an evaluation, shipped or a YAML file?"""
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return True
    return name in evaluation_names() and not Path(name).exists()


def split_settings(pairs: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``--set`` texts: those with a dot are of metrics, the others of all models.

    Args:
        pairs: ``METRIC.KEY=VALUE`` or ``KEY=VALUE``.

    Raises:
        LongalignError: no ``=``.
    """
    told = read_settings(pairs, "--set")
    return {k: v for k, v in told.items() if "." in k}, {k: v for k, v in told.items() if "." not in k}


def metric_options(name: str, config: EvaluateConfig, tools: Tools) -> Any:
    """The `Options` of a metric, from the settings of the evaluation.

    Args:
        name: of the metric.
        config: of the evaluation.
        tools: what is loaded; the world of the prompts has models of its own for some metrics.

    Raises:
        LongalignError: an unknown option of the metric, or a value of another type.
    """
    kind = JudgeOptions if name == JUDGE else METRICS[name].Options
    fields = {f.name for f in dataclasses.fields(kind)}
    told = {k.partition(".")[2]: v for k, v in config.options.items() if k.partition(".")[0] == name}
    for key in told:
        if key not in fields:
            raise LongalignError(f"--set {name}.{key}: {unknown('option', key, sorted(fields))}")
    if "model" in fields and "model" not in told:
        if name in ("denscore", "denscore_o", "verdict") and config.model is not None:
            told["model"] = config.model
        elif tools.world is not None and name in tools.world.metric_models:
            told["model"] = tools.world.metric_models[name]
    try:
        return TypeAdapter(kind).validate_python(told)
    except ValidationError as error:
        first = error.errors()[0]
        raise LongalignError(f"--set {name}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def check_options(config: EvaluateConfig) -> None:
    """Raises LongalignError: an option of a metric that there is not; the nearest one is named."""
    for key in config.options:
        name = key.partition(".")[0]
        if name not in METRICS and name != JUDGE:
            raise LongalignError(f"--set {key}: {unknown('metric', name, [*METRICS, JUDGE])}")


def parse_metrics(text: str) -> list[str]:
    """``"oracle,looks"`` → its names, each once.

    Args:
        text: names with commas between; ``all`` is every metric.

    Raises:
        LongalignError: an unknown name (the message names the nearest one), or no name.
    """
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    if ALL in names:
        return list(METRICS)
    for name in names:
        if name not in METRICS and name != JUDGE:
            raise LongalignError(unknown("metric", name, [*METRICS, JUDGE]))
    if not names:
        raise LongalignError(f"no metric given: choose from {', '.join(METRICS)}")
    return list(dict.fromkeys(names))


def _read(file: Path) -> Recipe:
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise LongalignError(f"{file}: cannot be read as YAML: {error}") from None
    if not isinstance(told, dict) or "runs" not in told:
        raise LongalignError(
            f"{file}: is no recipe of an evaluation: it has no key 'runs' (label → model or folder). Recipes of "
            "trainings are for `longalign train`"
        )
    try:
        return Recipe.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise LongalignError(f"{file}: {unknown('key', key, sorted(Recipe.model_fields))}") from None
        raise LongalignError(f"{file}: {key}: {first['msg']}") from None


def _with_recipe(config: EvaluateConfig, recipe: Recipe) -> EvaluateConfig:
    """The options with the recipe's values where they are at their defaults."""
    defaults = EvaluateConfig()
    found: dict[str, Any] = {}
    for key in recipe.model_fields_set - {"runs", "set"}:
        value = getattr(recipe, key)
        if value is not None and getattr(config, key) == getattr(defaults, key):
            found[key] = value
    options = {k: v for k, v in recipe.set.items() if "." in k}
    drawing = {k: v for k, v in recipe.set.items() if "." not in k}
    return dataclasses.replace(
        config,
        options={**options, **config.options},
        drawing={**drawing, **config.drawing},
        **found,
    )


def _common(config: EvaluateConfig) -> dict[str, Any]:
    """The settings of all models."""
    own = {"device": config.device, "dtype": config.dtype}
    return {**{k: v for k, v in own.items() if v != "auto"}, **config.drawing}
