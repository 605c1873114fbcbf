"""Sets of generated pictures by several metrics at once: `longalign evaluate`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL.Image import Image
from torch import Tensor

from longalign.data.entries import Failure
from longalign.diffusion.pipelines import load_tokenizer
from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError
from longalign.evaluation.pictures import Picture, PictureSet
from longalign.metrics.distances import cmmd, diversity, diversity_draws, fid
from longalign.metrics.embedding import embed_images
from longalign.metrics.features import Features
from longalign.metrics.intervals import resample
from longalign.metrics.prompt_bootstrap import Cell, Draws
from longalign.preference.images import load_image, to_pixels, to_rgb
from longalign.report import Estimate, bootstrap_ratio
from longalign.report.sentences import Sentences, sentences_of
from longalign.scoring.data import (
    Pair,
)
from longalign.scoring.stream import Scored, score_pairs
from longalign.worlds import World, owner_of_texts

if TYPE_CHECKING:
    from longalign.preference import PreferenceModel

METRICS = ("fid", "cmmd", "denscore", "oracle", "diversity", "looks")
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Column:
    """One number of a metric: its key, its heading with the better direction, and how it is printed."""

    key: str
    title: str
    format: str


COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "fid": (Column("fid", "FID ↓", ".4g"),),
    "cmmd": (Column("cmmd", "CMMD ↓", ".4g"),),
    "denscore": (
        Column("overall", "Denscore ↑", ".2f"),
        Column("aligned", "Denscore-O, C_X·C⊥ ↑", ".2f"),
        Column("aligned_cosine", "Denscore-O, cosine ↑", ".2f"),
    ),
    "oracle": (
        Column("true", "true sentences ↑", ".1%"),
        Column("true_beyond", "true past token 77 ↑", ".1%"),
    ),
    "diversity": (Column("diversity", "diversity ↑", ".3f"),),
    "looks": (Column("looks", "looks ↑", ".3f"),),
}
OF_FEATURES = ("fid", "cmmd", "diversity")
OF_REFERENCE = ("fid", "cmmd")
OF_WORLD = ("oracle", "looks")


@dataclass
class Measured:
    """What came of one set of pictures.

    Attributes:
        cells: key of a column → an estimate, or a text where there is no interval to be had.
        values: key of a column → its number, NaN where there is none.
        failed: what could not be read.
        marks: counts of the oracle's answers, and ``sentences`` in all.
    """

    label: str
    pictures: list[Picture]
    failed: list[Failure] = field(default_factory=list)
    cells: dict[str, Cell] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; those that are means over pictures with their intervals."""
        found: dict[str, Any] = {
            "run": self.label,
            "pictures": len(self.pictures),
            "prompts": len({p.prompt for p in self.pictures}),
            "failed": [{"picture": f.name, "reason": f.reason} for f in self.failed],
        }
        for key, value in self.values.items():
            cell = self.cells[key]
            whole = {"value": value}
            if isinstance(cell, Estimate) and math.isfinite(cell.value):
                whole |= {"low": cell.low, "high": cell.high, "n": cell.n}
            found[key] = whole
        return found


def parse_metrics(text: str) -> list[str]:
    """``"oracle,looks"`` → its names, each once.

    Raises:
        LongalignError: an unknown one, with the nearest right one; none.
    """
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.4)
            advice = f"did you mean {near[0]}? " if near else ""
            raise LongalignError(f"metric {name!r} is unknown; {advice}There are {', '.join(METRICS)}")
    if not names:
        raise LongalignError(f"no metric given: choose from {', '.join(METRICS)}")
    return list(dict.fromkeys(names))


def evaluation_steps(sets: Sequence[PictureSet], metrics: Sequence[str], reference: PictureSet | None) -> int:
    """How often `evaluate` calls back in all: once a picture and pass."""
    passes = 1 + ("denscore" in metrics) + any(m in metrics for m in OF_FEATURES)
    return passes * sum(map(len, sets)) + (len(reference) if reference is not None else 0)


def evaluate(
    sets: Sequence[PictureSet],
    metrics: Sequence[str],
    *,
    reference: PictureSet | None = None,
    model: PreferenceModel | None = None,
    features: Features | None = None,
    samples: int = 2000,
    seed: int = 0,
    judge: World | None = None,
    on_step: Advance = lambda pictures: None,
) -> list[Measured]:
    """Every set by every metric. Pictures are read as they are needed; of each, some numbers are kept.

    Intervals are 95 % bootstrap intervals that draw prompts, with all their pictures: those of one prompt are not
    independent. FID and CMMD are no means over pictures and have none.

    Args:
        metrics: of `METRICS`.
        reference: for fid and cmmd. model: for denscore. features: for fid, cmmd and diversity.
        judge: the world that the prompts speak of, for oracle and looks; None: found by `world_of`.

    Raises:
        LongalignError: what a metric needs is missing; a set without a readable picture, or with too few.
    """
    if judge is None and any(m in metrics for m in OF_WORLD):
        judge = world_of(sets)
    for what, given, needed in (
        ("a reference", reference, OF_REFERENCE),
        ("a model", model, ("denscore",)),
        ("a feature extractor", features, OF_FEATURES),
        ("a world that knows the truth", judge, OF_WORLD),
    ):
        if given is None and (asking := [m for m in metrics if m in needed]):
            raise LongalignError(f"{', '.join(asking)}: needs {what}")
    goal: Tensor | None = None
    if reference is not None and features is not None and any(m in metrics for m in OF_REFERENCE):
        goal = _features(features, reference.pictures, on_step)
    found = []
    for pictures in sets:
        measured, truth, looks = _look(pictures, metrics, judge or World(), on_step)
        prompts = list(dict.fromkeys(p.prompt for p in measured.pictures))
        place = {prompt: k for k, prompt in enumerate(prompts)}
        draws = Draws(np.array([place[p.prompt] for p in measured.pictures]), samples, seed)
        if "oracle" in metrics:
            _oracle(measured, truth, draws)
        if "looks" in metrics:
            measured.values["looks"], measured.cells["looks"] = draws.mean(looks, ".3f")
        if "denscore" in metrics:
            assert model is not None
            _denscore(measured, model, draws, on_step)
        if features is not None and any(m in metrics for m in OF_FEATURES):
            _from_features(measured, _features(features, measured.pictures, on_step), goal, metrics, draws)
        found.append(measured)
    return found


