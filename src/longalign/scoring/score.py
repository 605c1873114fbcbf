"""`longalign score` as a function: pairs → scores, a ranking, the worst sentences, and a run folder of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from longalign.errors import Interrupted, LongalignError
from longalign.preference import PreferenceModel
from longalign.report import counted
from longalign.runs import RunFolder, atomic_write_text, json_line
from longalign.scoring.data import (
    Failure,
    Pair,
)
from longalign.scoring.outcome import Outcome, ScoreConfig
from longalign.scoring.page import write_scores
from longalign.scoring.ranking import Lowest, rank, worst_row
from longalign.scoring.stream import Scored, score_pairs
from longalign.versions import provenance


def score(
    pairs: Iterable[Pair | Failure],
    config: ScoreConfig,
    *,
    keep: bool = True,
    model: PreferenceModel | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command_line: str | None = None,
    on_result: Callable[[Scored | Failure], None] = lambda result: None,
) -> Outcome:
    """Scores pairs as they come; what cannot be read is skipped, counted and reported.

    Args:
        pairs: pictures and texts, streamed.
        config: the settings.
        keep: hold every result, rank the pictures of one prompt, show all of them on the page. For a data set:
            False, which holds the lowest alone.
        model: in place of loading ``config.model``.
        out: run folder: ``metrics.jsonl`` has a line a pair as soon as it is scored, ``report.html`` the page,
            ``worst.jsonl`` the lowest sentences.
        overwrite: replace an earlier run in `out`.
        command_line: what the user typed, for the page.
        on_result: called with each result, in order.

    Raises:
        LongalignError: nothing at all could be scored; the model or the run folder is wrong.
        Interrupted: Ctrl-C. What was scored so far is in the run folder, with its page.
    """
    if config.worst < 0:
        raise LongalignError(f"the number of worst sentences cannot be {config.worst}")
    model = model or config.load()
    settings = {"command": "score", **asdict(config)}
    run = RunFolder(out, settings, overwrite=overwrite) if out is not None else None
    outcome = Outcome.of(config, model, run.path if run else None)
    lowest = Lowest(config.worst)
    results = score_pairs(model, pairs, batch_size=config.batch_size, relative=config.relative)
    stopped = False
    try:
        for result in results:
            outcome.add(result)
            if not isinstance(result, Failure):
                lowest.add(result)
                if keep:
                    outcome.kept.append(result)
            if run is not None:
                run.log(
                    {"image": result.name, "error": result.reason}
                    if isinstance(result, Failure)
                    else result.to_json()
                )
            on_result(result)
    except KeyboardInterrupt:
        stopped = True
        if not outcome.summary.scored:
            raise Interrupted("nothing was scored yet") from None
    outcome.check()
    outcome.lowest = lowest.sorted()
    if len(outcome.kept) > 1:
        with suppress(LongalignError):  # different prompts: nothing to rank
            outcome.ranking = rank(outcome.kept)
    if run is not None:
        write_run(outcome, run, command_line)
    if stopped:
        kept = f"kept, with their report: {run.report}" if run is not None else "lost: --out would keep them"
        raise Interrupted(
            f"the scores of {counted(outcome.summary.scored, 'pair')} are {kept}. The same command scores all again"
        )
    return outcome


def write_run(outcome: Outcome, run: RunFolder, command_line: str | None = None) -> None:
    """Writes ``worst.jsonl`` and the page.

    Args:
        outcome: the results.
        run: the run folder.
        command_line: what the user typed, for the page.
    """
    if outcome.lowest:
        lines = [json_line(worst_row(item)) for item in outcome.lowest]
        atomic_write_text(run.path / "worst.jsonl", "".join(lines))
    facts = provenance({"model": outcome.config.model, "sentences by": outcome.ranked_by}, command_line)
    write_scores(outcome, facts, run.report)
