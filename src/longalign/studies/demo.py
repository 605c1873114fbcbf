"""Crowded held-out scenes drawn by plain encoding, by segments and with trained stages, judged: `longalign demo`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from longalign.diffusion.pipelines import settings_of
from longalign.errors import Interrupted
from longalign.picture_info import PictureInfo, png_text
from longalign.preference import PreferenceModel
from longalign.report import Case, Panel, Report, Table, counted, write_report
from longalign.report.sentences import Sentences, sentence_rows, sentences_of, window_of
from longalign.runs import RunFolder
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import render, scene
from longalign.studies.accuracy import accuracy_table, table_json
from longalign.studies.compare import (
    MEANINGS,
    SEGMENTS,
    Drawer,
    draw_columns,
    file_name,
    shipped_columns,
)
from longalign.versions import provenance
from longalign.worlds import DEFAULT, world

REFERENCE = "reference"
OBJECTS = (7, 9)


@dataclass(frozen=True)
class Study:
    """Pictures of the same prompts in several columns, and the verdicts of the oracle.

    Attributes:
        prompts, sentences: S prompts and their sentences.
        images: column → S pictures.
        accuracy: share of true sentences before and beyond the window, for each column and by chance.
    """

    prompts: list[str]
    sentences: list[Sentences]
    images: Mapping[str, Sequence[Image.Image]]
    accuracy: Table
    folder: Path = Path()

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        rows = table_json(self.accuracy, "sentences")
        return {"folder": str(self.folder), "report": str(self.folder / "report.html"), "accuracy": rows}


def demo_steps(scenes: int, steps: int) -> int:
    """The sum of the numbers that `demo` passes to `on_step`: pictures times steps."""
    return scenes * steps * len(shipped_columns())


def demo(
    *,
    scenes: int = 16,
    steps: int = 25,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    command_line: str | None = None,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> Study:
    """Draws held-out scenes of 7–9 stickers in every column of `shipped_columns`, judges them and writes a run folder.

    Args:
        scenes: how many scenes of the `test` split.
        steps: UniPC steps.
        seed: seed of the first scene's noise. All columns start from the same noise.
        out: the run folder; None makes `runs/demo-<date>-NNN`.
        overwrite: replace an earlier run in `out`.
        command_line: what the user typed, for the report.
        on_step: called after each sampling step with the number of pictures; `demo_steps` is the sum.

    Raises:
        Interrupted: Ctrl-C while pictures are drawn. The columns that were finished are kept, with their report.
    """
    drawer, settings, columns = Drawer(DEFAULT), settings_of(DEFAULT), shipped_columns()
    drawn = [scene(i, objects=OBJECTS, split="test") for i in range(scenes)]
    prompts = [text_of(caption(s, i)) for i, s in enumerate(drawn)]
    pipe = drawer.pipe()
    window, sentences = window_of(pipe.tokenizer), sentences_of(pipe.tokenizer, prompts)
    config = {
        "command": "demo",
        "scenes": scenes,
        "objects": list(OBJECTS),
        "split": "test",
        "steps": steps,
        "seed": seed,
        "scheduler": "UniPCMultistepScheduler",
        "guidance": settings.guidance,
        "length": settings.length,
    }
    run = RunFolder(out, config, overwrite=overwrite) if out else RunFolder.new("demo", config)
    images: dict[str, Sequence[Image.Image]] = {}
    try:
        for label, column in columns.items():
            images |= draw_columns(
                drawer,
                {label: column},
                prompts,
                seed=seed,
                steps=steps,
                guidance=settings.guidance,
                length=settings.length,
                on_step=on_step,
            )
    except KeyboardInterrupt:
        if not images:
            raise Interrupted(f"no column was finished. {run.path} holds the settings alone") from None
    accuracy = accuracy_table(sentences, images, settings.oracle)
    judge = PreferenceModel.from_pretrained(world(DEFAULT).preference_names()[-1], device="cpu")
    judged = None
    if judge.calibration is not None and SEGMENTS in images:
        judged = judge.score(images[SEGMENTS], prompts).segments
    counts: Counter[tuple[str | None, str]] = Counter()
    cases = []
    for i, reference in enumerate(map(render, drawn)):
        shown = {REFERENCE: reference, **{column: of_column[i] for column, of_column in images.items()}}
        rows = sentence_rows(sentences[i], shown, settings.oracle)
        if judged is not None:
            counts.update(
                (said.verdict, row.marks[SEGMENTS]) for row, said in zip(rows, judged[i], strict=True)
            )
            rows = [
                replace(row, scores={SEGMENTS: said.probability or 0.0})
                for row, said in zip(rows, judged[i], strict=True)
            ]
        names = (REFERENCE, *(file_name(label, columns[label]) for label in images))
        info = PictureInfo(prompts[i], settings={"seed": seed + i, "steps": steps, "model": DEFAULT})
        files = [
            str(run.save_image(f"{i:02d}-{n}", x, png_text(info)).relative_to(run.path))
            for n, x in zip(names, shown.values(), strict=True)
        ]
        panels = [Panel(column, x, file=f) for (column, x), f in zip(shown.items(), files, strict=True)]
        cases.append(Case(f"Scene {i + 1}", prompts[i], panels, rows))
        run.log({"scene": i, "prompt": prompts[i], "marks": [dict(r.marks) for r in rows]})
    report = Report(
        title="Long prompts, sentence by sentence",
        intro="Crowded scenes that no model here was trained on, described in more than 77 tokens. Every row shows one "
        "scene, drawn in several ways from the same noise. The oracle looks at the pixels and marks each sentence.",
        glossary={
            REFERENCE: "the scene as it should look, rendered and not drawn by a model",
            **{label: MEANINGS[label] for label in images},
        },
        scores="P(true) of the sentence by Denscore, the embedded preference model" if counts else "",
        cases_first=True,
        facts=provenance(
            {
                "model": "the embedded sticker model",
                "sampling": f"UniPC, {steps} steps, guidance {settings.guidance}, "
                f"seeds {seed} to {seed + scenes - 1}",
            },
            command_line,
        ),
        tables=[accuracy, *([_verdict_table(counts)] if counts else [])],
        cases=cases,
        window_tokens=window,
    )
    write_report(report, run.report, jsonl=run.path / "report.jsonl")
    if len(images) < len(columns):
        raise Interrupted(
            f"{len(images)} of {counted(len(columns), 'column')} are kept ({' · '.join(images)}), with their report: "
            f"{run.report}. The same command draws all again, and the same ones"
        )
    return Study(prompts, sentences, images, accuracy, run.path)


def _verdict_table(counts: Mapping[tuple[str | None, str], int]) -> Table:
    """Denscore's verdicts on the pictures of the column `SEGMENTS` against the oracle's marks.

    Args:
        counts: (verdict, mark) → number of sentences.
    """
    marks = ("true", "false", "unclear")
    return Table(
        caption=f"Denscore's verdict against the oracle's ({SEGMENTS})",
        columns=("verdict", *(f"oracle: {mark}" for mark in marks)),
        rows=[
            (verdict, *(str(counts.get((verdict, mark), 0)) for mark in marks))
            for verdict in ("true", "doubtful", "false")
        ],
        note="Numbers of sentences.",
    )
