"""Drawing in blocks, by any process (`longalign.engine`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from longalign.encoding import Truncation
from longalign.encoding.encode import fits
from longalign.engine import Work, block_count, block_rows
from longalign.generation.painter import ON_STEP, Painter, picture_info
from longalign.generation.repairs import keep_repair, scored_rows, shown_before, told_of
from longalign.generation.result import Line, line_json, part_path
from longalign.generation.settings import GenerateConfig
from longalign.picture_info import png_text
from longalign.preference import PreferenceModel
from longalign.preference.images import load_image
from longalign.preference.sentences import score_rows
from longalign.report.sentences import sentence_rows, sentences_of
from longalign.runs import RunFolder, atomic_write_text, json_line

PICTURES = 64  # of a block: prompts that are encoded together; what was drawn of it is not lost


@dataclass
class GenerateWork(Work):
    """Draws blocks of prompts. The part of a block has a line a prompt, and is written after its pictures.

    Attributes:
        prompts: all prompts; a sequence that can be pickled.
        config: the settings.
        folder: the run folder.
        painter: the model, in place of loading it; for this process alone.
        on_step: called after each sampling step with the number of pictures in the batch; for this process alone.
        unfinished: number of the block in which this process was interrupted → lines of the pictures that are there.
    """

    prompts: Sequence[str]
    config: GenerateConfig
    folder: str
    painter: Painter | None = None
    on_step: ON_STEP | None = None
    unfinished: dict[int, list[Line]] = field(default_factory=dict)

    @property
    def blocks(self) -> int:
        return block_count(self._size, len(self.prompts))

    @property
    def _size(self) -> int:
        """Prompts of a block, with all their pictures."""
        return max(1, PICTURES // self.config.num)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "painter": None, "on_step": None}

    def has(self, block: int) -> bool:
        return part_path(Path(self.folder), block).is_file()

    def open(self) -> None:
        self.painter = self.painter or Painter(self.config)
        self._scorer = None
        if self.config.scorer is not None:
            self._scorer = PreferenceModel.from_pretrained(
                self.config.scorer, device=self.config.device, dtype=self.config.dtype
            )

    def do(self, block: int) -> int:
        numbers = block_rows(block, self._size, len(self.prompts))
        drawn = _Block(numbers, [self.prompts[i] for i in numbers], self)
        try:
            drawn.draw()
            lines = "".join(map(json_line, drawn.lines()))
        except KeyboardInterrupt:
            self.unfinished[block] = drawn.lines()
            raise
        atomic_write_text(part_path(Path(self.folder), block), lines)
        return len(drawn.jobs)


class _Block:
    """A block while it is drawn."""

    def __init__(self, numbers: Iterable[int], prompts: Sequence[str], work: GenerateWork) -> None:
        assert work.painter is not None
        self.painter, self.scorer, self.on_step = work.painter, work._scorer, work.on_step
        self.config = work.config
        self.numbers, self.prompts = list(numbers), prompts
        self.run = RunFolder.at(work.folder)
        seeds = [self.config.seed + k for k in range(self.config.num)]
        self.jobs = [(i, seed) for i in range(len(prompts)) for seed in seeds]
        self.truncation: dict[int, tuple[Truncation, ...]] = {}
        self.whole = [False] * len(prompts)
        digits = max(4, len(str(len(work.prompts) - 1)))
        self.names = [f"{self.numbers[i]:0{digits}d}-{seed}" for i, seed in self.jobs]

    def draw(self) -> None:
        """Draws the pictures that are not there yet, batch by batch."""
        painter = self.painter
        groups = painter.encode([self.prompts[i] for i, _ in self.jobs])
        for members, conditioning in groups:
            self.truncation.update(zip(members, conditioning.truncation, strict=True))
        self.whole = fits(painter.pipe, self.prompts, self.config.negative_prompt, **painter.encoding)

        def keep(job: int, image: Image.Image) -> None:
            i, seed = self.jobs[job]
            if self._path(job).is_file():
                return  # it is there from before, to the byte
            resolved = {**painter.resolved, "seed": seed}
            if self.config.strategy == "auto":
                resolved["strategy"] = chosen_by_auto(int(self.whole[i]), 1)
            info = picture_info(self.prompts[i], image, resolved)
            self.run.save_image(self.names[job], image, png_text(info))

        on_step: Callable[[int], None] = self.on_step or (lambda pictures: None)
        if self.config.repairs:
            for job in range(len(self.jobs)):
                self._repair(job, keep, on_step)
            return
        painter.paint(
            groups,
            [seed for _, seed in self.jobs],
            on_image=keep,
            on_step=on_step,
            there=lambda job: self._path(job).is_file(),
        )

    def _repair(
        self, job: int, keep: Callable[[int, Image.Image], None], on_step: Callable[[int], None]
    ) -> None:
        """Draws and repairs one picture, unless it is there."""
        assert self.scorer is not None
        left = self.config.most_steps
        if not self._path(job).is_file():
            i, seed = self.jobs[job]
            repaired = self.painter.repaired(self.prompts[i], seed, self.scorer, on_step=on_step)
            keep_repair(self.run, self.names[job], repaired)
            keep(job, repaired.image)
            left -= repaired.calls
        if left:
            on_step(left)  # of rounds that were not needed

    def lines(self) -> list[Line]:
        """A line for each prompt that has a picture."""
        pipe = self.painter.pipe
        sentences = sentences_of(pipe.tokenizer, self.prompts, self.config.language, self.config.syntax)  # type: ignore[arg-type]
        lines = []
        for i, prompt in enumerate(self.prompts):
            jobs = [job for job, (of, _) in enumerate(self.jobs) if of == i and self._path(job).is_file()]
            if not jobs:
                continue
            shown = {f"seed {self.jobs[job][1]}": load_image(self._path(job)) for job in jobs}
            seeds = [self.jobs[job][1] for job in jobs]
            told = [told_of(self.run, self.names[job]) for job in jobs] if self.config.repairs else []
            for repair, seed in zip(told, seeds, strict=False):
                shown |= shown_before(repair, seed, self.run.path)
            rows = sentence_rows(sentences[i], shown, self.painter.settings.oracle)
            if told:
                rows = scored_rows(rows, told, seeds)
            elif self.scorer is not None:
                rows = score_rows(self.scorer, rows, shown, prompt)
            files = [str(self._path(job).relative_to(self.run.path)) for job in jobs]
            cut = self.truncation.get(jobs[0], ())
            lines.append(line_json(self.numbers[i], prompt, seeds, files, rows, cut, self.whole[i], told))
        return lines

    def _path(self, job: int) -> Path:
        return self.run.images / f"{self.names[job]}.png"


def chosen_by_auto(whole: int, prompts: int) -> str:
    """What the strategy `auto` chose, in words.

    Args:
        whole: how many prompts fit the window.
        prompts: of so many.
    """
    if whole in (0, prompts):
        return "auto: plain (the text fits the window)" if whole else "auto: clip-cat"
    return f"auto: plain for the {whole} of {prompts} prompts that fit the window, clip-cat for the others"
