"""What `longalign generate` made: a line a prompt in the parts of its run folder, and the pictures beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from longalign.diffusion.pipelines import ModelSettings
from longalign.encoding import Truncation
from longalign.errors import LongalignError
from longalign.preference.images import load_image
from longalign.report import SentenceRow

Line = dict[str, Any]


def part_path(folder: Path, block: int) -> Path:
    """Where the lines of a block are.

    Args:
        folder: the run folder.
        block: its number.
    """
    return folder / "parts" / f"{block:05d}.jsonl"


@dataclass(frozen=True)
class Picture:
    """One picture, of a prompt by its number, from a seed.

    Attributes:
        prompt_index: which prompt.
        seed: from which seed.
        path: its file.
        file: the same within the run folder.
    """

    prompt_index: int
    seed: int
    path: Path
    file: str

    @property
    def image(self) -> Image.Image:
        """The picture, read from its file."""
        return load_image(self.path)


@dataclass(frozen=True)
class Generation:
    """The result of `generate`. Lists of many prompts are read from the run folder when they are asked for.

    Attributes:
        prompts: P prompts.
        folder: the run folder.
        blocks: how many parts it has.
        settings: the model's defaults.
        unfinished: number of a block in which an interrupted run was stopped → its lines.
    """

    prompts: Sequence[str]
    folder: Path
    blocks: int
    settings: ModelSettings = field(default_factory=ModelSettings)
    unfinished: Mapping[int, Sequence[Line]] = field(default_factory=dict)

    def lines(self, most: int | None = None) -> Iterator[Line]:
        """A line a prompt, in order, as a stream: ``index``, ``prompt``, ``images``, ``seeds``, ``sentences``,
        ``truncation``, ``whole``; of a run with repair also ``repairs``, one a picture (`Repaired.to_json`).

        Args:
            most: so many at most; None: all.

        Raises:
            LongalignError: a part is damaged.
        """
        return islice(self._lines(), most)

    def _lines(self) -> Iterator[Line]:
        for block in range(self.blocks):
            path = part_path(self.folder, block)
            if not path.is_file():
                yield from self.unfinished.get(block, ())
                continue
            try:
                with open(path, encoding="utf-8") as file:
                    lines = [json.loads(text) for text in file]
            except (OSError, ValueError) as error:
                raise LongalignError(
                    f"{path}: cannot be read ({error}). Remove it: the same command draws these pictures again"
                ) from None
            yield from lines

    @cached_property
    def pictures(self) -> list[Picture]:
        """P · num pictures, prompt after prompt; fewer of an interrupted run."""
        return [picture for line in self._lines() for picture in self.pictures_of(line)]

    @cached_property
    def rows(self) -> list[list[SentenceRow]]:
        """Of each prompt its sentences, with marks where the model's world has a judge."""
        return [rows_of(line) for line in self._lines()]

    @cached_property
    def truncation(self) -> list[tuple[Truncation, ...]]:
        """Of each prompt the text that was cut off."""
        return [tuple(Truncation(**cut) for cut in line["truncation"]) for line in self._lines()]

    def pictures_of(self, line: Line) -> list[Picture]:
        """The pictures of a line.

        Args:
            line: of `lines`.
        """
        return [
            Picture(line["index"], seed, self.folder / file, file)
            for seed, file in zip(line["seeds"], line["images"], strict=True)
        ]

    def prompt_json(self, line: Line) -> dict[str, Any]:
        """A line for `--json`: paths, seeds, sentences with their marks, and the text that was cut off.

        Args:
            line: of `lines`.
        """
        return {
            "prompt": line["prompt"],
            "images": [{"seed": p.seed, "file": str(p.path)} for p in self.pictures_of(line)],
            "sentences": line["sentences"],
            "truncation": line["truncation"],
            **({"repairs": line["repairs"]} if "repairs" in line else {}),
        }

    def to_json(self) -> dict[str, Any]:
        """For `--json`: the folder, and `prompt_json` of all prompts."""
        return {
            "folder": str(self.folder),
            "report": str(self.folder / "report.html"),
            "prompts": [self.prompt_json(line) for line in self._lines()],
        }


def row_json(row: SentenceRow) -> dict[str, Any]:
    """A sentence as the machine-readable outputs have it; with scores where a preference model gave some.

    Args:
        row: the sentence, as the report has it.
    """
    scores = {"scores": dict(row.scores)} if row.scores else {}
    return {"text": row.text, "beyond_window": row.beyond, "marks": dict(row.marks), **scores}


def rows_of(line: Mapping[str, Any]) -> list[SentenceRow]:
    """The sentences of a line, as the report has them.

    Args:
        line: of `Generation.lines`.
    """
    return [
        SentenceRow(s["text"], s["beyond_window"], s["marks"], s.get("scores", {})) for s in line["sentences"]
    ]


def line_json(
    index: int,
    prompt: str,
    seeds: Sequence[int],
    files: Sequence[str],
    rows: Sequence[SentenceRow],
    truncation: Sequence[Truncation],
    whole: bool,
    repairs: Sequence[Mapping[str, Any]] = (),
) -> Line:
    """The line of a prompt.

    Args:
        index: its number.
        prompt: its text.
        seeds, files: of its pictures.
        rows: its sentences.
        truncation: what was cut off.
        whole: whether the text fits the window of the plain encoding.
        repairs: what was done for each of its pictures.
    """
    return {
        "index": index,
        "prompt": prompt,
        "images": list(files),
        "seeds": list(seeds),
        "sentences": [row_json(row) for row in rows],
        "truncation": [asdict(cut) for cut in truncation],
        "whole": whole,
        **({"repairs": list(repairs)} if repairs else {}),
    }
