"""The main job: crowded held-out scenes, drawn with and without segment-level encoding, judged by the oracle."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from longalign.encoding import TruncationWarning
from longalign.generate import draw
from longalign.judging import Sentences, judge, sentence_rows, sentences_of, window_of
from longalign.pipelines import STICKERS, load_pipeline, settings_of
from longalign.report import Case, Estimate, Panel, Report, Table, bootstrap_ratio, write_report
from longalign.runs import RunFolder
from longalign.sampling import set_scheduler
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import render, scene
from longalign.versions import versions

COLUMNS = ("plain, 77 tokens", "segments")
STRATEGIES = {"plain, 77 tokens": "plain", "segments": "clip-cat"}
REFERENCE = "reference"
OBJECTS = (7, 9)


@dataclass(frozen=True)
class Study:
    """Pictures of the same prompts made in several ways, and the oracle's verdicts.

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
        rows = [
            {
                "sentences": row[0],
                **{
                    name: {"value": cell.value, "low": cell.low, "high": cell.high, "n": cell.n}
                    for name, cell in zip(self.accuracy.columns[1:], row[1:], strict=True)
                    if isinstance(cell, Estimate)
                },
            }
            for row in self.accuracy.rows
        ]
        return {"folder": str(self.folder), "report": str(self.folder / "report.html"), "accuracy": rows}


def demo_steps(scenes: int, steps: int) -> int:
    """How often `demo` calls back in all: once a picture and step."""
    return scenes * steps * len(COLUMNS)


def compare(
    pipe: Any,
    prompts: Sequence[str],
    strategies: Mapping[str, str],
    *,
    oracle: str | None,
    length: int,
    seed: int = 0,
    **sampling: Any,
) -> tuple[list[Sentences], dict[str, list[Image.Image]], Table]:
    """Draws every prompt with every strategy from the same noise, and tabulates the oracle's verdicts.

    Args:
        strategies: column → strategy of `longalign.encode`.
        length: padded length in tokens, for `longalign.encode`.
        sampling: arguments of `longalign.sampling.sample`.
    """
    seeds = [seed + i for i in range(len(prompts))]
    with warnings.catch_warnings():
        # That the plain encoding cuts is what is being shown; the rows of the report say where.
        warnings.simplefilter("ignore", TruncationWarning)
        images = {
            column: draw(pipe, prompts, seeds, strategy=strategy, length=length, sampling=sampling)
            for column, strategy in strategies.items()
        }
    sentences = sentences_of(pipe, prompts)
    return sentences, images, accuracy_table(sentences, images, oracle)


def accuracy_table(
    sentences: Sequence[Sentences], images: Mapping[str, Sequence[Image.Image]], oracle: str | None
) -> Table:
    """Share of sentences that the oracle calls true, before and beyond the window, with 95 % intervals over scenes.

    Chance is the last column's pictures under the next scene's sentences: what a model that ignores its
    prompt but draws the right sort of picture would get.
    """
    shuffled = list(images)[-1]
    pictures = {**images, "chance": [*images[shuffled][1:], images[shuffled][0]]}
    beyond = [np.array(s.beyond, bool) for s in sentences]
    true = {
        name: [
            np.array([mark == "true" for mark in judge([x.text for x in s.segments], image, oracle)])
            for s, image in zip(sentences, column, strict=True)
        ]
        for name, column in pictures.items()
    }
    rows: list[list[str | Estimate]] = []
    for label, chosen in (
        ("before token 77", [~b for b in beyond]),
        ("beyond token 77", beyond),
        ("all sentences", [np.ones_like(b) for b in beyond]),
    ):
        counts = [int(c.sum()) for c in chosen]
        cells = [
            bootstrap_ratio([int(t[c].sum()) for t, c in zip(column, chosen, strict=True)], counts)
            for column in true.values()
        ]
        rows.append([label, *cells])
    return Table(
        "Sentences that are true of the picture",
        ["", *pictures],
        rows,
        plot=True,
        baseline="chance",
        note="Share of the sentences that the oracle calls true of the picture (unclear counts as not true); "
        "95 % bootstrap intervals over scenes. Chance: the same sentences judged on another scene's picture.",
    )


def demo(
    *,
    scenes: int = 16,
    steps: int = 25,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> Study:
    """Draws held-out scenes of 7–9 stickers with the plain and the segment-level encoding; writes a run folder.

    Args:
        scenes: how many scenes of the `test` split.
        steps: UniPC steps.
        seed: seed of the first scene's noise; both columns start from the same.
        out: the run folder; None makes `runs/demo-<date>-NNN`.
    """
    pipe = load_pipeline(STICKERS, device="cpu")
    settings = settings_of(STICKERS)
    set_scheduler(pipe, "unipc")
    drawn = [scene(i, objects=OBJECTS, split="test") for i in range(scenes)]
    prompts = [text_of(caption(s, i)) for i, s in enumerate(drawn)]
    sentences, images, accuracy = compare(
        pipe,
        prompts,
        STRATEGIES,
        oracle=settings.oracle,
        seed=seed,
        steps=steps,
        guidance=settings.guidance,
        length=settings.length,
        on_step=on_step,
    )
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
    cases = []
    for i, reference in enumerate(map(render, drawn)):
        shown = {REFERENCE: reference, **{column: of_column[i] for column, of_column in images.items()}}
        rows = sentence_rows(sentences[i], shown, settings.oracle)
        names = ("reference", *STRATEGIES.values())
        files = [
            str(run.save_image(f"{i:02d}-{n}", x).relative_to(run.path))
            for n, x in zip(names, shown.values(), strict=True)
        ]
        panels = [Panel(column, x, file=f) for (column, x), f in zip(shown.items(), files, strict=True)]
        cases.append(Case(f"Scene {i + 1}", prompts[i], panels, rows))
        run.log({"scene": i, "prompt": prompts[i], "marks": [dict(r.marks) for r in rows]})
    report = Report(
        title="Long prompts, sentence by sentence",
        intro="Crowded scenes that no model here was trained on, described in more than 77 tokens. The plain encoding "
        "stops reading there; segment-level encoding reads every sentence. The oracle looks at the "
        "pixels and marks each sentence.",
        facts={
            "command": shlex.join(["longalign", *sys.argv[1:]]),
            "model": "the embedded sticker model",
            "sampling": f"UniPC, {steps} steps, guidance {settings.guidance}, seeds {seed} to {seed + scenes - 1}",
            **versions(),
        },
        tables=[accuracy],
        cases=cases,
        window_tokens=window_of(pipe),
    )
    write_report(report, run.report, jsonl=run.path / "report.jsonl")
    return Study(prompts, sentences, images, accuracy, run.path)
