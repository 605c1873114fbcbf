"""From the names of runs to tables and pictures: what `longalign evaluate` does, for others to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longalign.errors import LongalignError
from longalign.evaluation.evaluate import (
    METRICS,
    OF_FEATURES,
    OF_REFERENCE,
    OF_WORLD,
    Advance,
    Measured,
    evaluate,
    evaluation_steps,
    parse_metrics,
    world_of,
)
from longalign.evaluation.page import main_table, plot_table, reading_table, side_by_side
from longalign.evaluation.pictures import PictureSet, read_reference, read_sets
from longalign.metrics.features import Features
from longalign.preference import PreferenceModel
from longalign.report import Case, Table
from longalign.worlds import DEFAULT, World, owner


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured, and by whom.

    Attributes:
        metrics: names of `METRICS` with commas between; None: all that can be had.
        reference: of fid and cmmd: a folder, or ``stickers``; None: ``stickers`` where the prompts are about them.
        model: preference model of denscore.
        features: extractor of fid, cmmd and diversity; None: the plain embedded CLIP for sticker pictures, which no
            reward has been trained on, else ``model``.
        show: how many prompts to show pictures of.
        samples: bootstrap draws.
        device, dtype: as in `longalign.diffusion.pipelines`.
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
    """What came of it.

    Attributes:
        runs: in the order in which they were named.
        table: the runs by metrics. drawn: those numbers that have intervals, to be drawn; None if none has.
        reading: how much of the prompts each metric could read.
        cases: pictures of the prompts that all runs share.
        facts: extractor, model, reference, what was left out.
    """

    runs: Sequence[Measured]
    table: Table
    drawn: Table | None
    reading: Table
    cases: Sequence[Case]
    facts: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        read = {str(row[0]): f"{row[1]}: {row[2]}" for row in self.reading.rows}
        return {**self.facts, "runs": [run.to_json() for run in self.runs], "read": read}


class EvaluationJob:
    """Reads what there is, and says at once what is wrong; `run` takes the time.

    Args:
        runs: as in `read_sets`.

    Raises:
        LongalignError: an unknown metric, a run without pictures, something a metric needs is missing.
    """

    def __init__(self, runs: Sequence[str], config: EvaluateConfig | None = None) -> None:
        self.config = config = config or EvaluateConfig()
        wanted = None if config.metrics is None else parse_metrics(config.metrics)
        self.sets = read_sets(runs)
        self.world = world_of(self.sets)
        self.metrics = wanted or _possible(self.world, config.reference)
        if self.world is None and (asking := [m for m in self.metrics if m in OF_WORLD]):
            raise LongalignError(
                f"{', '.join(asking)}: judges sticker pictures only, and these prompts speak of others"
            )
        self.reference = self._reference()
        self.model: PreferenceModel | None = None
        if "denscore" in self.metrics:
            self.model = PreferenceModel.from_pretrained(
                config.model, device=config.device, dtype=config.dtype
            )
        self.features = self._features()

    @property
    def steps(self) -> int:
        """How often `run` calls back in all."""
        return evaluation_steps(self.sets, self.metrics, self.reference)

    @property
    def settings(self) -> dict[str, Any]:
        """As resolved, for `config.yaml`."""
        used = {"metrics": self.metrics, "features": self.features and self.features.name}
        return {**asdict(self.config), **used, "reference": self.reference and self.reference.label}

    def run(self, on_step: Advance = lambda pictures: None) -> Evaluation:
        """Measures.

        Raises:
            LongalignError: a run of which no picture can be read.
        """
        found = evaluate(
            self.sets,
            self.metrics,
            reference=self.reference,
            model=self.model,
            features=self.features,
            judge=self.world,
            samples=self.config.samples,
            on_step=on_step,
        )
        facts, notes = self._facts(found)
        return Evaluation(
            runs=found,
            table=main_table(found, self.metrics, notes),
            drawn=plot_table(found, self.metrics),
            reading=reading_table(found, self.metrics, self.model),
            cases=side_by_side(
                found,
                self.config.show,
                judge=self.world if "oracle" in self.metrics else None,
                reference=self.reference,
            ),
            facts=facts,
        )

    def _reference(self) -> PictureSet | None:
        if not any(m in OF_REFERENCE for m in self.metrics):
            return None
        if self.config.reference is None and self.world is None:
            raise LongalignError("fid and cmmd need --reference FOLDER: pictures to be held against")
        prompts = [prompt for of_run in self.sets for prompt in of_run.prompts]
        return read_reference(self.config.reference or (self.world.name if self.world else ""), prompts)

    def _features(self) -> Features | None:
        config = self.config
        if not any(m in OF_FEATURES for m in self.metrics):
            return None
        plain = self.world.plain_features if self.world is not None else None
        name = config.features or plain or config.model
        if not config.features and self.world is None and owner(name) is not None:
            raise LongalignError(
                "the embedded models know sticker pictures alone: name an extractor with --features"
            )
        return Features.from_pretrained(name, device=config.device, dtype=config.dtype)

    def _facts(self, found: Sequence[Measured]) -> tuple[dict[str, str], list[str]]:
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
        if failed := [f"{m.label}: {f.name}: {f.reason}" for m in found for f in m.failed]:
            facts["left out"] = f"{len(failed)} pictures, such as {failed[0]}"
        return facts, notes


def _possible(world: World | None, reference: str | None) -> list[str]:
    """The metrics that can be had without more being said."""
    without = set() if world is not None else set(OF_WORLD)
    if reference is None and world is None:
        without |= set(OF_REFERENCE)
    return [metric for metric in METRICS if metric not in without]
