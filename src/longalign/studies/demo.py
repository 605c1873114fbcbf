"""Crowded held-out scenes drawn by plain encoding, by segments and with trained stages, judged: `longalign demo`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from longalign.diffusion.pipelines import settings_of
from longalign.picture_info import PictureInfo, png_text
from longalign.preference import PreferenceModel
from longalign.report import Case, Panel, Report, Table, write_report
from longalign.report.sentences import Sentences, sentence_rows, sentences_of, window_of
from longalign.runs import RunFolder
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import render, scene
from longalign.studies.accuracy import accuracy_table, table_json
from longalign.studies.compare import (
    SEGMENTS,
    SOFT,
    Column,
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
    """
    drawer, settings, columns = Drawer(DEFAULT), settings_of(DEFAULT), shipped_columns()
    drawn = [scene(i, objects=OBJECTS, split="test") for i in range(scenes)]
    prompts = [text_of(caption(s, i)) for i, s in enumerate(drawn)]
    pipe = drawer.pipe()
    window, sentences = window_of(pipe.tokenizer), sentences_of(pipe.tokenizer, prompts)
    images = draw_columns(
        drawer,
        columns,
        prompts,
        seed=seed,
        steps=steps,
        guidance=settings.guidance,
        length=settings.length,
        on_step=on_step,
    )
    accuracy = accuracy_table(sentences, images, settings.oracle)
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
    judge = PreferenceModel.from_pretrained(world(DEFAULT).preference_names()[-1], device="cpu")
    judged = judge.score(images[SEGMENTS], prompts).segments if judge.calibration is not None else None
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
        names = (REFERENCE, *(file_name(label, column) for label, column in columns.items()))
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
        intro="Crowded scenes that no model here was trained on, described in more than 77 tokens. The plain encoding "
        "stops reading there; segment-level encoding reads every sentence"
        + _of_stages(columns)
        + ". The oracle looks at the pixels and marks each sentence."
        + (
            " Beside its marks in the column segments stands P(true) by Denscore, the embedded preference model."
            if counts
            else ""
        ),
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


def _of_stages(columns: Mapping[str, Column]) -> str:
    """The part of the introduction about the trained columns."""
    tokens = (
        ", soft tokens were trained to tell the captions of different scenes apart" if SOFT in columns else ""
    )
    stages = any(column.loras for column in columns.values())
    return tokens + (", and SFT and SFT+RFT are LoRAs that were trained on long captions" if stages else "")
