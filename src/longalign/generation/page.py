"""The files that `longalign generate` writes at its end: metrics.jsonl, and one page, or a folder of pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from longalign.generation.painter import Painter
from longalign.generation.repairs import page_panels, panels
from longalign.generation.result import Generation, Line, rows_of
from longalign.generation.work import chosen_by_auto
from longalign.preference.sentences import words_of_scores
from longalign.report import Case, Panel, Report, write_report
from longalign.report.data import PageCase, PagePanel
from longalign.report.pages import worst_first, write_pages
from longalign.report.sentences import window_of
from longalign.runs import RunFolder, atomic_path, json_line
from longalign.versions import provenance

ONE_PAGE = 200  # pictures
_LIST, _COLUMN = "Smallest share of true sentences", "true"
_CUTS = 50  # texts that were cut off, on the first page of many
_SHOWN = (
    "model",
    "strategy",
    "steps",
    "guidance",
    "scheduler",
    "seed",
    "length",
    "negative_prompt",
    "scorer",
)


def write_page(made: Generation, painter: Painter, run: RunFolder, command_line: str | None) -> int:
    """Writes what the pictures show into the run folder.

    Args:
        made: the pictures.
        painter: the model that drew them.
        run: the run folder.
        command_line: what the user typed.

    Returns:
        how many pictures there are; where there are none, nothing is written.

    Raises:
        LongalignError: a file cannot be written, or a part of the run is damaged.
    """
    pictures, whole, cuts = _write_metrics(made, run)
    if not pictures:
        return 0
    config = painter.config
    told = painter.resolved
    if config.strategy == "auto":
        told["strategy"] = chosen_by_auto(whole[True], whole.total())
    facts = {k.replace("_", " "): str(told[k]) for k in _SHOWN if told[k] is not None}
    one = len(made.prompts) == 1 and len(made.prompts[0]) < 80
    many = pictures > ONE_PAGE
    report = Report(
        title=made.prompts[0] if one else "Generated pictures",
        facts=provenance({**facts, **config.facts()}, command_line),
        cases=[] if many else list(_cases(made)),
        truncation=cuts,
        window_tokens=window_of(painter.pipe.tokenizer),
        scores=words_of_scores(config.scorer, _probable(made)) if config.scorer else "",
    )
    if not many:
        write_report(report, run.report, jsonl=run.path / "report.jsonl")
        return pictures
    lists = []
    if painter.settings.oracle is not None:
        shares = {
            line["index"] + 1: share for line in made.lines() if (share := _share_true(line)) is not None
        }
        if shares:
            lists = [worst_first("worst", _LIST, {_COLUMN: shares}, of=_COLUMN, format=".0%")]
    write_pages(report, _page_cases(made), run.path, lists=lists)
    # An interrupted run may have left one of its first pictures. Of many, metrics.jsonl says all.
    (run.path / "report.jsonl").unlink(missing_ok=True)
    return pictures


def _write_metrics(made: Generation, run: RunFolder) -> tuple[int, Counter[bool], list[str]]:
    """metrics.jsonl; the number of pictures, of prompts that fit the window or do not, and texts that were cut off."""
    pictures, whole = 0, Counter[bool]()
    cuts: list[str] = []
    left_out = 0
    with atomic_path(run.metrics) as path, open(path, "wb") as file:
        for line in made.lines():
            pictures += len(line["images"])
            whole[line["whole"]] += 1
            for cut in line["truncation"]:
                if len(cuts) < _CUTS or len(made.prompts) <= ONE_PAGE:
                    cuts.append(f"Prompt {line['index'] + 1}, by {cut['where']}: {cut['text']}")
                else:
                    left_out += 1
            told = {"prompt": line["prompt"], "images": line["images"], "sentences": line["sentences"]}
            told |= {"repairs": line["repairs"]} if "repairs" in line else {}
            file.write(json_line(told).encode("utf-8", errors="backslashreplace"))
    if left_out:
        cuts.append(f"… and {left_out:,} more. The files in the folder parts list all of them.")
    if not pictures:
        run.metrics.unlink(missing_ok=True)
    return pictures, whole, cuts


def _cases(made: Generation) -> Iterator[Case]:
    for line in made.lines():
        shown: list[Panel] = []
        for k, p in enumerate(made.pictures_of(line)):
            panel = Panel(f"seed {p.seed}", p.image, file=p.file)
            repairs = line.get("repairs")
            shown += [panel] if repairs is None else panels(repairs[k], p.seed, made.folder, panel)
        title = f"Prompt {line['index'] + 1}"
        yield Case(title=title, prompt=line["prompt"], panels=shown, sentences=rows_of(line))


def _page_cases(made: Generation) -> Iterator[PageCase]:
    for line in made.lines():
        number = line["index"] + 1
        shown: list[PagePanel] = []
        for k, p in enumerate(made.pictures_of(line)):
            panel = PagePanel(f"seed {p.seed}", p.path)
            repairs = line.get("repairs")
            shown += [panel] if repairs is None else page_panels(repairs[k], p.seed, made.folder, panel)
        yield PageCase(number, "", line["prompt"], shown, rows_of(line))


def _probable(made: Generation) -> bool:
    """Whether the numbers beside sentences are P(true)."""
    return any(r["probability"] for line in made.lines(1) for r in line.get("repairs", ()))


def _share_true(line: Line) -> float | None:
    """Of the sentences that the judge knows, the share that is true, over all pictures of a prompt."""
    marks = [mark for s in line["sentences"] for mark in s["marks"].values() if mark != "unjudged"]
    return sum(mark == "true" for mark in marks) / len(marks) if marks else None
