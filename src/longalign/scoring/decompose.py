"""`longalign decompose` as a function: V of a prompt set, what it looks like on pictures, and a run folder of both."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longalign.engine import Engine, run_work
from longalign.errors import LongalignError
from longalign.preference import PreferenceModel
from longalign.preference.decomposition import FILE_NAME, Decomposition, fit_prompts
from longalign.report import Estimate, Table
from longalign.runs import RunFolder
from longalign.runtime import inference
from longalign.scoring.data import (
    Failure,
    Pair,
)
from longalign.scoring.measure import Measured, measure, plots_of, score_table, separation
from longalign.scoring.prompt_blocks import FitWork, Texts
from longalign.versions import provenance
from longalign.worlds import resolve_model

_PARTS = "parts"
SAMPLE = 4000  # prompts whose η is plotted


def merge_files(paths: Sequence[str | Path], width: int | None = None) -> Decomposition:
    """The decomposition of several shards together, each a file of `Decomposition.save`."""
    return reduce(Decomposition.merge, (Decomposition.load(path, width) for path in paths))


class Reservoir:
    """A uniform sample of a stream of unknown length (algorithm R), the same for the same stream."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.kept: list[str] = []
        self.seen = 0
        self._random = random.Random(seed)

    def add(self, text: str) -> None:
        self.seen += 1
        if len(self.kept) < self.size:
            self.kept.append(text)
        elif (place := self._random.randrange(self.seen)) < self.size:
            self.kept[place] = text


def fit_blocks(
    texts: Texts,
    work: Callable[[int], FitWork],
    *,
    engine: Engine | None = None,
    sample: int = SAMPLE,
    on_step: Callable[[int], None] = lambda texts: None,
) -> tuple[Decomposition, list[str]]:
    """V of a prompt set that can be read again: block by block, going on with the blocks that are missing.

    Args:
        texts: the prompts.
        work: number of prompts → the work on them.
        engine: where it is done; None: in this process.
        sample: texts of the sample.
        on_step: called with the number of prompts that were done.

    Returns:
        the decomposition, the same to the bit as of `fit_stream`, and a sample of the texts.

    Raises:
        LongalignError: no text; a worker fails.
    """
    reservoir = Reservoir(sample)
    for text in texts:
        reservoir.add(text)
    if not reservoir.seen:
        raise LongalignError("the decomposition needs at least one embedding: is the prompt set empty?")
    blocks = work(reservoir.seen)
    run_work(blocks, engine, on_step)
    return blocks.merged(), reservoir.kept


def fit_stream(
    model: PreferenceModel,
    texts: Iterable[str],
    *,
    chunk: int = 1024,
    sample: int = SAMPLE,
    on_step: Callable[[int], None] = lambda texts: None,
) -> tuple[Decomposition, list[str]]:
    """V of a stream in one pass, and a sample of its texts.

    Raises:
        LongalignError: no text.
    """
    reservoir = Reservoir(sample)

    def watched() -> Iterator[str]:
        for text in texts:
            reservoir.add(text)
            yield text
            on_step(1)

    with inference(model.clip):
        return fit_prompts(model, watched(), chunk=chunk), reservoir.kept


def eta_of(
    model: PreferenceModel, decomposition: Decomposition, texts: Sequence[str], chunk: int = 256
) -> Tensor:
    """(N) texts → (N,) η."""
    with inference(model.clip):
        parts = [
            decomposition.split(model.text_mean(texts[i : i + chunk]))[1].cpu()
            for i in range(0, len(texts), chunk)
        ]
    return torch.cat(parts) if parts else torch.zeros(0)


def beside(model: str) -> Path:
    """Where a model's decomposition is looked for.

    Raises:
        LongalignError: the model is no folder that may be written to: embedded, or on the hub.
    """
    folder = Path(resolve_model(model))
    if resolve_model(model) != model or not folder.is_dir():
        raise LongalignError(
            f"{model}: no folder of yours, so nothing is saved beside it; use the file in --out"
        )
    return (folder / "clip" if (folder / "model_index.json").is_file() else folder) / FILE_NAME


@dataclass(frozen=True)
class Decomposed:
    """What `decompose` found; ``table`` and ``measured`` are None without pictures."""

    decomposition: Decomposition
    eta: Tensor
    measured: Measured | None
    table: Table | None
    folder: Path

    def to_json(self) -> dict[str, Any]:
        eta = self.eta.double()
        found: dict[str, Any] = {
            "folder": str(self.folder),
            "decomposition": str(self.folder / FILE_NAME),
            "prompts": self.decomposition.count,
            "source": self.decomposition.source,
            "mean_length": self.decomposition.mean_length,
            "eta": {"n": len(eta), "mean": float(eta.mean()), "least": float(eta.min())}
            if len(eta)
            else None,
        }
        if self.table is not None and self.measured is not None:
            found["scores"] = {
                name: {
                    "paired": asdict(paired),
                    "unpaired": asdict(unpaired),
                    "separation": separation(self.measured.paired[name], self.measured.unpaired[name]),
                }
                for name, paired, unpaired, _ in self.table.rows
                if isinstance(name, str) and isinstance(paired, Estimate) and isinstance(unpaired, Estimate)
            }
            found["failed"] = self.measured.failed
        return found


