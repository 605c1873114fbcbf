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
from longalign.editing.verdict import EditRows
from longalign.generation import row_json
from longalign.picture_info import PictureInfo, png_text
from longalign.preference import PreferenceModel
from longalign.preference.images import load_image
from longalign.preference.sentences import score_rows, words_of_scores
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

    @property
    def sentences(self) -> EditRows:
        """The sentences by what should become of them."""
        return EditRows.of(self.rows["target"], self.rows["source"])

    @property
    def verdict(self) -> str:
        """Did the change happen, and did anything else change? Empty where nothing was judged or scored."""
        return self.sentences.verdict(BEFORE, AFTER)

    def to_json(self) -> dict[str, Any]:
        """For `--json`: paths, the verdict, the settings, sentences with their marks, and the text that was cut off."""
        return {
            "folder": str(self.folder),
            "report": str(self.folder / "report.html"),
            "verdict": self.verdict,
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
    scorer = None
    if config.scorer is not None:
        scorer = PreferenceModel.from_pretrained(config.scorer, device=config.device, dtype=config.dtype)
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
    rows = {
        name: sentence_rows(found, shown, settings.oracle)
        for name, found in zip(("target", "source"), sentences, strict=True)
    }
    if scorer is not None:
        texts = {"target": target, "source": source}
        rows = {name: score_rows(scorer, of_text, shown, texts[name]) for name, of_text in rows.items()}
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
    sentences_of_both = made.sentences
    panels = [
        Panel(label, picture, file=f"images/{label}.png", aside=label == DIFFERENCE)
        for label, picture in pictures.items()
    ]
    note = "The difference is black where nothing changed and white where most did."
    if gone := len(sentences_of_both.gone):
        last = "sentence is" if gone == 1 else f"{gone} sentences are"
        note = f"The last {last} of the source alone, and should become false. {note}"
    rows = sentences_of_both.rows(made.rows["target"], BEFORE)
    cases = [Case("Before and after", result.target, panels, rows, note)]
    shown = ("resized", "model", *asdict(result.options), "seed", "strategy", "length", "scorer")
    facts = {k.replace("_", " "): str(resolved[k]) for k in shown if resolved.get(k) is not None}
    return Report(
        title="An edited picture",
        intro=made.verdict,
        facts=provenance({**facts, **config.facts()}, command_line),
        cases=cases,
        truncation=[
            f"The {name}, by {t.where}: {t.text}"
            for name, cut in zip(("source", "target"), result.truncation, strict=True)
            for t in cut
        ],
        window_tokens=window,
        scores=words_of_scores(config.scorer) if config.scorer else "",
    )
