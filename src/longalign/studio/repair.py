"""Repair: what a picture shows right is kept, what its sentences say and it does not show is drawn again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from longalign.errors import LongalignError
from longalign.generation.painter import picture_info
from longalign.picture_info import png_text
from longalign.repairing import Repaired, repair
from longalign.report import Case, Panel, Report, counted, write_report
from longalign.report.sentences import sentences_of, window_of
from longalign.studio.draw import DrawJob
from longalign.studio.folders import Folders
from longalign.studio.settings import Limits
from longalign.studio.stacks import Stacks
from longalign.studio.stepping import Done, Progress, stepwise
from longalign.studio.verdicts import Judged, judge_pictures, report_rows
from longalign.versions import provenance

BEFORE, AFTER, REGION = "before", "after", "region"
_ROUNDS = 8  # at most


@dataclass(frozen=True)
class RepairJob:
    """What a user asks for.

    Attributes:
        job: what was drawn.
        seed: of the picture that is repaired.
        rounds: how often at most.
    """

    job: DrawJob
    seed: int
    rounds: int = 4


@dataclass(frozen=True)
class Mended:
    """The result of a job.

    Attributes:
        job: what was asked for.
        run: name of its run folder.
        size: width and height of the pictures.
        sentences: ``before`` and ``after`` → judged.
        calls: denoiser calls of the repair, without those of the picture before.
        rounds: rounds that were drawn.
        changed: whether a repair was accepted.
    """

    job: RepairJob
    run: str
    size: tuple[int, int]
    sentences: dict[str, tuple[Judged, ...]]
    calls: int
    rounds: int
    changed: bool

    def file(self, which: str) -> str:
        """A picture within the folder of runs.

        Args:
            which: ``before``, ``after`` or ``region``.
        """
        return f"{self.run}/images/{which}.png"


def mend(
    job: RepairJob, stacks: Stacks, folders: Folders, limits: Limits
) -> Iterator[Progress | Done[Mended]]:
    """Repairs a picture that was drawn. Progress comes while it is done, the result last.

    Args:
        job: what is done.
        stacks: the models.
        folders: where the run folder goes.
        limits: of this studio.

    Raises:
        LongalignError: the job is out of range or not offered, there is no preference model, or what
            `longalign.repair` refuses.
    """
    asked = replace(job.job, seed=job.seed, num=1, best_of=1, compare=()).checked(limits)
    limits.count(job.rounds, _ROUNDS, "the number of rounds")
    choice = stacks.check(asked.choice)
    scorer = stacks.scorer
    if scorer is None:
        raise LongalignError(
            "a repair needs a preference model that finds the false sentences: start the studio with --scorer NAME"
        )
    yield Progress(0.0, "loading the model")
    painter = asked.painter(stacks, choice)
    total = asked.steps * (1 + job.rounds)

    def work(tell: Callable[[Progress], None]) -> Repaired:
        done = 0

        def on_step(pictures: int) -> None:
            nonlocal done
            done += pictures
            turn = min(job.rounds, (done - 1) // asked.steps)
            words = f"round {turn} of {job.rounds}" if turn else "the picture before"
            tell(Progress(0.97 * min(1.0, done / total), words))

        return repair(
            painter.pipe,
            asked.prompt,
            scorer=scorer,
            rounds=job.rounds,
            seed=job.seed,
            negative_prompt=asked.negative or None,
            steps=asked.steps,
            guidance=painter.guidance,
            size=painter.size,
            on_step=on_step,
            **painter.encoding,
        )

    made: Repaired | None = None
    for item in stepwise(work):
        if isinstance(item, Progress):
            yield item
        else:
            made = item.result
    assert made is not None
    [found] = sentences_of(painter.pipe.tokenizer, [asked.prompt], syntax=asked.syntax)  # type: ignore[arg-type]
    texts = [segment.text for segment in found.segments]
    text = " ".join(texts) if asked.syntax != "plain" else asked.prompt
    pictures = {BEFORE: made.before.image, AFTER: made.image}
    rows = judge_pictures(scorer, list(pictures.values()), text, texts, found.beyond)
    sentences = {which: tuple(of) for which, of in zip(pictures, rows, strict=True)}
    settings: dict[str, Any] = {"command": "repair", **asdict(asked), "seed": job.seed, "rounds": job.rounds}
    run = folders.begin(settings)
    try:
        info = png_text(picture_info(asked.prompt, made.image, {**painter.resolved, "seed": job.seed}))
        for which, image in pictures.items():
            run.save_image(which, image, info)
        mask = made.after.mask()
        if mask is not None:
            run.save_image(REGION, mask)
        run.log(made.to_json())
        panels = [Panel(which, image, file=f"images/{which}.png") for which, image in pictures.items()]
        if mask is not None:
            panels.append(Panel(REGION, mask, "white was drawn again", f"images/{REGION}.png", aside=True))
        report = Report(
            title="A repaired picture",
            intro=in_words(made),
            facts=provenance({"model": choice.label, "seed": str(job.seed)}, None),
            cases=[Case("Before and after", asked.prompt, panels, report_rows(sentences, by_oracle=False))],
            window_tokens=window_of(painter.pipe.tokenizer),
        )
        write_report(report, run.report, jsonl=run.path / "report.jsonl")
        finished = folders.finish(run, "repair")
    except BaseException:
        folders.drop(run)
        raise
    rounds = max(attempt.turn for attempt in made.attempts)
    yield Done(
        Mended(
            job,
            folders.name_of(finished.path),
            made.image.size,
            sentences,
            made.calls - made.before.calls,
            rounds,
            made.chosen != made.first,
        )
    )


def in_words(made: Repaired) -> str:
    """What a repair did.

    Args:
        made: the result of `longalign.repair`.
    """
    rounds = max(attempt.turn for attempt in made.attempts)
    if not rounds:
        return "No sentence is doubtful, so nothing was drawn again."
    tried = f"{counted(rounds, 'round')}, {counted(made.calls - made.before.calls, 'denoiser call')}"
    if made.chosen == made.first:
        return f"No round made the picture better, so it stays as it was ({tried})."
    mended = [
        made.sentences[i].text for i in made.before.verdicts.doubtful if i not in made.after.verdicts.doubtful
    ]
    if not mended:
        return f"The picture became better, but a sentence is still doubtful ({tried})."
    return f"Mended: {' '.join(mended)} ({tried})"