def decompose(
    model: PreferenceModel,
    texts: Iterable[str] | Texts | Decomposition,
    pairs: Iterable[Pair | Failure] | None = None,
    *,
    name: str = "stickers",
    config: dict[str, Any] | None = None,
    gallery: int = 12,
    batch_size: int = 32,
    out: str | Path | None = None,
    overwrite: bool = False,
    save_beside: bool = False,
    load: Callable[[], PreferenceModel] | None = None,
    engine: Engine | None = None,
    command_line: str | None = None,
    on_text: Callable[[int], None] = lambda texts: None,
    on_pair: Callable[[int], None] = lambda pairs: None,
) -> Decomposed:
    """Finds V, measures it, and writes a run folder with ``decomposition.safetensors`` and the page.

    Args:
        texts: the prompt set, streamed; as `Texts` it is done in blocks, and the same call with the same ``out`` goes
            on with those that are missing; or a decomposition that is already there, such as a merged one.
        pairs: pictures for the scores and the galleries.
        name: the model's, for the page and for ``save_beside``.
        gallery: how many pictures of the lowest and of the highest text-irrelevant score to show.
        load: loads the model in other processes.
        engine: where `Texts` are embedded; None: in this process.
        command_line: what the user typed, for the page.

    Raises:
        LongalignError: no text, fewer than two readable pairs, a run folder that is not ours.
    """
    target = beside(name) if save_beside else None
    settings = {"command": "decompose", "model": name, **(config or {})}
    if out is None:
        run = RunFolder.new("decompose", settings)
    elif overwrite or not isinstance(texts, Texts):
        run = RunFolder(out, settings, overwrite=overwrite)
    else:
        run = RunFolder.resume(out, settings)
    sample: list[str] = []
    if isinstance(texts, Decomposition):
        texts.check_width(model.width)
        decomposition = texts
    elif isinstance(texts, Texts):
        folder, here = run.path / _PARTS, engine is None or engine.on == "local"

        def work(count: int) -> FitWork:
            return FitWork(texts, count, str(folder), load or (lambda: model), model if here else None)

        decomposition, sample = fit_blocks(texts, work, engine=engine, on_step=on_text)
    else:
        decomposition, sample = fit_stream(model, texts, on_step=on_text)
    for path in filter(None, (run.path / FILE_NAME, target)):
        decomposition.save(path)
    measured = None
    if pairs is not None:
        measured = measure(model, decomposition, pairs, batch_size=batch_size, on_step=on_pair)
    eta = eta_of(model, decomposition, sample) if sample else measured.eta if measured else torch.zeros(0)
    table = score_table(measured) if measured is not None else None
    done = Decomposed(decomposition, eta, measured, table, run.path)
    run.metrics.unlink(missing_ok=True)
    run.log(done.to_json())
    _write(done, name, gallery, run, command_line)
    return done


def _write(done: Decomposed, name: str, gallery: int, run: RunFolder, command_line: str | None) -> None:
    from longalign.report import signed
    from longalign.scoring.page import THUMB_PX, picture_of, write_decomposition

    galleries = []
    if done.measured is not None:
        scores, pairs = done.measured.irrelevant, done.measured.pairs
        order = scores.argsort(stable=True).tolist()
        shown = min(gallery, len(order) // 2)
        for title, chosen in (
            ("Lowest text-irrelevant score", order[:shown]),
            ("Highest text-irrelevant score", order[::-1][:shown]),
        ):
            pictures = [
                (picture_of(pairs[i].image, pairs[i].name, THUMB_PX), signed(float(scores[i])))
                for i in chosen
            ]
            galleries.append((f"{title}, 100 · C_X·V", pictures))
    decomposition = done.decomposition
    write_decomposition(
        run.report,
        intro=f"V is the mean direction of {decomposition.count:,} prompts' embeddings; η is how much of a prompt's "
        "embedding lies along it. A picture's score along V has nothing to do with the text: it is what the "
        "model likes to see.",
        facts=provenance(
            {
                "model": name,
                "prompts": f"{decomposition.count:,}",
                "|E C_P|": f"{decomposition.mean_length:.4f}",
                "prompt hash": decomposition.source or "(none)",
            },
            command_line,
        ),
        plots=plots_of(done.eta, done.measured),
        tables=[done.table] if done.table is not None else [],
        galleries=galleries,
        failed=done.measured.failed if done.measured is not None else 0,
    )
