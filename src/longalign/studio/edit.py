"""Editing a picture by two texts, as a run that appears when it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longalign.editing.edit import check_texts
from longalign.editing.options import METHODS
from longalign.editing.run import AFTER, BEFORE, DIFFERENCE, EditConfig, EditRun, run_edit
from longalign.errors import LongalignError
from longalign.plugins import unknown
from longalign.studio.check import open_bounded
from longalign.studio.folders import Folders
from longalign.studio.settings import Limits
from longalign.studio.stacks import Choice, Stacks
from longalign.studio.stepping import Done, Progress, stepwise
from longalign.studio.verdicts import Judged, judge_pictures


@dataclass(frozen=True)
class EditJob:
    """What a user asks for.

    Attributes:
        picture: its file.
        source, target: what it shows, and what it should show.
        choice: the stack.
        method: of `longalign.editing.options.METHODS`, or ``auto``.
        steps: of the whole schedule.
        start: share of the steps that are taken; None is the model's own.
        seed: of the noise.
    """

    picture: Path
    source: str
    target: str
    choice: Choice
    method: str = "auto"
    steps: int = 50
    start: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Edited:
    """The result of a job.

    Attributes:
        job: what was asked for.
        run: name of its run folder.
        size: width and height of the pictures.
        verdict: in words; empty where nothing was judged.
        sentences: ``before`` and ``after`` → the sentences of the target.
    """

    job: EditJob
    run: str
    size: tuple[int, int]
    verdict: str
    sentences: dict[str, tuple[Judged, ...]]

    def file(self, which: str) -> str:
        """A picture within the folder of runs.

        Args:
            which: ``before``, ``after`` or ``difference``.
        """
        return f"{self.run}/images/{which}.png"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "folder": self.run,
            "verdict": self.verdict,
            "images": {which: self.file(which) for which in (BEFORE, AFTER, DIFFERENCE)},
            "sentences": {k: [row.to_json() for row in rows] for k, rows in self.sentences.items()},
        }


def edit_picture(
    job: EditJob, stacks: Stacks, folders: Folders, limits: Limits
) -> Iterator[Progress | Done[Edited]]:
    """Edits a picture. Progress comes while it is done, the result last.

    Args:
        job: what is done.
        stacks: the models.
        folders: where the run folder goes.
        limits: of this studio.

    Raises:
        LongalignError: the job is out of range or not offered, or what `longalign.edit` refuses.
    """
    limits.text(job.source, "the source")
    limits.text(job.target, "the target")
    check_texts(job.source, job.target)
    limits.count(job.steps, limits.steps, "the number of steps")
    limits.count(job.seed, 2**63 - 1, "the seed", least=0)
    if job.method not in ("auto", *METHODS):
        raise LongalignError(unknown("method", job.method, ["auto", *METHODS]))
    choice = stacks.check(job.choice)
    image = open_bounded(job.picture, limits)
    yield Progress(0.0, "loading the model")
    pipe = stacks.painter(choice).pipe
    config = EditConfig(
        model=choice.model,
        loras=choice.loras,
        soft_tokens=choice.soft_tokens,
        strategy=choice.strategy,
        device=stacks.config.device,
        dtype=stacks.config.dtype,
        method=job.method,
        steps=job.steps,
        start=job.start,
        seed=job.seed,
        resize=True,
    )
    calls = max(1, config.options(pipe).calls)  # refuses what is out of range, before there is a folder
    run = folders.begin({"command": "edit"})

    def work(tell: Callable[[Progress], None]) -> EditRun:
        done = 0

        def on_step(pictures: int) -> None:
            nonlocal done
            done += pictures
            tell(Progress(0.95 * done / calls, f"step {done} of {calls}"))

        return run_edit(
            image, job.source, job.target, config, out=run.path, overwrite=True, pipe=pipe, on_step=on_step
        )

    made: EditRun | None = None
    try:
        for item in stepwise(work):
            if isinstance(item, Progress):
                yield item
            else:
                made = item.result
        assert made is not None
        finished = folders.finish(run, "edit")
    except BaseException:
        folders.drop(run)
        raise
    name = folders.name_of(finished.path)
    found = made.rows["target"]
    texts, past = [row.text for row in found], [row.beyond for row in found]
    judged = judge_pictures(stacks.scorer, [made.result.before, made.result.image], job.target, texts, past)
    sentences = {which: tuple(rows) for which, rows in zip((BEFORE, AFTER), judged, strict=True)}
    shown = replace(job, picture=Path(job.picture.name))
    yield Done(Edited(shown, name, made.result.image.size, made.verdict, sentences))
