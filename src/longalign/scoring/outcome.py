"""The settings of `longalign score`, and what it gives."""

from __future__ import annotations

from array import array
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longalign.errors import LongalignError
from longalign.preference import PreferenceModel
from longalign.preference.decomposition import Decomposition
from longalign.scoring.data import (
    Failure,
)
from longalign.scoring.ranking import Ranking, Summary, worst_row
from longalign.scoring.stream import Scored

FAILURES_KEPT = 1000


@dataclass(frozen=True)
class ScoreConfig:
    """What decides the scores.

    Attributes:
        model: as in `PreferenceModel.from_pretrained`.
        tokenizer: where the model has none.
        decomposition: a file of `longalign decompose`; else the model's own, if it has one.
        calibration: a file of `longalign calibrate`; else the model's own, if it has one.
        relative: compare each sentence with the same sentence on the other pictures.
        worst: how many of the lowest sentences to keep.
        batch_size: pictures at once.
        device, dtype: as in `longalign.diffusion.pipelines`.
    """

    model: str = "stickers"
    tokenizer: str | None = None
    decomposition: str | None = None
    calibration: str | None = None
    relative: bool = False
    worst: int = 0
    batch_size: int = 32
    device: str = "auto"
    dtype: str = "auto"

    def load(self) -> PreferenceModel:
        """The model, with the decomposition that the settings name.

        Raises:
            LongalignError: either cannot be loaded, or they do not belong together.
        """
        model = PreferenceModel.from_pretrained(
            self.model,
            device=self.device,
            dtype=self.dtype,
            tokenizer=self.tokenizer,
            calibration=self.calibration,
        )
        if self.decomposition is not None:
            model.decomposition = Decomposition.load(self.decomposition, model.width)
        return model


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        kept: every pair, in order; only of named pictures, not of a data set.
        lowest: the pairs with the lowest worst sentences, the lowest first.
        ranking: of the kept pictures, where several share one prompt.
        failures: the first thousand; ``summary.failed`` counts them all.
        late: are sentences compared by their late scores?
        promised: the error rate that verdicts promise; None without a calibration.
        overall, worst: of every scored pair, for the histogram.
    """

    config: ScoreConfig
    decomposed: bool
    late: bool = False
    promised: float | None = None
    summary: Summary = field(default_factory=Summary)
    kept: list[Scored] = field(default_factory=list)
    lowest: list[Scored] = field(default_factory=list)
    ranking: Ranking | None = None
    failures: list[Failure] = field(default_factory=list)
    overall: array[float] = field(default_factory=lambda: array("d"))
    worst: array[float] = field(default_factory=lambda: array("d"))
    folder: Path | None = None

    @classmethod
    def of(cls, config: ScoreConfig, model: PreferenceModel, folder: Path | None) -> Outcome:
        """Empty.

        Args:
            config: the settings.
            model: that gives the scores.
            folder: the run folder, if there is one.
        """
        return cls(
            config,
            model.decomposition is not None,
            late=model.late is not None,
            promised=model.calibration.error if model.calibration is not None else None,
            folder=folder,
        )

    def add(self, result: Scored | Failure) -> None:
        """Counts a result.

        Args:
            result: the next one.
        """
        if isinstance(result, Failure):
            self.summary.failed += 1
            if len(self.failures) < FAILURES_KEPT:
                self.failures.append(result)
            return
        self.summary.add(result)
        self.overall.append(result.scores["overall"])
        self.worst.append(result.values[result.worst])

    def check(self) -> None:
        """Raises `LongalignError` where nothing at all could be scored."""
        if not self.summary.scored:
            first = f", such as {self.failures[0].name}: {self.failures[0].reason}" if self.failures else ""
            raise LongalignError(f"nothing could be scored: {self.summary.failed} failed{first}")

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"model": self.config.model, **self.summary.to_json()}
        found["ranked_by"] = self.ranked_by
        if self.kept:
            found["images"] = [item.to_json() for item in self.kept]
        if self.ranking is not None:
            found["order"] = list(self.ranking.order)
            found["best"] = list(self.ranking.best)
        if self.lowest:
            found["worst"] = [worst_row(item) for item in self.lowest]
        found["failures"] = [asdict(failure) for failure in self.failures]
        if self.folder is not None:
            found["folder"] = str(self.folder)
        return found

    @property
    def ranked_by(self) -> str:
        """What sentences are compared by, in words."""
        kind = "aligned score" if self.decomposed else "score"
        if self.late and not self.config.relative:
            return "late score"
        return f"{kind} less its mean over the other pictures" if self.config.relative else kind
