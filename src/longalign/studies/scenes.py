"""Hundreds of held-out scenes, drawn in several ways from the same noise, and judged sentence by sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from longalign.diffusion.pipelines import settings_of
from longalign.diffusion.sampling import SCHEDULERS
from longalign.errors import Interrupted, LongalignError
from longalign.picture_info import PictureInfo, png_text
from longalign.report.data import Mark, counted
from longalign.report.sentences import Sentences, sentences_of, window_of
from longalign.runs import RunFolder, atomic_write_text, json_line
from longalign.stickers.captions import Fact, caption, parse_all, text_of
from longalign.stickers.looks import looks_of
from longalign.stickers.objects import object_counts
from longalign.stickers.oracle import Reading, read
from longalign.stickers.world import Scene, render, scene
from longalign.studies.accuracy import shuffled
from longalign.studies.compare import Column, Drawer, file_name, tokens_on
from longalign.studies.scenes_folder import (
    CAPTIONS,
    StudyConfig,
    column_key,
    open_study,
    read_rows,
)
from longalign.studies.scenes_objects import CHANCE_COUNTS

LETTERS: dict[Mark, str] = {"true": "t", "false": "f", "unclear": "u", "unjudged": "-"}
AT_ONCE = 50  # scenes between two savings
REFERENCE = "reference"

# Statement → which sentences make it.
ASPECTS: dict[str, Callable[[Fact], bool]] = {
    "kind, anywhere": lambda fact: fact.kind is not None,
    "kind in its place": lambda fact: fact.kind is not None,
    "disc, said in the same sentence": lambda fact: fact.disc is not None and fact.kind is not None,
    "disc, said by referring back": lambda fact: fact.disc is not None and fact.kind is None,
    "background": lambda fact: fact.background is not None,
}


@dataclass(frozen=True)
class Series:
    """The scenes with one sort of captions, and their results.

    Attributes:
        prompts, sentences: of the S scenes.
        rows: column → S lines of its file.
    """

    prompts: list[str]
    sentences: list[Sentences]
    rows: Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class StudyResult:
    """The result of `study`. `series`: sort of captions → its results."""

    config: StudyConfig
    columns: Mapping[str, Column]
    scenes: list[Scene]
    series: Mapping[str, Series]
    run: RunFolder
    window_tokens: int


def study_steps(columns: Mapping[str, Column], config: StudyConfig) -> int:
    """The sum of the numbers that `study` passes to `on_step`: pictures times steps."""
    return config.scenes * config.steps * len(columns) * len(config.captions)


def study(
    columns: Mapping[str, Column],
    config: StudyConfig | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    batch_size: int = AT_ONCE,
    keep_pictures: int = 0,
    device: str = "cpu",
    on_step: Callable[[int], None] = lambda pictures: None,
) -> StudyResult:
    """Draw scenes of the `test` split in every column and judge them. Results that `out` has already are kept.

    Scene i starts from the noise of seed ``config.seed + i`` in all columns and captions.

    Args:
        columns: label → way of drawing.
        out: the run folder; None makes `runs/study-<date>-NNN`.
        overwrite: remove the results in `out` and start again.
        keep_pictures: the run folder has the pictures of this many scenes; other pictures are not kept.
        on_step: called after each sampling step with the number of pictures, and once for the results in `out`.

    Raises:
        LongalignError: the model has no oracle; a column's LoRA or soft tokens are none, or for another model; the
            folder holds a study with other settings.
        StudyInterrupted: Ctrl-C. Finished parts are kept, and the same call goes on from there.
    """
    config = config or StudyConfig()
    drawer = Drawer(config.model, device=device, scheduler=config.scheduler or "auto")
    settings = settings_of(config.model)
    if settings.oracle != "stickers":
        raise LongalignError(f"model {config.model!r} draws no sticker scenes, so the oracle cannot judge it")
    if not columns:
        raise LongalignError("a study needs a column")
    names = {label: file_name(label, column) for label, column in columns.items()}
    if len(set(names.values())) < len(names):
        raise LongalignError(
            f"columns {', '.join(names)}: their files would have the same names; choose others"
        )
    pipe = drawer.pipe()
    for column in columns.values():
        with tokens_on(pipe, column):  # those of another model are refused before anything is drawn
            pass
    guidance = settings.guidance if config.guidance is None else config.guidance
    config = replace(config, guidance=guidance, scheduler=solver_of(pipe))
    keys = {label: column_key(column, config, settings.length) for label, column in columns.items()}
    run = open_study(out, config, columns, overwrite)
    scenes = [scene(i, objects=config.objects, split="test") for i in range(config.scenes)]
    series: dict[str, Series] = {}
    result = StudyResult(config, columns, scenes, series, run, window_of(pipe.tokenizer))
    try:
        for sort in config.captions:
            prompts = [text_of(caption(s, i, referring=CAPTIONS[sort])) for i, s in enumerate(scenes)]
            sentences = sentences_of(pipe.tokenizer, prompts)
            facts = [parse_all([x.text for x in s.segments]) for s in sentences]
            for i in range(min(keep_pictures, config.scenes)):
                run.save_image(
                    f"{sort}/{i:04d}-{REFERENCE}", render(scenes[i]), png_text(PictureInfo(prompts[i]))
                )
            rows: dict[str, list[dict[str, Any]]] = {}
            series[sort] = Series(prompts, sentences, rows)
            for label, column in columns.items():
                file = run.path / "columns" / f"{sort}-{names[label]}.jsonl"
                key = {"captions": sort, **keys[label]}
                done = rows[label] = read_rows(file, key)[: config.scenes]
                on_step(len(done) * config.steps)
                for start in _starts(len(done), config.scenes):
                    places = range(start, min(start + AT_ONCE, config.scenes))
                    images = drawer.draw(
                        column,
                        [prompts[i] for i in places],
                        [config.seed + i for i in places],
                        length=settings.length,
                        steps=config.steps,
                        guidance=config.guidance,
                        batch_size=batch_size,
                        on_step=on_step,
                    )
                    judged = zip(places, images, shuffled(images), strict=True)
                    done[start:] = [
                        {"scene": i, **judge_scene(scenes[i], facts[i], x, other)} for i, x, other in judged
                    ]
                    for i, image in zip(places, images, strict=True):
                        if i < keep_pictures:
                            text = _png_text(prompts[i], key)
                            run.save_image(picture_name(sort, i, names[label]), image, text)
                    atomic_write_text(file, "".join(map(json_line, [{"drawn_with": key}, *done])))
    except KeyboardInterrupt:
        raise _interrupted(result) from None
    return result


class StudyInterrupted(Interrupted):
    """Ctrl-C during a study. Every part of `AT_ONCE` scenes that was finished is in the run folder.

    Attributes:
        result: the columns that are complete in every sort of captions that has one; None if no column is complete.
    """

    def __init__(self, message: str, result: StudyResult | None) -> None:
        super().__init__(message)
        self.result = result


def _interrupted(result: StudyResult) -> StudyInterrupted:
    """What was kept of a study whose series may lack columns, and columns scenes."""
    scenes = result.config.scenes
    drawn = sum(len(rows) for series in result.series.values() for rows in series.rows.values())
    complete = {
        sort: {label: rows for label, rows in series.rows.items() if len(rows) == scenes}
        for sort, series in result.series.items()
    }
    begun = {sort: rows for sort, rows in complete.items() if rows}
    labels = [label for label in result.columns if begun and all(label in rows for rows in begun.values())]
    message = (
        f"the results of {counted(drawn, 'picture')} are kept in {result.run.path}. The same command with --out "
        f"{result.run.path} goes on from there"
    )
    if not labels:
        return StudyInterrupted(message, None)
    series = {
        sort: replace(result.series[sort], rows={label: rows[label] for label in labels})
        for sort, rows in begun.items()
    }
    columns = {label: result.columns[label] for label in labels}
    return StudyInterrupted(message, replace(result, series=series, columns=columns))


def _png_text(prompt: str, drawn_with: Mapping[str, Any]) -> PngInfo:
    """What a picture says of how it was drawn."""
    return png_text(
        PictureInfo(prompt, settings={k: v for k, v in drawn_with.items() if v not in (None, [], ())})
    )


def picture_name(sort: str, index: int, column: str) -> str:
    """The name of a scene's picture in the run folder."""
    return f"{sort}/{index:04d}-{column}"


