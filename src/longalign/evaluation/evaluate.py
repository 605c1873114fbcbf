"""`longalign evaluate`: several sets of generated pictures, measured by several metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from longalign.data.entries import CaptionedPicture, Failure
from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError
from longalign.evaluation.page import main_table, plot_table, prompts_in_common, reading_table, side_by_side
from longalign.evaluation.pictures import MeasuredSet, PictureSet, read_reference, read_sets
from longalign.metrics import METRICS
from longalign.metrics.embedding import IMAGES_AT_ONCE, Advance
from longalign.metrics.features import Features
from longalign.metrics.metric import Metric, Need, PictureBatch, Tools
from longalign.metrics.prompt_bootstrap import PromptBootstrap
from longalign.plugins import unknown
from longalign.preference import PreferenceModel
from longalign.report import Case, Table
from longalign.worlds import DEFAULT, World, owner, owner_of_texts

if TYPE_CHECKING:
    from PIL.Image import Image

Values = dict[str, list[Any]]  # name of a metric → a value a picture


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `longalign evaluate`.

    Attributes:
        metrics: names of `METRICS` with commas between; None: the default ones whose needs are met.
        reference: of fid and cmmd: a folder, or ``stickers``; None: ``stickers`` where the prompts are about them.
        model: preference model of denscore.
        features: extractor of fid, cmmd and diversity; None: for sticker pictures the plain embedded CLIP, which no
            reward has been trained on, else ``model``.
        show: of how many prompts the page shows the pictures.
        samples: bootstrap draws.
        device, dtype: as in `longalign.runtime`.
    """

    metrics: str | None = None
    reference: str | None = None
    model: str = DEFAULT
    features: str | None = None
    show: int = 8
    samples: int = 2000
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class Evaluation:
    """The result of `EvaluationJob.run`.

    Attributes:
        runs: the measured sets, in the order in which they were named.
        table: the runs by metrics.
        drawn: the numbers that have intervals, to be drawn; None if none has.
        reading: how much of the prompts each metric could read.
        cases: pictures of the prompts that all runs share.
        facts: extractor, model, reference, pictures that were left out.
        remark: what to mind in comparisons, where the runs do not have the same prompts.
    """

    runs: Sequence[MeasuredSet]
    table: Table
    drawn: Table | None
    reading: Table
    cases: Sequence[Case]
    facts: Mapping[str, str]
    remark: str = ""

    def to_json(self) -> dict[str, Any]:
        """The content of ``--json``."""
        read = {str(row[0]): f"{row[1]}: {row[2]}" for row in self.reading.rows}
        remark = {"remark": self.remark} if self.remark else {}
        return {**self.facts, **remark, "runs": [run.to_json() for run in self.runs], "read": read}


