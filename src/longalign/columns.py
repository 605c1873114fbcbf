"""Columns of a comparison: ways of drawing the same prompts from the same noise."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from longalign.encoding import TruncationWarning
from longalign.generate import draw, t5_branch
from longalign.pipelines import STICKERS, load_pipeline
from longalign.sampling import set_scheduler

PLAIN, SEGMENTS, SFT, RFT = "plain, 77 tokens", "segments", "SFT", "SFT+RFT"


@dataclass(frozen=True)
class Column:
    """One way of drawing.

    Attributes:
        strategy: of `longalign.encode`.
        loras: stages on the model, in the order of their training.
    """

    strategy: str = "clip-cat"
    loras: tuple[str, ...] = ()


def base_columns() -> dict[str, Column]:
    """The two ways that need no training of their own."""
    return {PLAIN: Column("plain"), SEGMENTS: Column("clip-cat")}


def shipped_columns() -> dict[str, Column]:
    """Plain → segments → SFT → SFT+RFT, as far as this version ships the embedded model's LoRAs."""
    from longalign.stickers import lora_names

    there = [f"{STICKERS}/{name}" for name in lora_names()]
    stages = [SFT, RFT][: len(there)]
    return base_columns() | {
        label: Column("clip-cat", tuple(there[: n + 1])) for n, label in enumerate(stages)
    }


def file_name(label: str, column: Column) -> str:
    """What to call a column's files: its encoding, or its label in small letters where it has stages."""
    return re.sub(r"[^a-z0-9.]+", "-", (label if column.loras else column.strategy).lower()).strip("-")


class Drawer:
    """Draws columns of one model, and keeps the pipeline while only the encoding changes.

    Args:
        model: name of the pipeline.
        scheduler: of `longalign.sampling.set_scheduler`.
    """

    def __init__(self, model: str = STICKERS, *, device: str = "cpu", scheduler: str = "unipc") -> None:
        self.model, self.device, self.scheduler = model, device, scheduler
        self._loaded: tuple[tuple[str, ...], Any] | None = None

    def pipe(self, loras: Sequence[str] = ()) -> Any:
        """The pipeline with these stages on it."""
        if self._loaded is None or self._loaded[0] != tuple(loras):
            pipe = load_pipeline(self.model, device=self.device, loras=loras)
            set_scheduler(pipe, self.scheduler)
            self._loaded = tuple(loras), pipe
        return self._loaded[1]

    def draw(
        self,
        column: Column,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        length: int,
        **sampling: Any,
    ) -> list[Image.Image]:
        """A picture of each prompt.

        Args:
            length: padded length in tokens, for `longalign.encode`.
            sampling: arguments of `longalign.sampling.sample`.
        """
        pipe = self.pipe(column.loras)
        t5 = t5_branch(self.model, column.strategy, pipe, column.loras)
        with _cuts_are_known():
            return draw(
                pipe, prompts, seeds, strategy=column.strategy, length=length, t5=t5, sampling=sampling
            )


@contextmanager
def _cuts_are_known() -> Iterator[None]:
    """That the plain encoding cuts is what is being shown; the rows of the report say where."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        yield


def draw_columns(
    drawer: Drawer,
    columns: Mapping[str, Column],
    prompts: Sequence[str],
    *,
    seed: int = 0,
    length: int,
    on_step: Callable[[int], None] = lambda pictures: None,
    **sampling: Any,
) -> dict[str, list[Image.Image]]:
    """Every prompt in every column, prompt i from seed ``seed + i`` in all of them."""
    seeds = [seed + i for i in range(len(prompts))]
    return {
        label: drawer.draw(column, prompts, seeds, length=length, on_step=on_step, **sampling)
        for label, column in columns.items()
    }