def world_of(sets: Sequence[PictureSet]) -> World | None:
    """The world that at least half of the prompts' sentences speak of."""
    segmenter = Segmenter()
    prompts = dict.fromkeys(prompt for of_run in sets for prompt in of_run.prompts)
    return owner_of_texts([s.text for prompt in prompts for s in segmenter(prompt)])


def load(picture: Picture) -> Image:
    """RGB; see `longalign.preference.images`."""
    from PIL import Image as pil

    image = picture.image
    return to_rgb(image, picture.name) if isinstance(image, pil.Image) else load_image(image)


def sentences_by_prompt(prompts: Sequence[str]) -> dict[str, Sentences]:
    """The sentences of prompts about stickers; those past CLIP's 77 tokens are `beyond`."""
    counter = SimpleNamespace(tokenizer=load_tokenizer())
    return dict(zip(prompts, sentences_of(counter, list(prompts)), strict=True))


def _look(
    pictures: PictureSet, metrics: Sequence[str], judge: World, on_step: Advance
) -> tuple[Measured, list[tuple[list[str], Sequence[bool]]], np.ndarray]:
    """The first pass reads every picture: what is unreadable is left out of all metrics."""
    found = Measured(pictures.label, [], list(pictures.failed))
    sentences = sentences_by_prompt(pictures.prompts) if "oracle" in metrics else {}
    truth: list[tuple[list[str], Sequence[bool]]] = []
    looks: list[float] = []
    for picture in pictures.pictures:
        try:
            image = load(picture)
        except LongalignError as error:
            found.failed.append(Failure(picture.name, str(error)))
            on_step(1)
            continue
        found.pictures.append(picture)
        if sentences:
            of_prompt = sentences[picture.prompt]
            marks = judge.judge(image, [s.text for s in of_prompt.segments])
            truth.append((list(marks), of_prompt.beyond))
        if "looks" in metrics:
            looks.append(judge.looks(image))
        on_step(1)
    if not found.pictures:
        raise LongalignError(f"{pictures.label}: none of its pictures can be read; {found.failed[0].reason}")
    return found, truth, np.array(looks)


def _oracle(measured: Measured, truth: list[tuple[list[str], Sequence[bool]]], draws: Draws) -> None:
    """Share of sentences that are true, of those that state something the oracle knows; unclear is not true."""
    flat = [mark for marks, _ in truth for mark in marks]
    measured.marks = {
        "sentences": len(flat),
        **{m: flat.count(m) for m in ("true", "false", "unclear", "unjudged")},
    }
    for key, only_beyond in (("true", False), ("true_beyond", True)):
        true, judged = np.zeros((2, len(truth)))
        for i, (marks, beyond) in enumerate(truth):
            chosen = [
                m for m, b in zip(marks, beyond, strict=True) if m != "unjudged" and (b or not only_beyond)
            ]
            true[i], judged[i] = chosen.count("true"), len(chosen)
        hits, tries = (draws.per_prompt(x).astype(np.int64) for x in (true, judged))
        estimate = bootstrap_ratio(hits, tries, draws.seed, draws.samples)
        measured.values[key] = estimate.value
        measured.cells[key] = estimate if draws.prompts > 1 else str(estimate)


def _denscore(measured: Measured, model: PreferenceModel, draws: Draws, on_step: Advance) -> None:
    rows: list[Mapping[str, float]] = []
    pairs = (Pair(load(p), p.prompt, p.name) for p in measured.pictures)
    for result in score_pairs(model, pairs):
        rows.append(result.scores if isinstance(result, Scored) else {})
        on_step(1)
    for column in COLUMNS["denscore"]:
        values = np.array([row.get(column.key, math.nan) for row in rows])
        measured.values[column.key], measured.cells[column.key] = draws.mean(values, column.format)


def _features(features: Features, pictures: Sequence[Picture], on_step: Advance) -> Tensor:
    # Of an Embedder it asks for `image` alone, which `Features` has.
    return embed_images(cast("Any", features), lambda i: to_pixels(load(pictures[i])), len(pictures), on_step)


def _from_features(
    measured: Measured, x: Tensor, goal: Tensor | None, metrics: Sequence[str], draws: Draws
) -> None:
    for name, distance in (("fid", fid), ("cmmd", cmmd)):
        if name in metrics and goal is not None:
            few = name == "fid" and len(x) < 2
            value = math.nan if few else distance(x, goal)
            measured.values[name] = value
            exact = value < 1e-6  # a set and itself: what is left is rounding
            measured.cells[name] = "—" if few else "0" if exact else f"{value:{COLUMNS[name][0].format}}"
    if "diversity" in metrics:
        measured.values["diversity"] = value = diversity(x) if len(x) > 1 else math.nan
        if len(x) < 2:
            measured.cells["diversity"] = "—"
            return
        spread = [
            diversity_draws(x, w[:, draws.owner]) for w in resample(draws.prompts, draws.samples, draws.seed)
        ]
        measured.cells["diversity"] = draws.cell(value, np.concatenate(spread), len(x), ".3f")