class EvaluationJob:
    """Reads the runs and loads the models, so that wrong input is found before the long work of `run` begins.

    Args:
        runs: as in `read_sets`.
        config: settings; None: the defaults.

    Raises:
        LongalignError: an unknown metric, a run without pictures, something that a metric needs is missing.
    """

    def __init__(self, runs: Sequence[str], config: EvaluateConfig | None = None) -> None:
        self.config = config = config or EvaluateConfig()
        wanted = None if config.metrics is None else parse_metrics(config.metrics)
        self.sets = read_sets(runs)
        self.world = world_of(self.sets)
        self.metrics = wanted or default_metrics(self.world, config.reference)
        if self.world is None and (asking := _needing("world", self.metrics)):
            raise LongalignError(
                f"{', '.join(asking)}: judges sticker pictures only, and these prompts speak of others"
            )
        self.reference = self._reference()
        self.model: PreferenceModel | None = None
        if _needing("preference", self.metrics):
            self.model = PreferenceModel.from_pretrained(
                config.model, device=config.device, dtype=config.dtype
            )
        self.features = self._features()

    @property
    def steps(self) -> int:
        """The sum of all numbers with which `run` calls back."""
        return evaluation_steps(self.sets, self.reference)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings with their defaults filled in, for `config.yaml`."""
        used = {"metrics": self.metrics, "features": self.features and self.features.name}
        return {**asdict(self.config), **used, "reference": self.reference and self.reference.label}

    def run(self, on_step: Advance = lambda pictures: None) -> Evaluation:
        """Measures all runs.

        Args:
            on_step: called with the number of pictures that were measured since the last call.

        Raises:
            LongalignError: a run of which no picture can be read.
        """
        measured = measure_sets(
            self.sets,
            self.metrics,
            reference=self.reference,
            model=self.model,
            features=self.features,
            judge=self.world,
            samples=self.config.samples,
            device=self.config.device,
            dtype=self.config.dtype,
            on_step=on_step,
        )
        facts, notes = self._facts(measured)
        return Evaluation(
            runs=measured,
            table=main_table(measured, notes),
            drawn=plot_table(measured),
            reading=reading_table(measured),
            cases=side_by_side(
                measured,
                self.config.show,
                judge=self.world if "oracle" in self.metrics else None,
                reference=self.reference,
            ),
            facts=facts,
            remark=prompts_in_common(measured),
        )

    def _reference(self) -> PictureSet | None:
        if not _needing("reference", self.metrics):
            return None
        if self.config.reference is None and self.world is None:
            asking = " and ".join(_needing("reference", self.metrics))
            raise LongalignError(f"{asking} need --reference FOLDER: pictures to compare with")
        prompts = [prompt for of_run in self.sets for prompt in of_run.prompts]
        return read_reference(self.config.reference or (self.world.name if self.world else ""), prompts)

    def _features(self) -> Features | None:
        config = self.config
        if not _needing("features", self.metrics):
            return None
        plain = self.world.plain_features if self.world is not None else None
        name = config.features or plain or config.model
        if not config.features and self.world is None and owner(name) is not None:
            raise LongalignError(
                "the embedded models know sticker pictures alone: name an extractor with --features"
            )
        return Features.from_pretrained(name, device=config.device, dtype=config.dtype)

    def _facts(self, measured: Sequence[MeasuredSet]) -> tuple[dict[str, str], list[str]]:
        """For the page's list of facts; and sentences below the table."""
        facts: dict[str, str] = {}
        notes = []
        if self.features is not None:
            facts["features"] = self.features.what
            notes.append(f"Features: {self.features.what}.")
        if self.model is not None:
            facts["Denscore by"] = self.config.model
            if self.model.decomposition is None:
                notes.append(
                    f"{self.config.model} has no stored V, so there is no Denscore-O (`longalign decompose`)."
                )
        if self.reference is not None:
            facts["reference"] = f"{self.reference.label}, {len(self.reference):,} pictures"
            notes.append(f"Reference: {facts['reference']}; distances of small sets are too large.")
        if failed := [f"{m.label}: {f.name}: {f.reason}" for m in measured for f in m.failed]:
            facts["left out"] = f"{len(failed)} pictures, such as {failed[0]}"
        return facts, notes


def parse_metrics(text: str) -> list[str]:
    """``"oracle,looks"`` → its names, each once.

    Args:
        text: names with commas between.

    Raises:
        LongalignError: an unknown name (the message names the nearest one), or no name.
    """
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in METRICS:
            raise LongalignError(unknown("metric", name, METRICS))
    if not names:
        raise LongalignError(f"no metric given: choose from {', '.join(METRICS)}")
    return list(dict.fromkeys(names))


def default_metrics(world: World | None, reference: str | None) -> list[str]:
    """The metrics that are computed by default and whose needs are met.

    Args:
        world: that the prompts describe; None: none.
        reference: what the user named as reference.
    """
    missing: set[Need] = set() if world is not None else {"world"}
    if reference is None and world is None:
        missing.add("reference")
    return [name for name in METRICS if METRICS[name].by_default and not METRICS[name].needs & missing]


def _needing(need: Need, names: Iterable[str]) -> list[str]:
    return [name for name in names if need in METRICS[name].needs]


def world_of(sets: Sequence[PictureSet]) -> World | None:
    """The world that at least half of the prompts' sentences speak of; None if there is none."""
    segmenter = Segmenter()
    prompts = dict.fromkeys(prompt for of_run in sets for prompt in of_run.prompts)
    return owner_of_texts([s.text for prompt in prompts for s in segmenter(prompt)])


