"""`longalign score --data` as a function: a data set of any size → scores in parquet files, and a page."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from longalign.data.entries import Failure, Source
from longalign.engine import Engine, block_count, run_work
from longalign.errors import Interrupted, LongalignError
from longalign.paths import remove_tree
from longalign.preference import PreferenceModel
from longalign.report import counted
from longalign.runs import RunFolder
from longalign.scoring.blocks import ROWS, EmbedWork, ScoreWork
from longalign.scoring.data import open_pairs, pair_at
from longalign.scoring.outcome import Outcome, ScoreConfig
from longalign.scoring.parts import part_path, read_part
from longalign.scoring.ranking import Lowest
from longalign.scoring.score import write_run
from longalign.scoring.stream import Scored

SCORES = "scores"  # the folder of the parquet files
_EMBEDDINGS = "embeddings"  # of the first pass of relative scores; removed at the end
_FREE = ("worst", "device")  # settings that a run may go on with in another form


def score_data(
    data: str,
    config: ScoreConfig,
    *,
    engine: Engine | None = None,
    model: PreferenceModel | None = None,
    block_rows: int = ROWS,
    out: str | Path | None = None,
    overwrite: bool = False,
    command_line: str | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
    on_result: Callable[[Scored | Failure], None] = lambda result: None,
) -> Outcome:
    """Scores the pairs of a data set block by block. What cannot be read is counted and listed.

    The same call with the same ``out`` goes on with the blocks that are missing, and gives the same files. Memory does
    not grow with the data, but for 16 bytes a pair.

    Args:
        data: as of `longalign.scoring.data.read_pairs`.
        config: the settings.
        engine: where the work is done; None: in this process.
        model: in place of loading ``config.model``; for this process alone.
        block_rows: rows of a block, and what an interruption loses at most. They decide the last bits.
        out: run folder: ``scores/00000.parquet`` … (`longalign.scoring.parts`), ``worst.jsonl`` with the lowest
            sentences, ``report.html``. None: nothing is kept.
        overwrite: begin anew in ``out``.
        command_line: what the user typed, for the page.
        on_rows: called with the number of rows of each block, twice for relative scores.
        on_result: called with each result, in order, at the end.

    Raises:
        LongalignError: nothing at all could be scored; the model or the run folder is wrong; ``out`` has a run of
            other settings; the disk is full (what was written stays).
        Interrupted: Ctrl-C. The blocks that were finished are in the run folder, with its page.
    """
    if config.worst < 0:
        raise LongalignError(f"the number of worst sentences cannot be {config.worst}")
    source = open_pairs(data)
    if not len(source):
        raise LongalignError(f"{data}: holds no pair")
    # Loaded here, too, where workers load it themselves: what is wrong with it is said before they start.
    model = model or config.load()
    local = engine is None or engine.on == "local"
    settings = {"command": "score", "data": data, "rows": len(source), **asdict(config)}
    settings["block_rows"] = block_rows
    with _folder(out, settings, overwrite) as (folder, run):
        outcome = Outcome.of(config, model, run.path if run else None)
        ready = model if local else None
        stopped = False
        try:
            _run(data, len(source), block_rows, config, folder, engine, ready, on_rows)
        except KeyboardInterrupt:
            stopped = True
        blocks = block_count(block_rows, len(source))
        lowest = _read(outcome, folder, blocks, stopped, on_result)
        if stopped and not outcome.summary.scored:
            raise Interrupted("nothing was scored yet")
        outcome.check()
        outcome.lowest = [_with_picture(item, source, b * block_rows + k) for b, k, item in lowest]
        if run is not None:
            write_run(outcome, run, command_line)
        if stopped:
            kept = (
                f"kept, with their report: {run.report}. The same command goes on with the rest"
                if run is not None
                else "lost: --out would keep them"
            )
            raise Interrupted(f"the scores of {counted(outcome.summary.scored, 'pair')} are {kept}")
    return outcome


@contextmanager
def _folder(
    out: str | Path | None, settings: dict[str, object], overwrite: bool
) -> Iterator[tuple[Path, RunFolder | None]]:
    """The folder of the parts; without ``out`` one that is removed at the end."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="longalign-") as folder:
            yield Path(folder), None
        return
    run = (
        RunFolder(out, settings, overwrite=True) if overwrite else RunFolder.resume(out, settings, free=_FREE)
    )
    yield run.path, run


def _run(
    data: str,
    rows: int,
    size: int,
    config: ScoreConfig,
    folder: Path,
    engine: Engine | None,
    model: PreferenceModel | None,
    on_rows: Callable[[int], None],
) -> None:
    work = ScoreWork(data, rows, config, str(folder / SCORES), model, size)
    if config.relative and not all(map(work.has, range(work.blocks))):
        first = EmbedWork(data, rows, config, str(folder / _EMBEDDINGS), model, size)
        run_work(first, engine, on_rows)
        first.total()  # says if there are too few
        work.embedded = first
    run_work(work, engine, on_rows)
    remove_tree(folder / _EMBEDDINGS)


def _read(
    outcome: Outcome,
    folder: Path,
    blocks: int,
    some: bool,
    on_result: Callable[[Scored | Failure], None],
) -> list[tuple[int, int, Scored]]:
    """Counts all results, in order; returns the lowest ones, each with its block and its place in there."""
    lowest = Lowest(outcome.config.worst)
    for block in range(blocks):
        part = part_path(folder / SCORES, block)
        if some and not part.is_file():
            continue
        for k, result in enumerate(read_part(part)):
            outcome.add(result)
            if not isinstance(result, Failure):
                lowest.add(result, (block, k))
            on_result(result)
    return [(block, k, item) for item, (block, k) in lowest.numbered()]


def _with_picture(item: Scored, source: Source, row: int) -> Scored:
    """The result with its picture, for the page."""
    pair = pair_at(source, row)
    return item if isinstance(pair, Failure) else replace(item, pair=pair)
