"""The blocks of an evaluation as work for many machines (`longalign.engine`): drawn, then measured pass by pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longalign.engine import Engine, Work, run_work
from longalign.evaluation.drawing import Artist, artist_of, draw_block, is_drawn
from longalign.evaluation.evaluate import EvaluationJob
from longalign.evaluation.measuring import Pass
from longalign.evaluation.parts import FolderParts
from longalign.runs import RunFolder


class _OfJob(Work):
    """Work on a job, which each process reads for itself.

    Args:
        job: the evaluation.
        folder: its run folder.
    """

    def __init__(self, job: EvaluationJob, folder: Path) -> None:
        self.made_of = job.made_of
        self.folder = str(folder)
        self._job: EvaluationJob | None = job

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_job": None}

    @property
    def job(self) -> EvaluationJob:
        """The evaluation."""
        if self._job is None:
            self._job = EvaluationJob(*self.made_of)
        return self._job

    @property
    def run(self) -> RunFolder:
        """Its folder."""
        return RunFolder.at(self.folder)


class DrawWork(_OfJob):
    """Draws blocks of prompts, those of the first model first."""

    @property
    def blocks(self) -> int:
        return sum(plan.blocks for _, plan in self.job.plans())

    def has(self, block: int) -> bool:
        point, plan, number = self._place(block)
        return is_drawn(point.contender, plan, number, self.run)

    def open(self) -> None:
        self._artist: tuple[str, Artist] | None = None

    def do(self, block: int) -> int:
        point, plan, number = self._place(block)
        label = point.contender.label
        if self._artist is None or self._artist[0] != label:
            self._artist = None  # one model in memory at a time
            self._artist = (label, artist_of(point.contender))
        draw_block(self._artist[1], point.contender, plan, number, self.run)
        return len(plan.jobs(number))

    def _place(self, block: int) -> tuple[Any, Any, int]:
        for point, plan in self.job.plans():
            if block < plan.blocks:
                return point, plan, block
            block -= plan.blocks
        raise IndexError(block)


class MeasureWork(_OfJob):
    """Measures blocks by the metrics of one pass.

    Args:
        job: the evaluation.
        folder: its run folder.
        of: the pass.
    """

    def __init__(self, job: EvaluationJob, folder: Path, of: Pass) -> None:
        super().__init__(job, folder)
        self.of = asdict(of)
        self.count = len(job.blocks_of(job.all_sets(self.run)))

    @property
    def blocks(self) -> int:
        return self.count

    @property
    def parts(self) -> FolderParts:
        """Finished blocks."""
        return FolderParts(Path(self.folder) / "parts")

    def has(self, block: int) -> bool:
        return self.parts.has(self.of["name"], block)

    def open(self) -> None:
        self._pass = Pass(**self.of)
        self._measuring, _ = self.job.measuring(self.job.all_sets(self.run), self.parts)
        self._metrics = self.job.load(self._pass)

    def do(self, block: int) -> int:
        self._measuring.mine = [block]
        self._measuring.run(self._pass, self._metrics)
        return self._measuring.blocks.pictures(block)


def run_on(
    job: EvaluationJob, run: RunFolder, engine: Engine, on_step: Callable[[int], None] = lambda pictures: None
) -> None:
    """Draws and measures by an engine. Then `EvaluationJob.run` finds all blocks finished.

    Args:
        job: the evaluation.
        run: its folder, which all workers can reach.
        engine: where the work is done.
        on_step: called with the number of pictures that were drawn or measured.

    Raises:
        LongalignError: a model cannot be loaded; no metric can be computed; a worker fails.
    """
    passes = job.plan(FolderParts(run.path / "parts"))
    if job.points:
        run_work(DrawWork(job, run.path), engine, on_step)
    for of in passes:
        run_work(MeasureWork(job, run.path, of), engine, on_step)
