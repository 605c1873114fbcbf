"""Tables and page of a study of edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from longalign.editing.verdict import EditRows
from longalign.encoding.segments import Segmenter
from longalign.picture_info import PictureInfo, png_text
from longalign.report import (
    CLUSTERED,
    Case,
    Estimate,
    Panel,
    Report,
    SentenceRow,
    Table,
    clustered_wilson,
    counted,
    write_report,
)
from longalign.report.sentences import judge
from longalign.stickers.world import render
from longalign.studies.accuracy import mean_estimate, ratio_difference
from longalign.studies.edit_scenes import EditVerdict
from longalign.studies.edits import NOTHING, WITH_TOKENS, EditStudy
from longalign.versions import provenance

BEFORE, WANTED, ALL = "before", "wanted", "all"
Measure = Callable[[Sequence[EditVerdict]], Estimate]


def tables_of(study: EditStudy) -> list[Table]:
    """Success, three kinds of collateral damage, and the effect of soft tokens if there are some."""
    intervals = CLUSTERED.format("scene")
    tables = [
        _table(
            study,
            "Edits that succeeded",
            lambda verdicts: clustered_wilson([v.success for v in verdicts], [1] * len(verdicts)),
            f"Every cell that should change shows what it should, by the oracle (unclear counts as not). {NOTHING}: "
            f"the picture through the VAE and back. 95 % {intervals}.",
        ),
        _table(
            study,
            "Collateral: sentences about the rest that are no longer true",
            lambda verdicts: clustered_wilson([v.lost for v in verdicts], [v.kept for v in verdicts]),
            "Of the sentences that both captions share, those that are not true of the edited picture (unclear counts "
            f"as not true). 95 % {intervals}.",
        ),
        _table(
            study,
            "Collateral: empty cells in which a sticker has appeared",
            lambda verdicts: clustered_wilson([v.filled for v in verdicts], [v.empty for v in verdicts]),
            f"Of the cells that are empty and should stay so. 95 % {intervals}.",
        ),
        _table(
            study,
            "Collateral: change of the pixels that should stay, in grey levels",
            lambda verdicts: mean_estimate(np.array([v.rmse_levels for v in verdicts]), format=".1f"),
            "Root mean squared difference from the render over the cells that should not change, of 255; means over "
            "scenes with 95 % bootstrap intervals. The VAE alone makes the first column.",
        ),
    ]
    return [*tables, *_effect_of_tokens(study)]


def _table(study: EditStudy, caption: str, measure: Measure, note: str) -> Table:
    """A row for each change and one for all, a column for each method."""
    chosen = {
        change: [i for i, edit in enumerate(study.edits) if edit.change == change]
        for change in study.config.changes
    } | {ALL: list(range(len(study.edits)))}
    rows: list[list[str | Estimate]] = [
        [name, *(measure([verdicts[i] for i in members]) for verdicts in study.verdicts.values())]
        for name, members in chosen.items()
        if members
    ]
    return Table(caption, ["", *study.verdicts], rows, note=note)


def _effect_of_tokens(study: EditStudy) -> list[Table]:
    pairs = {k: k.removesuffix(WITH_TOKENS) for k in study.verdicts if k.endswith(WITH_TOKENS)}
    if not pairs:
        return []

    def counts(label: str, good: str, of: str | None) -> tuple[np.ndarray, np.ndarray]:
        verdicts = study.verdicts[label]
        return (
            np.array([int(getattr(v, good)) for v in verdicts]),
            np.array([1 if of is None else getattr(v, of) for v in verdicts]),
        )

    rows: list[list[str | Estimate]] = [
        [name, *(ratio_difference(counts(a, *of), counts(b, *of)) for a, b in pairs.items())]
        for name, of in (
            ("succeeded", ("success", None)),
            ("sentences lost", ("lost", "kept")),
            ("empty cells filled", ("filled", "empty")),
        )
    ]
    return [
        Table(
            "What soft tokens change",
            ["with − without", *pairs.values()],
            rows,
            note="Percentage points, with paired 95 % bootstrap intervals: the same scenes on both sides.",
        )
    ]


def write_edit_study(study: EditStudy, command_line: str | None = None) -> list[Table]:
    """Writes pictures, `report.html` and `report.jsonl` into the run folder; returns the tables.

    Args:
        command_line: what the user typed, for the report.
    """
    tables, run, config = tables_of(study), study.run, study.config
    facts = {"model": config.model}
    facts |= config.facts()
    for label, how in study.options.items():
        facts[label] = (
            f"{how.n_start} of {how.steps} steps, guidance {how.source_guidance:g} for the source and "
            f"{how.target_guidance:g} for the target"
        )
    report = Report(
        title="One change, and the rest left alone",
        intro=f"{counted(config.count, 'held-out scene')} of {config.objects[0]} to {config.objects[1]} stickers, "
        "each with one change that two captions state. The oracle reads the pixels: did it happen, and did "
        "everything else stay the same?",
        facts=provenance(facts, command_line),
        tables=tables,
        cases=_cases(study),
    )
    write_report(report, run.report, jsonl=run.path / "report.jsonl")
    return tables


def _cases(study: EditStudy) -> list[Case]:
    """The edits whose pictures were kept, with the sentences of both captions."""
    found = []
    segmenter = Segmenter()
    for i, edit in enumerate(study.edits[: len(study.images[NOTHING])]):
        shown = {BEFORE: render(edit.before), WANTED: render(edit.after)}
        shown |= {label: images[i] for label, images in study.images.items() if label != NOTHING}
        panels = []
        for label, image in shown.items():
            text = png_text(PictureInfo(edit.source if label == BEFORE else edit.target))
            file = study.run.save_image(f"{i:03d}-{label.replace(' ', '')}", image, text)
            panels.append(Panel(label, image, file=str(file.relative_to(study.run.path))))
        texts = [s.text for s in segmenter(edit.target)]
        given_up = [s.text for s in segmenter(edit.source) if s.text not in texts]
        texts += given_up
        marks = {label: judge(texts, image, "stickers") for label, image in shown.items()}
        rows = {
            text: SentenceRow(text, marks={k: of[n] for k, of in marks.items()})
            for n, text in enumerate(texts)
        }
        target = [rows[s.text] for s in segmenter(edit.target)]
        sentences = EditRows.of(target, [rows[s.text] for s in segmenter(edit.source)])
        verdict = "\n".join(
            f"{label}: {sentences.verdict(BEFORE, label)}" for label in shown if label not in (BEFORE, WANTED)
        )
        note = ""
        if given_up:
            last = "sentence is" if len(given_up) == 1 else f"{len(given_up)} sentences are"
            note = f"The last {last} the source's, and should become false."
        cased = sentences.rows(target, BEFORE)
        found.append(Case(f"Edit {i + 1}: {edit.change}", edit.target, panels, cased, note, verdict))
    return found
