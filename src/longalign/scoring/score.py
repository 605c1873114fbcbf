"""`longalign score` as a function: pairs → scores, a ranking, the worst sentences, and a run folder of them."""

from __future__ import annotations

import shlex
import sys
from array import array
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longalign.decomposition import Decomposition
from longalign.errors import LongalignError
from longalign.preference import PreferenceModel
from longalign.runs import RunFolder, atomic_write_text, json_line
from longalign.scoring.data import Failure, Pair
from longalign.scoring.ranking import Lowest, Ranking, Summary, rank, worst_row
from longalign.scoring.stream import Scored, score_pairs
from longalign.versions import versions

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
        device, dtype: as in `longalign.pipelines`.
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


def load_model(config: ScoreConfig) -> PreferenceModel:
    """The model, with the decomposition that the settings name.

    Raises:
        LongalignError: either cannot be loaded, or they do not belong together.
    """
    model = PreferenceModel.from_pretrained(
        config.model,
        device=config.device,
        dtype=config.dtype,
        tokenizer=config.tokenizer,
        calibration=config.calibration,
    )
    if config.decomposition is not None:
        model.decomposition = Decomposition.load(config.decomposition, model.width)
    return model


def score(
    pairs: Iterable[Pair | Failure],
    config: ScoreConfig,
    *,
    keep: bool = True,
    model: PreferenceModel | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    on_result: Callable[[Scored | Failure], None] = lambda result: None,
) -> Outcome:
    """Scores pairs as they come; what cannot be read is skipped, counted and reported.

    Args:
        keep: hold every result, rank the pictures of one prompt, show all of them on the page. For a data set:
            False, which holds the lowest alone.
        model: in place of loading ``config.model``.
        out: run folder: ``metrics.jsonl`` has a line a pair as soon as it is scored, ``report.html`` the page,
            ``worst.jsonl`` the lowest sentences.
        on_result: called with each result, in order.

    Raises:
        LongalignError: nothing at all could be scored; the model or the run folder is wrong.
    """
    if config.worst < 0:
        raise LongalignError(f"the number of worst sentences cannot be {config.worst}")
    model = model or load_model(config)
    settings = {"command": "score", **asdict(config)}
    run = RunFolder(out, settings, overwrite=overwrite) if out is not None else None
    outcome = Outcome(
        config,
        model.decomposition is not None,
        late=model.late is not None,
        promised=model.calibration.error if model.calibration is not None else None,
        folder=run.path if run else None,
    )
    lowest = Lowest(config.worst)
    results = score_pairs(model, pairs, batch_size=config.batch_size, relative=config.relative)
    for result in results:
        if isinstance(result, Failure):
            outcome.summary.failed += 1
            if len(outcome.failures) < FAILURES_KEPT:
                outcome.failures.append(result)
        else:
            outcome.summary.add(result)
            outcome.overall.append(result.scores["overall"])
            outcome.worst.append(result.values[result.worst])
            lowest.add(result)
            if keep:
                outcome.kept.append(result)
        if run is not None:
            run.log(
                {"image": result.name, "error": result.reason}
                if isinstance(result, Failure)
                else result.to_json()
            )
        on_result(result)
    if not outcome.summary.scored:
        first = (
            f", such as {outcome.failures[0].name}: {outcome.failures[0].reason}" if outcome.failures else ""
        )
        raise LongalignError(f"nothing could be scored: {outcome.summary.failed} failed{first}")
    outcome.lowest = lowest.sorted()
    if len(outcome.kept) > 1:
        with suppress(LongalignError):  # different prompts: nothing to rank
            outcome.ranking = rank(outcome.kept)
    if run is not None:
        _write(outcome, run)
    return outcome


def _write(outcome: Outcome, run: RunFolder) -> None:
    from longalign.scoring.page import write_scores

    if outcome.lowest:
        lines = [json_line(worst_row(item)) for item in outcome.lowest]
        atomic_write_text(run.path / "worst.jsonl", "".join(lines))
    facts = {
        "command": shlex.join(["longalign", *sys.argv[1:]]),
        "model": outcome.config.model,
        "sentences by": outcome.ranked_by,
        **versions(),
    }
    write_scores(outcome, facts, run.report)
