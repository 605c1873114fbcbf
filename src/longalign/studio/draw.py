"""Drawing: one prompt by one or several stacks, with a preview, the best of several tries, and maps of attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from longalign.errors import LongalignError
from longalign.generation.painter import Painter, picture_info
from longalign.picture_info import png_text
from longalign.report import Case, Panel, Report, counted, write_report
from longalign.report.sentences import sentences_of, window_of
from longalign.runs import RunFolder
from longalign.studio.folders import Folders
from longalign.studio.looking import Maps, looking
from longalign.studio.settings import Limits
from longalign.studio.stacks import Choice, Stacks, compared
from longalign.studio.stepping import Done, Progress, stepwise
from longalign.studio.verdicts import Judged, judge_pictures, lowest, report_rows
from longalign.versions import provenance

_PREVIEWS = 6  # of a picture, at most


@dataclass(frozen=True)
class DrawJob:
    """What a user asks for.

    Attributes:
        prompt, negative: texts of any length.
        choice: the stack.
        compare: names of `longalign.studio.stacks.comparisons`.
        steps, guidance: of sampling; None is the model's own guidance.
        seed: of the first picture.
        num: pictures of each stack.
        best_of: tries for each picture; the one whose worst sentence fits best is shown.
        width, height: in pixels; None is the model's own.
        syntax: notation of weights.
        attention: keep where each sentence was looked at.
    """

    prompt: str
    choice: Choice
    negative: str = ""
    compare: tuple[str, ...] = ()
    steps: int = 25
    guidance: float | None = None
    seed: int = 0
    num: int = 1
    best_of: int = 1
    width: int | None = None
    height: int | None = None
    syntax: str = "plain"
    attention: bool = True

    def checked(self, limits: Limits) -> DrawJob:
        """The job, if it is within the limits.

        Args:
            limits: of this studio.

        Raises:
            LongalignError: what is out of range, by name.
        """
        limits.text(self.prompt)
        if self.negative.strip():
            limits.text(self.negative, "the negative prompt")
        limits.count(self.steps, limits.steps, "the number of steps")
        limits.count(self.seed, 2**63 - 1, "the seed", least=0)
        pictures = limits.count(self.num, limits.pictures, "the number of pictures")
        tries = limits.count(self.best_of, limits.pictures, "the number of tries")
        if (all_in_all := pictures * tries * (1 + len(self.compare))) > limits.pictures:
            raise LongalignError(
                f"{all_in_all} pictures would be drawn ({pictures} of {counted(1 + len(self.compare), 'model')}, "
                f"{counted(tries, 'try', 'tries')} each); at most {limits.pictures} are allowed here"
            )
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None:
                limits.count(side, limits.side_px, f"the {name}")
        if self.guidance is not None and not 0 <= self.guidance <= 100:
            raise LongalignError(f"guidance is a number from 0 to 100, not {self.guidance!r:.40}")
        return self

    def painter(self, stacks: Stacks, choice: Choice) -> Painter:
        """The model of a stack, with this job's settings.

        Args:
            stacks: the models.
            choice: the stack, checked.
        """
        return stacks.painter(
            choice,
            steps=self.steps,
            guidance=self.guidance,
            seed=self.seed,
            width=self.width,
            height=self.height,
            syntax=self.syntax,
            negative_prompt=self.negative or None,
            round_size=True,
        )


@dataclass(frozen=True)
class Shown:
    """A picture with its sentences.

    Attributes:
        label: the stack, and the seed.
        file: within the folder of runs.
        size: width and height in pixels.
        seed: of its noise.
        sentences: judged.
        maps: where each sentence was looked at; None where that is not known.
        note: a remark.
    """

    label: str
    file: str
    size: tuple[int, int]
    seed: int
    sentences: tuple[Judged, ...]
    maps: Maps | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "label": self.label,
            "file": self.file,
            "seed": self.seed,
            "sentences": [row.to_json() for row in self.sentences],
        }


@dataclass(frozen=True)
class Drawing:
    """The result of a job.

    Attributes:
        job: what was asked for.
        run: name of its run folder.
        shown: the pictures.
        cut: texts that did not fit.
    """

    job: DrawJob
    run: str
    shown: tuple[Shown, ...]
    cut: tuple[str, ...] = ()

    @property
    def report(self) -> str:
        """The page, within the folder of runs."""
        return f"{self.run}/report.html"


@dataclass
class _Try:
    seed: int
    image: Image.Image
    sentences: list[Judged]
    maps: Maps | None


def draw(
    job: DrawJob, stacks: Stacks, folders: Folders, limits: Limits, *, command: str = "studio"
) -> Iterator[Progress | Done[Drawing]]:
    """Draws a job. Progress comes while it is done, the result last. A consumer that stops ends the drawing.

    Args:
        job: what is drawn.
        stacks: the models.
        folders: where the run folder goes.
        limits: of this studio.
        command: the first part of the run folder's name.

    Raises:
        LongalignError: what the job asks for is out of range or not offered, or what `generate` refuses.
    """
    job.checked(limits)
    choices = compared(stacks.check(job.choice), job.compare, stacks)
    yield Progress(0.0, "loading the model")
    run = folders.begin({"command": command, **asdict(job)})
    try:
        each = job.num * job.best_of
        shown: list[Shown] = []
        cut: list[str] = []
        for number, choice in enumerate(choices):
            painter = job.painter(stacks, choice)
            made = _Pictures(painter, job, [job.seed + k for k in range(each)])
            for item in stepwise(made.draw):
                if isinstance(item, Progress):
                    share = (number + 0.95 * item.share) / len(choices)
                    words = f"{choice.label}: {item.message}" if len(choices) > 1 else item.message
                    yield Progress(share, words, item.preview)
            yield Progress((number + 0.97) / len(choices), "reading the pictures")
            tries = made.judged(stacks)
            cut += [f"{choice.label}, {text}" for text in made.cut]
            for k in range(job.num):
                group = tries[k * job.best_of : (k + 1) * job.best_of]
                best = max(group, key=lambda one: lowest(one.sentences))
                shown.append(_keep(run, best, group, choice, painter, job, len(shown)))
        window = window_of(painter.pipe.tokenizer)
        _write_page(run, shown, job, choices, stacks.config.scorer, window)
        finished = folders.finish(run, command)
    except BaseException:
        folders.drop(run)
        raise
    name = folders.name_of(finished.path)
    placed = [Shown(s.label, f"{name}/{s.file}", s.size, s.seed, s.sentences, s.maps, s.note) for s in shown]
    yield Done(Drawing(job, name, tuple(placed), tuple(dict.fromkeys(cut))))


@dataclass
class _Pictures:
    """Pictures of one stack, while they are drawn."""

    painter: Painter
    job: DrawJob
    seeds: Sequence[int]
    images: list[Image.Image] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    maps: list[Maps | None] = field(default_factory=list)

    def draw(self, tell: Callable[[Progress], None]) -> None:
        """Draws them.

        Args:
            tell: called after each step.
        """
        painter, job = self.painter, self.job
        [(_, conditioning)] = painter.encode([job.prompt])
        self.cut = [f"{cut.where}: {cut.text}" for cut in conditioning.truncation[0]]
        total, done = len(self.seeds) * job.steps, 0
        every = max(1, job.steps // _PREVIEWS)

        def on_step(pictures: int) -> None:
            nonlocal done
            done += pictures
            step = -(-done // len(self.seeds))
            shown = _preview(painter.pipe) if step % every == 0 and step < job.steps else None
            tell(Progress(done / total, f"step {min(step, job.steps)} of {job.steps}", shown))

        batch = painter.config.batch_size
        for start in range(0, len(self.seeds), batch):
            seeds = self.seeds[start : start + batch]
            together = conditioning[[0] * len(seeds)]
            with looking(painter.pipe, together, job.steps, job.attention) as seen:
                self.images += painter.paint([(range(len(seeds)), together)], seeds, on_step=on_step)
            self.maps += seen.maps()

    def judged(self, stacks: Stacks) -> list[_Try]:
        """The pictures with their sentences."""
        [found] = sentences_of(
            self.painter.pipe.tokenizer,
            [self.job.prompt],
            self.painter.config.language,
            self.job.syntax,  # type: ignore[arg-type]  # checked by encode
        )
        texts = [s.text for s in found.segments]
        text = " ".join(texts) if self.job.syntax != "plain" else self.job.prompt
        rows = judge_pictures(stacks.scorer, self.images, text, texts, found.beyond)
        return [
            _Try(seed, image, of_picture, maps)
            for seed, image, of_picture, maps in zip(self.seeds, self.images, rows, self.maps, strict=True)
        ]


@torch.inference_mode()
def _preview(pipe: Any) -> Image.Image | None:
    """The picture as the solver expects it now, small; None where the solver does not keep it."""
    outputs = getattr(pipe.scheduler, "model_outputs", None)
    latents = outputs[-1] if outputs else None  # x̂_0 of UniPC, DPM-Solver++ and DEIS
    if latents is None or not torch.is_tensor(latents):
        return None
    from longalign.diffusion.denoiser import Denoiser
    from longalign.diffusion.sampling import to_images

    try:
        [image] = to_images(Denoiser.of(pipe).decode(latents[:1]).float().nan_to_num())
    except (LongalignError, RuntimeError):
        return None  # a preview is not worth a job
    image.thumbnail((256, 256))
    return image


def _keep(
    run: RunFolder,
    best: _Try,
    group: Sequence[_Try],
    choice: Choice,
    painter: Painter,
    job: DrawJob,
    number: int,
) -> Shown:
    info = picture_info(job.prompt, best.image, {**painter.resolved, "seed": best.seed})
    path = run.save_image(f"{number:02d}-{best.seed}", best.image, png_text(info))
    for one in group:
        if one is not best:
            run.save_image(f"others/{number:02d}-{one.seed}", one.image, png_text(info))
    note = f"best of {len(group)} tries" if len(group) > 1 else ""
    file = str(Path("images") / path.name)
    return Shown(
        f"{choice.label} · seed {best.seed}",
        file,
        best.image.size,
        best.seed,
        tuple(best.sentences),
        best.maps,
        note,
    )


def _write_page(
    run: RunFolder,
    shown: Sequence[Shown],
    job: DrawJob,
    choices: Sequence[Choice],
    scorer: str | None,
    window: int,
) -> None:
    columns = {one.label: one.sentences for one in shown}
    panels = [Panel(one.label, Image.open(run.path / one.file), one.note, one.file) for one in shown]
    told = {"models": "; ".join(choice.label for choice in choices), "steps": str(job.steps)}
    report = Report(
        title="Drawn in the studio",
        facts=provenance({**told, **({"sentences by": scorer} if scorer else {})}, None),
        cases=[Case("The prompt", job.prompt, panels, report_rows(columns, by_oracle=False))],
        window_tokens=window,
        scores=f"score by {scorer}: cosine × 100, higher fits better" if scorer else "",
    )
    write_report(report, run.report, jsonl=run.path / "report.jsonl")
    run.log({"images": [one.to_json() for one in shown]})
