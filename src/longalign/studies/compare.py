"""Columns of a comparison: ways of drawing the same prompts from the same noise."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from PIL import Image

from longalign.diffusion.sampling import (
    draw,
    set_scheduler,
)
from longalign.encoding import TruncationWarning
from longalign.soft_tokens.loading import attach_tokens, describe_tokens
from longalign.weights.stack import (
    load_pipeline,
    t5_branch,
)
from longalign.worlds import DEFAULT

PLAIN, SEGMENTS, SOFT, SFT, RFT = "plain, 77 tokens", "segments", "soft tokens", "SFT", "SFT+RFT"

# What each column is, for the pages.
MEANINGS = {
    PLAIN: "the pipeline's own encoding: it reads the first 77 tokens and drops the rest",
    SEGMENTS: "each sentence is encoded alone, and the encodings are joined (LongAlign); nothing is trained",
    SOFT: "segments, and a few vectors in front of the text (SoftREPA) that were trained to tell captions of different "
    "scenes apart",
    SFT: "supervised fine-tuning: a LoRA on the model that was trained on pictures with long captions",
    RFT: "reward fine-tuning on top of SFT: a second LoRA, trained to raise the score that a preference model gives",
}


@dataclass(frozen=True)
class Column:
    """One way of drawing.

    Attributes:
        strategy: of `longalign.encode`.
        loras: stages on the model, in the order of their training.
        soft_tokens: trained soft text tokens, by a name that `SoftTokens.from_pretrained` knows.
        scale: from 0 (as if there were no tokens) to 1.
    """

    strategy: str = "clip-cat"
    loras: tuple[str, ...] = ()
    soft_tokens: str | None = None
    scale: float = 1.0

    def __str__(self) -> str:
        tokens = (
            ()
            if self.soft_tokens is None
            else (f"soft tokens {describe_tokens(self.soft_tokens, self.scale)}",)
        )
        return " + ".join((self.strategy, *self.loras, *tokens))


def base_columns() -> dict[str, Column]:
    """The two ways that need no training of their own."""
    return {PLAIN: Column("plain"), SEGMENTS: Column("clip-cat")}


def shipped_columns(model: str = DEFAULT) -> dict[str, Column]:
    """Plain → segments → soft tokens → SFT → SFT+RFT, of which each model has those that the package contains."""
    from longalign.stickers import lora_names, token_names

    columns = base_columns()
    if "softrepa" in token_names(model):
        columns[SOFT] = Column(soft_tokens=f"{model}/softrepa")
    there = (
        [f"{DEFAULT}/{name}" for name in ("sft", "reward") if name in lora_names()]
        if model == DEFAULT
        else []
    )
    stages = [SFT, RFT][: len(there)]
    return columns | {label: Column("clip-cat", tuple(there[: n + 1])) for n, label in enumerate(stages)}


def file_name(label: str, column: Column) -> str:
    """The name of a column's files: its encoding, or its label in small letters if it has LoRAs or soft tokens."""
    named = label if column.loras or column.soft_tokens else column.strategy
    return re.sub(r"[^a-z0-9.]+", "-", named.lower()).strip("-")


def tokens_on(pipe: Any, column: Column) -> AbstractContextManager[Any]:
    """A context in which a column's soft tokens are on a pipeline; an empty context if the column has none.

    Raises:
        LongalignError: there are none of this name, or they are for another backbone.
    """
    return (
        nullcontext()
        if column.soft_tokens is None
        else attach_tokens(pipe, column.soft_tokens, scale=column.scale)
    )


class Drawer:
    """Draws columns of one model. It loads the pipeline again only when the LoRAs change.

    Args:
        model: name of the pipeline.
        scheduler: of `longalign.diffusion.sampling.set_scheduler`.
    """

    def __init__(self, model: str = DEFAULT, *, device: str = "cpu", scheduler: str = "auto") -> None:
        self.model, self.device, self.scheduler = model, device, scheduler
        self._loaded: tuple[tuple[str, ...], Any] | None = None

    def pipe(self, loras: Sequence[str] = ()) -> Any:
        """The pipeline with these stages on it, without soft tokens."""
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
            sampling: arguments of `longalign.diffusion.sampling.sample`.
        """
        pipe = self.pipe(column.loras)
        t5 = t5_branch(self.model, column.strategy, pipe, column.loras)
        with ignore_truncation_warnings(), tokens_on(pipe, column):
            return draw(
                pipe, prompts, seeds, strategy=column.strategy, length=length, t5=t5, sampling=sampling
            )


@contextmanager
def ignore_truncation_warnings() -> Iterator[None]:
    """Ignores `TruncationWarning`: these studies show what the plain encoding cuts off, and the report marks it."""
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
    """Draws every prompt in every column. Prompt i has the noise of seed ``seed + i`` in all columns.

    Returns:
        Label of the column → a picture of each prompt.
    """
    seeds = [seed + i for i in range(len(prompts))]
    return {
        label: drawer.draw(column, prompts, seeds, length=length, on_step=on_step, **sampling)
        for label, column in columns.items()
    }
