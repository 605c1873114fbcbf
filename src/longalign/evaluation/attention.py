"""Where each model looks for the words of a prompt: a page of attention maps (LongAlign, Fig. 12)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from longalign.diffusion.attention_maps import attention_maps, heatmap
from longalign.encoding.conditioning import TruncationWarning
from longalign.encoding.word_columns import word_columns
from longalign.errors import LongalignError
from longalign.evaluation.drawing import Plan, Stacked, artist_of
from longalign.evaluation.sweep import Point
from longalign.report import Case, Panel, Report, write_report
from longalign.runs import RunFolder
from longalign.versions import provenance

PAGE = "attention.html"


def check_words(points: Sequence[Point], words: Sequence[str]) -> None:
    """Refuses words before anything is drawn.

    Args:
        points: the models and their prompts.
        words: of the page of attention maps.

    Raises:
        LongalignError: there are no models, or no prompt has any of the words.
    """
    if words and not points:
        raise LongalignError("--attention draws: name a model and --prompts, not only folders of pictures")
    if words and not any(_has(row.prompt, word) for p in points for row in p.rows for word in words):
        raise LongalignError(f"--attention: no prompt has any of the words {', '.join(words)}")


def write_attention(
    points: Sequence[tuple[Point, Plan]],
    words: Sequence[str],
    run: RunFolder,
    *,
    prompts: int = 3,
    command_line: str | None = None,
) -> Path:
    """Draws the first prompts that have one of the words once more, and shows where each model looks for it.

    Args:
        points: the models and what they draw.
        words: words of the prompts, or several words in a row.
        run: the run folder, in which ``attention.html`` is written.
        prompts: how many prompts for each word.
        command_line: what the user typed, for the page.

    Returns:
        the page.

    Raises:
        LongalignError: no prompt has any of the words; no model has attention that is known here.
    """
    panels: dict[tuple[str, str], list[Panel]] = {}
    notes: list[str] = []
    for point, plan in points:
        artist = artist_of(point.contender)
        if not isinstance(artist, Stacked):
            notes.append(f"{point.contender.label}: longalign has no backbone for it, so no maps.")
            continue
        for word in words:
            chosen = [row.prompt for row in plan.rows if _has(row.prompt, word)][:prompts]
            for prompt in chosen:
                try:
                    panel = _panel(artist, point.contender.label, prompt, word, plan.seeds[0])
                except LongalignError as error:
                    notes.append(f"{point.contender.label}, “{word}”: {error}.")
                    continue
                panels.setdefault((word, prompt), []).append(panel)
    if not panels:
        reason = f" ({notes[0]})" if notes else ""
        raise LongalignError(f"no prompt has any of the words {', '.join(words)}{reason}")
    cases = [Case(f"“{word}”", prompt, of_case) for (word, prompt), of_case in panels.items()]
    report = Report(
        title="Where the models look for words",
        intro="Cross-attention of the picture's positions to the tokens of a word, averaged over heads, layers and "
        "steps (LongAlign, Fig. 12). Red is most.\n\n" + " ".join(dict.fromkeys(notes)),
        facts=provenance({}, command_line),
        cases=cases,
    )
    return write_report(report, run.path / PAGE)


def _has(prompt: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", prompt, re.IGNORECASE) is not None


def _panel(artist: Stacked, label: str, prompt: str, word: str, seed: int) -> Panel:
    """One picture with its map over it."""
    painter = artist.painter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        groups = painter.encode([prompt])
        found = word_columns(
            painter.pipe,
            groups[0][1],
            prompt,
            word,
            painter.config.negative_prompt,
            **painter.encoding,
        )
    columns = [column for occurrence in found for column in occurrence]
    with attention_maps(painter.pipe, columns) as maps:
        image = painter.paint(groups, [seed])[0]
    return Panel(label, heatmap(image, maps.result()[0].mean(0)))
