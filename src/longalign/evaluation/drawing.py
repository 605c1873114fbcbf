"""Draws the same prompts from the same seeds by several models, block by block, and goes on where it was stopped."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from longalign.backbones import find_backbone
from longalign.data.entries import CaptionedPicture
from longalign.data.prompt_rows import PromptRow
from longalign.diffusion.any_pipeline import check_call, draw_any, open_any
from longalign.encoding.conditioning import TruncationWarning
from longalign.errors import LongalignError
from longalign.evaluation.contenders import FIELDS, Contender
from longalign.evaluation.sets import PictureSet
from longalign.generation import Painter, picture_info
from longalign.picture_info import PictureInfo, png_text
from longalign.runs import RunFolder

_PLAIN = re.compile(r"[\w.-]{1,80}")  # ids that can be names of files
OnStep = Callable[[int], None]


class Artist(Protocol):
    """What draws prompts: one of our backbones, or any pipeline."""

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], on_step: OnStep) -> list[Image.Image]: ...

    def info(self, prompt: str, image: Image.Image, seed: int) -> PictureInfo: ...


@dataclass(frozen=True)
class Plan:
    """What is drawn.

    Attributes:
        rows: the prompts.
        seeds: of the pictures of each prompt.
        prompts_at_once: how many prompts make a block, which is drawn together.
        mine: the blocks that this process draws; None: all.
    """

    rows: Sequence[PromptRow]
    seeds: Sequence[int]
    prompts_at_once: int
    mine: Sequence[int] | None = None

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-len(self.rows) // self.prompts_at_once)

    def jobs(self, block: int) -> list[tuple[int, int]]:
        """(number of a row, seed) of each picture of a block."""
        start = block * self.prompts_at_once
        numbers = range(start, min(start + self.prompts_at_once, len(self.rows)))
        return [(number, seed) for number in numbers for seed in self.seeds]


class Stacked:
    """A model that longalign has a backbone for, with LoRAs, soft tokens and an encoding."""

    def __init__(self, contender: Contender, pipe: Any = None) -> None:
        self.painter = Painter(contender.config(), pipe)
        check_call(self.painter.pipe, {})  # a pipeline that changes a picture has one of our backbones, too

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], on_step: OnStep) -> list[Image.Image]:
        """One picture a prompt."""
        return self.painter.paint(self.painter.encode(prompts), seeds, on_step=on_step)

    def info(self, prompt: str, image: Image.Image, seed: int) -> PictureInfo:
        """What the picture says of how it was made."""
        return picture_info(prompt, image, {**self.painter.resolved, "seed": seed})


class AnyPipeline:
    """Any text-to-image pipeline of diffusers, with its own encoding, guidance and size."""

    def __init__(self, contender: Contender, pipe: Any) -> None:
        self.name, self.pipe = contender.name, pipe
        told = dict(contender.settings)
        for name in ("device", "dtype"):
            told.pop(name, None)
        self.batch_size = int(told.pop("batch_size", 16))
        self.sampling = {name: told.pop(name, None) for name in ("steps", "guidance", "width", "height")}
        self.arguments = told
        check_call(pipe, told)

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], on_step: OnStep) -> list[Image.Image]:
        """One picture a prompt."""
        return draw_any(
            self.pipe,
            prompts,
            seeds,
            arguments=self.arguments,
            batch_size=self.batch_size,
            on_image=lambda index, image: on_step(0),
            **self.sampling,
        )

    def info(self, prompt: str, image: Image.Image, seed: int) -> PictureInfo:
        """What the picture says of how it was made."""
        told = {k: v for k, v in self.sampling.items() if v is not None}
        size = f"{image.width}x{image.height}"
        return PictureInfo(prompt, None, {**told, "model": self.name, "seed": seed, "size": size})


def artist_of(contender: Contender) -> Artist:
    """Loads a model.

    Raises:
        LongalignError: there is no such model; a setting is unknown; its call needs an argument that nobody gave.
    """
    stacked = {"loras", "soft_tokens", "strategy", "segments", "syntax"} & contender.settings.keys()
    if stacked:
        return Stacked(contender)
    told = contender.settings
    pipe = open_any(contender.name, device=told.get("device", "auto"), dtype=told.get("dtype", "auto"))
    if find_backbone(pipe) is not None and contender.settings.keys() <= FIELDS:
        return Stacked(contender, pipe)
    return AnyPipeline(contender, pipe)


def file_of(label: str, rows: Sequence[PromptRow], number: int, seed: int) -> str:
    """Where in the run folder a picture lies: ``pictures/LABEL/ID-SEED.png``.

    Args:
        label: of the contender.
        rows: the prompts.
        number: of the prompt.
        seed: of the picture.
    """
    told = rows[number].id
    stem = told if _PLAIN.fullmatch(told) else f"{number:05d}"
    return f"pictures/{_slug(label)}/{stem}-{seed}.png"


def draw(contender: Contender, plan: Plan, run: RunFolder, on_step: OnStep = lambda pictures: None) -> None:
    """Draws the pictures that are not there yet. The model is loaded only if there are any.

    A block is drawn as a whole, even if some of its pictures are there: which pictures are drawn together changes the
    last bits of each.

    Args:
        contender: a model.
        plan: what is drawn.
        run: the run folder.
        on_step: called with the number of pictures that were finished.

    Raises:
        LongalignError: as `artist_of`; a picture has NaN in it.
    """
    artist: Artist | None = None
    for block in range(plan.blocks) if plan.mine is None else plan.mine:
        if not is_drawn(contender, plan, block, run):
            artist = artist or artist_of(contender)
            draw_block(artist, contender, plan, block, run)
        on_step(len(plan.jobs(block)))


def is_drawn(contender: Contender, plan: Plan, block: int, run: RunFolder) -> bool:
    """Whether all pictures of a block are there.

    Args:
        contender: a model.
        plan: what is drawn.
        block: its number.
        run: the run folder.
    """
    return all(
        (run.path / file_of(contender.label, plan.rows, number, seed)).is_file()
        for number, seed in plan.jobs(block)
    )


def draw_block(artist: Artist, contender: Contender, plan: Plan, block: int, run: RunFolder) -> None:
    """Draws a block, and keeps those pictures that were not there.

    Args:
        artist: the model, loaded.
        contender: the model.
        plan: what is drawn.
        block: its number.
        run: the run folder.

    Raises:
        LongalignError: a picture has NaN in it.
    """
    jobs = plan.jobs(block)
    prompts = [plan.rows[number].prompt for number, _ in jobs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # the page says what each run can read
        images = artist.draw(prompts, [seed for _, seed in jobs], lambda pictures: None)
    for image, prompt, (number, seed) in zip(images, prompts, jobs, strict=True):
        file = run.path / file_of(contender.label, plan.rows, number, seed)
        if not file.is_file():
            run.save_picture(file, image, png_text(artist.info(prompt, image, seed)))


def drawn_set(contender: Contender, plan: Plan, folder: Path) -> PictureSet:
    """The pictures that `draw` made.

    Args:
        contender: the model.
        plan: what was drawn.
        folder: the run folder.
    """
    pictures: list[CaptionedPicture] = []
    ids: list[str] = []
    for number, row in enumerate(plan.rows):
        for seed in plan.seeds:
            name = file_of(contender.label, plan.rows, number, seed)
            pictures.append(CaptionedPicture(folder / name, row.prompt, name))
            ids.append(row.id)
    return PictureSet(contender.label, pictures, ids=ids)


def _slug(label: str) -> str:
    return re.sub(r"[^\w.=+-]+", "-", label).strip("-.") or "model"


def check_slugs(contenders: Sequence[Contender]) -> None:
    """Raises LongalignError: the folders of two labels would have one name."""
    taken: Mapping[str, str] = {}
    for contender in contenders:
        slug = _slug(contender.label).lower()
        if slug in taken:
            raise LongalignError(
                f"the labels {taken[slug]!r} and {contender.label!r} give one folder name, {slug}: choose others"
            )
        taken = {**taken, slug: contender.label}


__all__ = ["Artist", "Plan", "artist_of", "check_slugs", "draw", "drawn_set", "file_of"]
