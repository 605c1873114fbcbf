"""A judge compares the pictures of each run with those of the baseline, after everything else is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from longalign.errors import LongalignError
from longalign.evaluation.measuring import Measuring, Pass
from longalign.metrics.judge import Judge, JudgeItem, JudgeOptions
from longalign.report import Estimate, Table, wilson

ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class Verdicts:
    """What the judge said.

    Attributes:
        table: a row for each run.
        facts: model, template, requests and costs.
        to_json: plain numbers.
    """

    table: Table
    facts: dict[str, str]
    to_json: dict[str, Any]


def judge_runs(
    measuring: Measuring,
    passes: Sequence[Pass],
    baseline: str,
    options: JudgeOptions,
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    on_step: Callable[[int], None] = lambda pairs: None,
) -> Verdicts:
    """Asks of each run and prompt whether its first picture fits the prompt better than the baseline's.

    Args:
        measuring, passes: the pictures.
        baseline: label of the run that the others are compared with.
        options: of the judge.
        folder: the run folder, where the answers are kept.
        device, dtype: of a local model.
        on_step: called with the number of pairs that were judged.

    Raises:
        LongalignError: the judge cannot be asked at all, such as a model without a name.
    """
    labels = [s.label for s in measuring.blocks.sets]
    others = [label for label in labels if label != baseline]
    judge = Judge(options, folder / ANSWERS, device=device, dtype=dtype)
    counts: dict[str, Counter[str]] = {}
    for label in others:
        items = list(pairs_of(measuring, passes, labels.index(label), labels.index(baseline)))
        found = judge.compare(items, on_step)
        counts[label] = Counter(j.winner or "failed" for j in found)
    rows: list[list[str | Estimate]] = []
    for label, count in counts.items():
        n = count["first"] + count["second"] + count["tie"]
        rate = wilson(count["first"] + count["tie"] / 2, n)
        rows.append([label, rate, *(f"{count[c]:,}" for c in ("first", "tie", "second", "failed"))])
    table = Table(
        f"Judge: against {baseline}",
        ["", "win rate", "wins", "ties", "losses", "no answer"],
        rows,
        note="Which picture fits the prompt better, asked in both orders; answers that disagree are ties (LongAlign, "
        "App. D). Win rate: ties count one half, 95 % Wilson intervals.",
    )
    summary = judge.summary
    facts = {
        "judge": judge.what,
        "judge's requests": f"{summary.requests:,}, {summary.failed:,} pairs without answer",
    }
    if summary.cost:
        facts["judge's cost"] = f"{summary.cost:.2f}"
    if summary.reasons:
        facts["judge's failures"] = "; ".join(f"{n:,} × {why}" for why, n in summary.reasons.most_common(3))
    told = {
        "baseline": baseline,
        "runs": {label: dict(count) for label, count in counts.items()},
        "asked": summary.asked,
        "cached": summary.cached,
        "cost": summary.cost,
    }
    return Verdicts(table, facts, told)


def pairs_of(measuring: Measuring, passes: Sequence[Pass], run: int, baseline: int) -> Iterator[JudgeItem]:
    """The first pictures of each prompt of two runs, where both can be read; the run's is the first of the pair.

    Args:
        measuring, passes: the pictures.
        run, baseline: numbers of the sets.
    """
    for _, group in groupby(measuring.lines(passes), lambda pair: pair[0].key):
        found: dict[int, Path | Image.Image] = {}
        prompt = ""
        for item, line in group:
            if item.place or "failed" in line or item.of not in (run, baseline):
                continue
            image = item.picture.image
            found[item.of] = image if isinstance(image, Path) else item.picture.picture()
            prompt = item.picture.text if item.of == run or not prompt else prompt
        if len(found) == 2:
            yield JudgeItem(prompt, found[run], found[baseline])


def check_judge(options: JudgeOptions) -> None:
    """Raises LongalignError: neither an endpoint nor a local model is named."""
    if options.model is None:
        raise LongalignError(
            "judge: name a model: --set judge.model=NAME with --set judge.base_url=https://…/v1 for an endpoint, or "
            "--set judge.model=FOLDER for a local one"
        )
