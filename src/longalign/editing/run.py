"""One picture edited by two texts, with a run folder and a report: `longalign edit`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from longalign.diffusion.pipelines import settings_of
from longalign.editing.edit import EditResult, check_texts, edit_many, options_for
from longalign.editing.options import EditOptions, EditSettings
from longalign.generation import row_json
from longalign.picture_info import PictureInfo, png_text
from longalign.preference.images import load_image
from longalign.report import Case, Panel, Report, SentenceRow, write_report
from longalign.report.sentences import Sentences, sentence_rows, sentences_of, window_of
from longalign.runs import RunFolder
from longalign.versions import provenance
from longalign.weights.stack import Stack, encoding_for

BEFORE, AFTER, DIFFERENCE = "before", "after", "difference"


@dataclass(frozen=True)
class EditConfig(EditSettings, Stack):
    """The settings of `run_edit`, as they go into `config.yaml`: those of `Stack` and `EditSettings`, and these.

    Attributes:
        seed: of the noise.
        resize: bring a picture of another size to the model's.
        scorer: name of a preference model that scores each sentence against both pictures. None: none does.
        length: text is padded to a multiple of this many tokens; None: the model's usual length.
        language: of the texts, for cutting sentences (ISO 639-1).
    """

    seed: int = 0
    resize: bool = False
    scorer: str | None = None
    strategy: str = "auto"
    length: int | None = None
    language: str = "en"

    def options(self, pipe: Any) -> EditOptions:
        """How to edit with this pipeline."""
        return options_for(pipe, settings_of(self.model, pipe), self)


@dataclass(frozen=True)
class EditRun:
    """The result of `run_edit`.

    Attributes:
        result: the pictures and the options.
        rows: ``target`` and ``source`` → the sentences of that text, with marks and scores for both pictures.
        folder: the run folder.
    """

    result: EditResult
    rows: Mapping[str, list[SentenceRow]]
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """For `--json`: paths, the settings, sentences with their marks, and the text that was cut off."""
        return {
            "folder": str(self.folder),
            "report": str(self.folder / "report.html"),
            "images": {
                name: str(self.folder / "images" / f"{name}.png") for name in (BEFORE, AFTER, DIFFERENCE)
            },
            "options": asdict(self.result.options),
            "sentences": {
                text: [{**row_json(row), "scores": dict(row.scores)} for row in rows]
                for text, rows in self.rows.items()
            },
            "truncation": {
                name: [asdict(t) for t in cut]
                for name, cut in zip(("source", "target"), self.result.truncation, strict=True)
            },
        }


def run_edit(
    image: Image.Image | str | os.PathLike[str],
    source: str,
    target: str,
    config: EditConfig | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    pipe: Any = None,
    command_line: str | None = None,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> EditRun:
    """Edits a picture and writes a run folder: before, after, difference, and whether each sentence is true of both.

    Args:
        image: a PIL picture, or the file of one.
        source, target: what the picture shows, and what it should show; of any length.
        config: the settings; None is `EditConfig()`.
        out: the run folder; None makes `runs/edit-<date>-NNN`.
        overwrite: replace an earlier run in `out`.
        pipe: a pipeline that is loaded already. `config.model` then only names it.
        command_line: what the user typed, for the report.
        on_step: called after each step with 1, `EditOptions.calls` times.

    Raises:
        LongalignError: what `longalign.editing.edit.edit` refuses.
    """
    config = config or EditConfig()
    check_texts(source, target)
    size_px = (image if isinstance(image, Image.Image) else load_image(image)).size
    pipe = pipe or config.load()
    settings = settings_of(config.model, pipe)
    options = config.options(pipe)
    strategy, segments, length = encoding_for(config, settings, length=config.length)
    config = replace(config, strategy=strategy)
    [result] = edit_many(
        pipe,
        [image],
        [source],
        [target],
        [config.seed],
        options,
        resize=config.resize,
        on_step=on_step,
        strategy=strategy,
        segments=segments,
        length=length,
        language=config.language,
        t5=config.t5_branch(pipe),
    )
    shown = {BEFORE: result.before, AFTER: result.image}
    sentences = sentences_of(pipe.tokenizer, [target, source], config.language)
    scored = _scores(config, shown, [target, source])
    rows = {
        name: [_with_scores(row, of_text) for row in sentence_rows(found, shown, settings.oracle)]
        for name, found, of_text in zip(("target", "source"), sentences, scored, strict=True)
    }
    name = None if isinstance(image, Image.Image) else os.fspath(image)
    resolved = {**asdict(config), **asdict(options), "length": length}
    if size_px != result.before.size:
        resolved["resized"] = "the middle square of {} × {} pixels, to {} × {}".format(
            *size_px, *result.before.size
        )
    recorded = {"command": "edit", "image": name, "source": source, "target": target, **resolved}
    run = RunFolder(out, recorded, overwrite=overwrite) if out else RunFolder.new("edit", recorded)
    for label, picture in {**shown, DIFFERENCE: result.difference}.items():
        text = source if label == BEFORE else target
        made_with = {"seed": config.seed, **asdict(options), "model": config.model, "source": source}
        run.save_image(label, picture, png_text(PictureInfo(text, settings=made_with)))
    run.log(
        {text: [{**row_json(row), "scores": dict(row.scores)} for row in of] for text, of in rows.items()}
    )
    made = EditRun(result, rows, run.path)
    write_report(
        _report(made, config, resolved, sentences, window_of(pipe.tokenizer), command_line),
        run.report,
        jsonl=run.path / "report.jsonl",
    )
    return made


def _scores(
    config: EditConfig, shown: Mapping[str, Image.Image], texts: list[str]
) -> list[dict[str, dict[str, float]]]:
    """For each text: sentence → column → score; without a scorer nothing."""
    if config.scorer is None:
        return [{} for _ in texts]
    from longalign.preference import PreferenceModel

    model = PreferenceModel.from_pretrained(config.scorer, device=config.device, dtype=config.dtype)
    found: list[dict[str, dict[str, float]]] = []
    for text in texts:
        scores = model.score(list(shown.values()), [text] * len(shown))
        of_text: dict[str, dict[str, float]] = {}
        for column, segments in zip(shown, scores.segments, strict=True):
            for segment in segments:
                of_text.setdefault(segment.text, {})[column] = segment.best
        found.append(of_text)
    return found


def _with_scores(row: SentenceRow, scores: Mapping[str, Mapping[str, float]]) -> SentenceRow:
    return SentenceRow(row.text, row.beyond, row.marks, scores.get(row.text, {}))


def _report(
    made: EditRun,
    config: EditConfig,
    resolved: Mapping[str, Any],
    sentences: list[Sentences],
    window: int,
    command_line: str | None,
) -> Report:
    result = made.result
    pictures = {BEFORE: result.before, AFTER: result.image, DIFFERENCE: result.difference}
    target, source = made.rows["target"], made.rows["source"]
    new = {row.text for row in target}
    gone = [row for row in source if row.text not in new]

    def of_target(label: str) -> str:
        """How many of the target's sentences are true; the tally of all rows counts the source's, too."""
        marks = [row.marks[label] for row in target if label in row.marks]
        return f"of the target, {marks.count('true')} of {len(marks)}" if marks and gone else ""

    panels = [
        Panel(label, picture, note=of_target(label), file=f"images/{label}.png")
        for label, picture in pictures.items()
    ]
    note = "The difference is black where nothing changed and white where most did."
    if gone:
        last = "sentence is" if len(gone) == 1 else f"{len(gone)} sentences are"
        note = f"The last {last} of the source alone, and should not be true after the edit. {note}"
    cases = [Case("Before and after", result.target, panels, [*target, *gone], note)]
    shown = ("resized", "model", *asdict(result.options), "seed", "strategy", "length", "scorer")
    facts = {k.replace("_", " "): str(resolved[k]) for k in shown if resolved.get(k) is not None}
    return Report(
        title="An edited picture",
        facts=provenance({**facts, **config.facts()}, command_line),
        cases=cases,
        truncation=[
            f"The {name}, by {t.where}: {t.text}"
            for name, cut in zip(("source", "target"), result.truncation, strict=True)
            for t in cut
        ],
        window_tokens=window,
    )
