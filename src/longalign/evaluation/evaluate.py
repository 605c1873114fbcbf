"""`longalign evaluate`: pictures of folders and models, measured by several metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from longalign.data.prompt_rows import PromptRow, read_prompt_rows
from longalign.diffusion.pipelines import load_tokenizer
from longalign.errors import LongalignError
from longalign.evaluation.choice import (
    OF_WORLDS,
    default_metrics,
    judges_strangers,
    need_some,
    needing,
    world_of,
)
from longalign.evaluation.comparison import compare
from longalign.evaluation.drawing import Plan, check_slugs, draw, drawn_set
from longalign.evaluation.judging import check_judge, judge_runs
from longalign.evaluation.measuring import Blocks, Measuring, Pass
from longalign.evaluation.parts import FolderParts, MemoryParts, Parts
from longalign.evaluation.pictures import read_reference, read_sets
from longalign.evaluation.plan_file import (
    check_inputs,
    forget_outdated,
    inputs_of,
    planned,
    told_options,
)
from longalign.evaluation.processes import Shard
from longalign.evaluation.result import Evaluation, facts_of
from longalign.evaluation.sets import PictureSet
from longalign.evaluation.settings import (
    JUDGE,
    EvaluateConfig,
    check_options,
    metric_options,
    parse_metrics,
    read_job,
)
from longalign.evaluation.sweep import Point, compare_points, parse_sweep, points_of
from longalign.metrics import METRICS
from longalign.metrics.embedding import Advance
from longalign.metrics.features import Features
from longalign.metrics.metric import Metric, Need, Tools
from longalign.runs import RunFolder
from longalign.worlds import DEFAULT, owner


class EvaluationJob:
    """Reads the input, so that what is wrong with it is found before the long work of `run` begins.

    Args:
        names: folders, models or a recipe, see `longalign.evaluation.contenders` and `read_job`.
        config: settings; None: the defaults.
        sets: further sets of pictures.

    Attributes:
        made_of: names and settings, from which another process makes the same job.
        contenders: what is compared.
        config: the settings, with those of a recipe.
        rows: the prompts of models.
        points: the models at all values of the sweep.
        world: that the prompts describe; None: none.
        metrics: names.

    Raises:
        LongalignError: an unknown metric or option; a run without pictures; models without prompts; something that a
            metric needs is missing.
    """

    def __init__(
        self,
        names: Sequence[str],
        config: EvaluateConfig | None = None,
        sets: Sequence[PictureSet] = (),
    ) -> None:
        self.made_of = (list(names), config or EvaluateConfig())
        self.contenders, self.config = read_job(*self.made_of)
        check_options(self.config)
        config = self.config
        wanted = None if config.metrics is None else parse_metrics(config.metrics)
        models = [c for c in self.contenders if c.draws]
        if models and config.prompts is None:
            raise LongalignError(
                f"{models[0].label}: a model needs prompts to draw: --prompts FILE, or --prompts stickers:100"
                if Path(models[0].name).exists() or owner(models[0].name) is not None
                else f"{models[0].name}: no such run folder; a model of the hub needs --prompts"
            )
        self.rows: list[PromptRow] = (
            [] if config.prompts is None else read_prompt_rows(config.prompts, config.limit)
        )
        self.sweep = None if config.sweep is None else parse_sweep(config.sweep)
        if self.sweep is not None and not models:
            raise LongalignError("a sweep draws: name a model and --prompts, not only folders of pictures")
        seeds = [config.seed + k for k in range(config.num)]
        tokenizer = load_tokenizer() if self.sweep is not None and self.sweep.kind == "length" else None
        self.points = points_of(models, self.sweep, self.rows, seeds, tokenizer)
        check_slugs([p.contender for p in self.points])
        for point in self.points:
            if owner(point.contender.name) is not None:
                point.contender.config()  # a wrong setting is found now
        folders = [f"{c.label}={c.name}" for c in self.contenders if not c.draws]
        self.sets = [*sets, *read_sets(folders, self.rows)]
        self.world = world_of([p for s in self.sets for p in s.prompts] or [r.prompt for r in self.rows])
        self.judges = JUDGE in (wanted or ()) or any(k.startswith(f"{JUDGE}.") for k in config.options)
        named = [name for name in wanted or () if name != JUDGE]
        self.metrics = named or default_metrics(self.world, config.reference)
        self.dropped: dict[str, str] = {}
        self._drop_impossible()
        self.reference = self._reference()
        self.features: Features | None = None
        self.tools = Tools(
            self.reference.label if self.reference else None, None, self.world, config.device, config.dtype
        )
        if self.judges:
            check_judge(metric_options(JUDGE, config, self.tools))
            if self.sweep is not None:
                raise LongalignError("judge: compares runs, not the points of a sweep; leave one of them out")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings with their defaults filled in, for `config.yaml`."""
        told = asdict(self.config)
        told["metrics"] = list(self.metrics)
        told["runs"] = {c.label: {"name": c.name, **dict(c.settings)} for c in self.contenders}
        return told

    def plans(self, shard: Shard | None = None) -> list[tuple[Point, Plan]]:
        """What each model draws.

        Args:
            shard: part of this process.
        """
        found = []
        for point in self.points:
            plan = Plan(point.rows, point.seeds, self.config.batch_size)
            mine = (shard or Shard()).of(plan.blocks)
            found.append((point, Plan(point.rows, point.seeds, self.config.batch_size, mine)))
        return found

    def pictures_to_draw(self, shard: Shard | None = None) -> int:
        """The sum of the numbers with which `draw` calls back.

        Args:
            shard: part of this process.
        """
        return sum(len(plan.jobs(b)) for _, plan in self.plans(shard) for b in plan.mine or ())

    def draw(
        self, run: RunFolder, shard: Shard | None = None, on_step: Callable[[int], None] = lambda n: None
    ) -> None:
        """Draws the pictures of all models that are not in the run folder yet.

        Args:
            run: the run folder.
            shard: part of this process.
            on_step: called with the number of pictures that were finished.

        Raises:
            LongalignError: a model cannot be loaded, or gives NaN.
        """
        for point, plan in self.plans(shard):
            draw(point.contender, plan, run, on_step)

    def prepare(self, parts: FolderParts) -> None:
        """Looks at what a folder has from an earlier call, before anything is drawn or measured in this one.

        What has to be measured again gets passes of its own. One process does this, before the others begin.

        Args:
            parts: finished blocks.

        Raises:
            LongalignError: prompts or pictures have changed since the folder was begun.
        """
        check_inputs(parts, inputs_of(self.rows, self.sets, self.reference))
        forget_outdated(parts, {name: self._told(name) for name in self.metrics})
        self.plan(parts)

    def plan(self, parts: Parts) -> list[Pass]:
        """Decides which metrics are computed together, and notes it beside the parts.

        Args:
            parts: finished blocks.
        """
        self.features = self._features()
        return planned(
            parts if isinstance(parts, FolderParts) else None,
            {name: self._told(name) for name in self.metrics},
            self._weights,
            with_features=self.features is not None,
            device=self.config.device,
        )

    def all_sets(self, run: RunFolder | None) -> list[PictureSet]:
        """All sets of pictures: those of models first, in the order of the runs.

        Args:
            run: the run folder with the pictures of models; None: there are no models.
        """
        of_models = []
        for point, plan in self.plans():
            assert run is not None
            of_models.append(drawn_set(point.contender, plan, run.path))
        return [*of_models, *self.sets]

    def pictures_to_measure(self, sets: Sequence[PictureSet], shard: Shard | None = None) -> int:
        """The sum of the numbers with which `measure` calls back, for each pass.

        Args:
            sets: of `all_sets`.
            shard: part of this process.
        """
        blocks = Blocks(sets, self.config.batch_size)
        reference = len(self.reference) if self.reference is not None else 0
        return sum(map(blocks.pictures, (shard or Shard()).of(len(blocks)))) + reference

    def measure(
        self,
        sets: Sequence[PictureSet],
        parts: Parts | None = None,
        shard: Shard | None = None,
        on_step: Advance = lambda pictures: None,
    ) -> tuple[Measuring, list[Pass], list[Metric]]:
        """Measures the blocks that are not finished.

        Args:
            sets: of `all_sets`.
            parts: finished blocks; None: they are kept in memory.
            shard: part of this process.
            on_step: called with the number of pictures that were measured since the last call.

        Returns:
            what was found, its passes, and the metrics that could be computed.
        """
        parts = parts or MemoryParts()
        mine = (shard or Shard()).of(len(self.blocks_of(sets)))
        measuring, passes = self.measuring(sets, parts, mine, on_step)
        if self.reference is not None and self.features is not None:
            measuring.measure_reference()
        loaded: dict[str, Metric] = {}
        used: list[Pass] = []
        for of_pass in passes:
            metrics = self.load(of_pass)
            if not metrics and not of_pass.with_features and not measuring.finished(of_pass):
                continue  # none of its metrics can be loaded, or is wanted now
            used.append(of_pass)
            self.dropped.update(measuring.run(of_pass, metrics))
            loaded.update({m.name: m for m in metrics})
        kept = [loaded[name] for name in self.metrics if name in loaded and name not in self.dropped]
        if not kept:
            self.metrics = []
            need_some(self.metrics, self.dropped)
        return measuring, used, kept

    def blocks_of(self, sets: Sequence[PictureSet]) -> Blocks:
        """The blocks in which pictures are measured.

        Args:
            sets: of `all_sets`.
        """
        return Blocks(sets, self.config.batch_size)

    def measuring(
        self,
        sets: Sequence[PictureSet],
        parts: Parts,
        mine: Sequence[int] | None = None,
        on_step: Advance = lambda pictures: None,
    ) -> tuple[Measuring, list[Pass]]:
        """What `measure` measures with, and its passes.

        Args:
            sets: of `all_sets`.
            parts: finished blocks.
            mine: the blocks of this process; None: all.
            on_step: called with the number of pictures that were measured since the last call.
        """
        passes = self.plan(parts)
        if self.features is not None:
            self.tools = Tools(
                self.tools.reference, self.features, self.world, self.config.device, self.config.dtype
            )
        records = {row.id: row.record for row in self.rows}
        blocks = self.blocks_of(sets)
        return Measuring(blocks, self.tools, parts, records, self.reference, mine, on_step), passes

    def load(self, of: Pass) -> list[Metric]:
        """The metrics of a pass with their models. Those that cannot be loaded are noted in `dropped`.

        Args:
            of: the pass.
        """
        metrics = []
        for name in of.metrics:
            if name not in self.metrics:
                continue
            try:
                metrics.append(METRICS[name](self.tools, metric_options(name, self.config, self.tools)))
            except LongalignError as error:
                self.dropped[name] = str(error).removeprefix(f"{name}: ")
        return metrics

    def judge(
        self, found: Evaluation, folder: Path, on_step: Callable[[int], None] = lambda pairs: None
    ) -> Evaluation:
        """Asks the judge, if there is one. What it cannot answer is counted; nothing else waits for it.

        Args:
            found: of `result`.
            folder: the run folder, where the answers are kept.
            on_step: called with the number of pairs that were judged.
        """
        if not self.judges or len(found.runs) < 2:
            return found
        options = metric_options(JUDGE, self.config, self.tools)
        try:
            verdicts = judge_runs(
                found.measuring,
                found.passes,
                found.baseline,
                options,
                folder,
                device=self.config.device,
                dtype=self.config.dtype,
                on_step=on_step,
            )
        except LongalignError as error:
            return replace(found, dropped={**found.dropped, JUDGE: str(error)})
        return replace(found, judged=verdicts, facts={**found.facts, **verdicts.facts})

    @property
    def pairs_to_judge(self) -> int:
        """The sum of the numbers with which `judge` calls back, at most."""
        runs = len(self.points) + len(self.sets)
        return max(0, runs - 1) * len(self.rows or (self.sets[0].prompts if self.sets else ()))

    def result(self, measuring: Measuring, passes: Sequence[Pass], metrics: Sequence[Metric]) -> Evaluation:
        """Tables and comparisons of what `measure` found.

        Args:
            measuring, passes, metrics: of `measure`.

        Raises:
            LongalignError: a run of which no picture can be read; an unknown baseline.
        """
        measured = measuring.measured(passes, metrics, self.config.samples)
        labels = [m.label for m in measured]
        baseline = self.config.baseline or labels[0]
        if baseline not in labels and self.sweep is None:
            raise LongalignError(
                f"--baseline {baseline!r}: there is no such run; there are {', '.join(labels)}"
            )
        columns = [column for metric in metrics for column in metric.columns]
        samples = self.config.samples
        if self.sweep is None:
            comparisons = compare(measured, columns, baseline, samples=samples)
        else:
            base = self.config.baseline or self.points[0].base
            comparisons = compare_points(self.sweep, self.points, measured, columns, base, samples)
        facts, notes = facts_of(measured, metrics, self.features, self.reference)
        return Evaluation(
            measured,
            comparisons,
            baseline,
            measuring,
            passes,
            self.dropped,
            facts,
            notes,
            self.world,
            self.sweep,
            self.points,
        )

    def run(self, run: RunFolder | None = None, on_step: Advance = lambda pictures: None) -> Evaluation:
        """Draws, measures and compares, in one process.

        Args:
            run: the run folder; None: nothing is written, which folders of pictures alone allow.
            on_step: called with the number of pictures that were drawn or measured since the last call.

        Raises:
            LongalignError: as `draw`, `measure` and `result`; models without a run folder.
        """
        if run is None and self.points:
            raise LongalignError("models draw into a run folder: give one")
        parts = None if run is None else FolderParts(run.path / "parts")
        if run is not None and parts is not None:
            self.prepare(parts)
            self.draw(run, on_step=on_step)
        sets = self.all_sets(run)
        return self.result(*self.measure(sets, parts, on_step=on_step))

    def _told(self, name: str) -> dict[str, Any]:
        return told_options(metric_options(name, self.config, self.tools))

    def _weights(self, name: str) -> Sequence[str]:
        options = metric_options(name, self.config, self.tools)
        return list(METRICS[name].weights(self.tools, options))

    def _drop_impossible(self) -> None:
        """Leaves out the metrics whose needs are not met, with the reason."""
        missing: dict[str, str] = {}
        if self.world is None:
            missing["world"] = "judges sticker pictures only, and these prompts speak of others"
        if self.config.reference is None and self.world is None:
            missing["reference"] = "needs --reference FOLDER: pictures to compare with"
        for name in list(self.metrics):
            reasons = [missing[need] for need in METRICS[name].needs if need in missing]
            told = self.config.model is not None or f"{name}.model" in self.config.options
            if self.world is None and not told and judges_strangers(name):
                reasons.append(f"{OF_WORLDS}: name a preference model with --model")
            if reasons:
                self.metrics.remove(name)
                self.dropped[name] = reasons[0]
        need_some(self.metrics, self.dropped)

    def _reference(self) -> PictureSet | None:
        if not needing("reference", self.metrics):
            return None
        prompts = [p for s in self.sets for p in s.prompts] or [r.prompt for p in self.points for r in p.rows]
        name = self.config.reference or (self.world.name if self.world else "")
        try:
            return read_reference(name, list(dict.fromkeys(prompts)))
        except LongalignError as error:
            if self.config.reference is not None:
                raise
            self._without("reference", str(error))
            return None

    def _features(self) -> Features | None:
        config = self.config
        if self.features is not None or not needing("features", self.metrics):
            return self.features
        plain = self.world.plain_features if self.world is not None else None
        name = config.features or plain or config.model or DEFAULT
        if not config.features and self.world is None and owner(name) is not None:
            self._without("features", f"{OF_WORLDS}: name an extractor with --features")
            return None
        try:
            return Features.from_pretrained(name, device=config.device, dtype=config.dtype)
        except LongalignError as error:
            self._without("features", str(error))
            return None

    def _without(self, need: Need, reason: str) -> None:
        """Leaves out the metrics that need what is not there."""
        for name in needing(need, self.metrics):
            self.metrics.remove(name)
            self.dropped[name] = reason
        need_some(self.metrics, self.dropped)