def solver_of(pipe: Any) -> str:
    """The name of a pipeline's scheduler in the settings; for other schedulers (flow models) the name of its class."""
    kind = type(pipe.scheduler).__name__
    return {of: name for name, of in SCHEDULERS.items()}.get(kind, kind)


def judge_scene(
    drawn: Scene, facts: Sequence[Fact | None], image: Image.Image, other: Image.Image | None = None
) -> dict[str, Any]:
    """The verdicts of the oracle on a picture: one letter for each sentence, "." if a sentence has no such statement.

    ``objects`` has the numbers of surplus, repeated and missing stickers.

    Args:
        drawn: the scene that the picture should show.
        facts: one a sentence.
        other: another scene's picture, for chance.
    """
    reading = read(image)
    kinds = reading.kinds()

    def verdict(name: str, fact: Fact | None) -> str:
        if fact is None or not ASPECTS[name](fact):
            return "."
        if name == "kind, anywhere":
            return "t" if fact.kind in kinds else "f"
        if name == "kind in its place":
            return LETTERS[reading.judge(Fact(kind=fact.kind, cell=fact.cell))]
        if fact.disc is not None:
            return LETTERS[reading.judge(Fact(cell=fact.cell, disc=fact.disc))]
        return LETTERS[reading.judge(fact)]

    found: dict[str, Any] = {"marks": _letters(reading, facts)}
    if other is not None:
        of_other = read(other)
        found["chance"] = _letters(of_other, facts)
        found[CHANCE_COUNTS] = object_counts(of_other, drawn)
    found |= {name: "".join(verdict(name, fact) for fact in facts) for name in ASPECTS}
    return {**found, "objects": object_counts(reading, drawn), "looks": looks_of(image)}


def _letters(reading: Reading, facts: Sequence[Fact | None]) -> str:
    return "".join(LETTERS["unjudged" if f is None else reading.judge(f)] for f in facts)


def letters_true(letters: str) -> np.ndarray:
    """(sentences,) where they are true."""
    return np.array([letter == "t" for letter in letters], bool)


def _starts(done: int, scenes: int) -> list[int]:
    """First scenes of the remaining parts. A part has at least two scenes: chance needs another scene's picture."""
    starts = list(range(done, scenes, AT_ONCE))
    if starts and scenes - starts[-1] == 1:
        starts[-1] -= 1
    return starts