def evaluation_steps(sets: Sequence[PictureSet], reference: PictureSet | None) -> int:
    """How many pictures `measure_sets` decodes: each one once."""
    return sum(map(len, sets)) + (len(reference) if reference is not None else 0)


def measure_sets(
    sets: Sequence[PictureSet],
    metrics: Sequence[str],
    *,
    reference: PictureSet | None = None,
    model: PreferenceModel | None = None,
    features: Features | None = None,
    judge: World | None = None,
    samples: int = 2000,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    on_step: Advance = lambda pictures: None,
) -> list[MeasuredSet]:
    """Measures every set by every metric. Each picture is decoded once; some numbers of each are kept.

    Intervals cover 95 %. Shares of sentences have those of `longalign.report.clustered_wilson`; means have bootstrap
    intervals that draw prompts with all their pictures. Pictures of one prompt are not independent.

    Args:
        sets: of pictures.
        metrics: names of `METRICS`.
        reference: pictures for metrics that need a reference set, such as fid.
        model: preference model, for denscore.
        features: extractor, for fid, cmmd and diversity.
        judge: the world that the prompts describe, for oracle and looks; None: it is found by `world_of`.
        samples: bootstrap draws.
        seed: of the draws.
        device, dtype: for metrics that load a model of their own.
        on_step: called with the number of pictures that were measured since the last call.

    Raises:
        LongalignError: something that a metric needs is missing; a set without a readable picture, or with too few.
    """
    if judge is None and _needing("world", metrics):
        judge = world_of(sets)
    tools = Tools(reference.label if reference else None, features, model, judge, device, dtype)
    chosen: list[Metric] = [METRICS[name](tools) for name in metrics]
    goal: Values = {}
    if reference is not None:
        comparing = [metric for metric in chosen if "reference" in metric.needs]
        pictures, failed, goal = _measure(reference, comparing, tools, on_step)
        if failed:
            raise LongalignError(f"{reference.label}: {failed[0].name}: {failed[0].reason}")
    measured = []
    for of_run in sets:
        pictures, failed, values = _measure(of_run, chosen, tools, on_step)
        failed = [*of_run.failed, *failed]
        if not pictures:
            raise LongalignError(f"{of_run.label}: none of its pictures can be read; {failed[0].reason}")
        found = MeasuredSet(of_run.label, pictures, chosen, failed, values)
        bootstrap = PromptBootstrap([p.text for p in pictures], samples, seed)
        for metric in chosen:
            for key, number in metric.cells(values[metric.name], bootstrap, goal.get(metric.name)).items():
                found.values[key], found.cells[key] = number
        measured.append(found)
    return measured


def _measure(
    pictures: PictureSet, metrics: Sequence[Metric], tools: Tools, on_step: Advance
) -> tuple[list[CaptionedPicture], list[Failure], Values]:
    """The readable pictures, the failures, and the values of each metric."""
    readable: list[CaptionedPicture] = []
    failed: list[Failure] = []
    values: Values = {metric.name: [] for metric in metrics}
    for group, batch in _batches(pictures.pictures, failed, tools, on_step):
        for metric in metrics:
            of_batch = metric.measure(batch)
            if len(of_batch) != len(batch):
                raise LongalignError(
                    f"metric {metric.name!r} gave {len(of_batch)} values for {len(batch)} pictures: it must give one a "
                    "picture"
                )
            values[metric.name] += of_batch
        readable += group
        on_step(len(batch))
    return readable, failed, values


def _batches(
    pictures: Iterable[CaptionedPicture], failed: list[Failure], tools: Tools, on_step: Advance
) -> Iterator[tuple[list[CaptionedPicture], PictureBatch]]:
    """Batches of decoded pictures; those that cannot be read are added to ``failed``."""

    def decoded(picture: CaptionedPicture) -> Image | None:
        try:
            return picture.picture()
        except LongalignError as error:
            failed.append(Failure(picture.name, str(error)))
            on_step(1)
            return None

    stream = ((picture, image) for picture in pictures if (image := decoded(picture)) is not None)
    while group := list(islice(stream, IMAGES_AT_ONCE)):
        rows, images = [p for p, _ in group], [image for _, image in group]
        yield rows, PictureBatch(images, [p.text for p in rows], tools)
