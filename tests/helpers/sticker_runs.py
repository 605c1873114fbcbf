"""Run folders of sticker pictures of which everything is known."""

from __future__ import annotations

from pathlib import Path

from longalign.report import Case, Panel, Report, write_report
from longalign.runs import RunFolder
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import render, scene

SCENES = [scene(i, objects=(2, 5), split="test") for i in range(3)]
PROMPTS = [text_of(caption(s, i)) for i, s in enumerate(SCENES)]


def run_folder(path: Path, columns: dict[str, list[int]], prompts: list[str] = PROMPTS) -> Path:
    """A run that drew, for each column, scene number such and such for each prompt."""
    run = RunFolder(path, {"command": "generate"})
    cases = []
    for k, prompt in enumerate(prompts):
        panels = []
        for name, shown in columns.items():
            image = render(SCENES[shown[k]])
            file = run.save_image(f"{k}-{name[:4].strip()}", image).relative_to(run.path)
            panels.append(Panel(name, image, file=str(file)))
        cases.append(Case(f"Prompt {k}", prompt, panels))
    write_report(Report("A run", cases=cases), run.report, jsonl=run.path / "report.jsonl")
    return path
