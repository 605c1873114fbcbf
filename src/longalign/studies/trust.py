"""Which automatic scores can be trusted? Each one against the oracle, by length of the prompt and kind of mistake.

Scenes of the held-out split are rendered once as the prompt says and once with one mistake of each kind, with several
mistakes, and with worse looks but no mistake. The oracle knows which sentences are true of each picture. A score that
can be trusted puts the right picture above the wrong one (AUC), orders pictures by the share of true sentences (rank
correlation), and, where it scores sentences, puts true ones above false ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from longalign.data.entries import CaptionedPicture
from longalign.errors import LongalignError
from longalign.evaluation.evaluate import EvaluationJob
from longalign.evaluation.parts import Line
from longalign.evaluation.results import SUMMARY
from longalign.evaluation.sets import PictureSet
from longalign.metrics import METRICS
from longalign.metrics.embedding import Advance
from longalign.metrics.intervals import percentile, resample
from longalign.metrics.metric import SENTENCES, MetricColumn
from longalign.metrics.ranks import auc, spearman
from longalign.report import Curve, Estimate, Table, wilson
from longalign.report import Line as CurveLine
from longalign.runs import read_json_object
from longalign.stickers.captions import caption, text_of
from longalign.stickers.changes import CHANGES, changed, possible
from longalign.stickers.looks import worsen
from longalign.stickers.world import Scene, render_array, scene

LENGTHS: Mapping[str, tuple[int, int]] = {"short": (1, 3), "medium": (4, 6), "long": (7, 9)}
TOKENS = {"short": 30, "medium": 75, "long": 130}  # about so many tokens have their prompts, for the axis
RIGHT = "right"
SEVERAL = ("two mistakes", "four mistakes")
WORSE = {"blurred": ("blur", 0.5), "noisy": ("noise", 0.5), "washed out": ("washed", 0.7)}
SAID = {
    "swap": "two objects swapped",
    "move": "object moved",
    "remove": "object missing",
    "recolour": "disc of another colour",
    "replace": "another object",
    "repaint": "another background",
}
_DRAWS = 500
_SEED = 11


@dataclass
class Judged:
    """One picture: the oracle's truth, and what the scores say.

    Attributes:
        key: of its scene.
        version: how it was made.
        truth: share of true sentences.
        marks: 1 for each true sentence, 0 for a false one, NaN for others.
        values: key of a column → number.
        sentences: name of a metric → number of each sentence.
    """

    key: str
    version: str
    truth: float
    marks: np.ndarray
    values: dict[str, float] = field(default_factory=dict)
    sentences: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Trust:
    """The result of `trust`.

    Attributes:
        columns: of the scores.
        judged: length → pictures.
        drawn: pictures that models drew, from results of an evaluation: run → pictures.
        models: the numbers of these runs as a whole, which distances between sets are part of.
        scenes: of each length.
    """

    columns: Sequence[tuple[str, MetricColumn]]
    judged: Mapping[str, Sequence[Judged]]
    scenes: int
    drawn: Mapping[str, Sequence[Judged]] = field(default_factory=dict)
    models: Sequence[Mapping[str, Any]] = ()

    def tables(self) -> list[Table]:
        """Rank correlation by length, AUC by kind of mistake, AUC of sentences, and the same of drawn pictures."""
        return self._tables

    @cached_property
    def _tables(self) -> list[Table]:
        found = [self._correlations(), self._mistakes(), self._looks()]
        if any(self._has_sentences(name) for name, _ in self.columns):
            found.append(self._sentences())
        if self.drawn:
            found += [self._drawn_table()]
        if len(self.models) > 2:
            found.append(self._between_models())
        return found

    def curves(self) -> list[Curve]:
        """Rank correlation with the oracle over the length of prompts, a line for each score."""
        lines = []
        for _, column in self.columns:
            cells = [self._correlation(of, column) for of in self.judged.values()]
            x = [float(TOKENS[length]) for length in self.judged]
            lines.append(
                CurveLine(
                    column.name,
                    x,
                    [c.value for c in cells],
                    low=[c.low for c in cells],
                    high=[c.high for c in cells],
                )
            )
        return [Curve("Rank correlation with the oracle", "prompt length (CLIP tokens, about)", lines)]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "scenes": self.scenes,
            "tables": {
                t.caption: {
                    str(row[0]): {
                        head: {"value": c.value, "low": c.low, "high": c.high, "n": c.n}
                        for head, c in zip(t.columns[1:], row[1:], strict=True)
                        if isinstance(c, Estimate)
                    }
                    for row in t.rows
                }
                for t in self.tables()
            },
        }

    def _correlation(self, judged: Sequence[Judged], column: MetricColumn) -> Estimate:
        """Spearman's ρ of a score with the share of true sentences, with an interval over scenes."""
        sign = 1 if column.better == "higher" else -1
        kept = [j for j in judged if math.isfinite(j.values.get(column.key, math.nan))]
        x = np.array([sign * j.values[column.key] for j in kept])
        y = np.array([j.truth for j in kept])
        return clustered(x, y, [j.key for j in kept])

    def _correlations(self) -> Table:
        rows: list[list[str | Estimate]] = [
            [column.name, *(self._correlation(of, column) for of in self.judged.values())]
            for _, column in self.columns
        ]
        heads = [f"{length} ({LENGTHS[length][0]}–{LENGTHS[length][1]} objects)" for length in self.judged]
        note = (
            "Spearman's ρ over all versions of all scenes, with 95 % bootstrap intervals over scenes. 1 orders "
            "pictures as the oracle does, 0 has nothing to do with it."
        )
        return Table("Rank correlation with the share of true sentences", ["", *heads], rows, note=note)

    def _pairs(self, column: MetricColumn, version: str) -> Estimate:
        """How often the right picture scores above its version, ties one half."""
        sign = 1 if column.better == "higher" else -1
        wins, n = 0.0, 0
        for judged in self.judged.values():
            right = {j.key: j for j in judged if j.version == RIGHT}
            for other in judged:
                if other.version != version or (version not in WORSE and other.truth == 1):
                    continue
                a = sign * right[other.key].values.get(column.key, math.nan)
                b = sign * other.values.get(column.key, math.nan)
                if math.isfinite(a) and math.isfinite(b):
                    wins += 1.0 if a > b else 0.5 if a == b else 0.0
                    n += 1
        return wilson(wins, n)

    def _mistakes(self) -> Table:
        versions = [*CHANGES, *SEVERAL]
        rows: list[list[str | Estimate]] = [
            [column.name, *(self._pairs(column, v) for v in versions)] for _, column in self.columns
        ]
        note = (
            "AUC: how often the right picture scores above the one with the mistake, for the same prompt and the same "
            "looks, of all lengths; 50 % is guessing. 95 % Wilson intervals."
        )
        heads = [SAID.get(v, v) for v in versions]
        return Table("Is the right picture above the wrong one?", ["", *heads], rows, note=note)

    def _looks(self) -> Table:
        rows: list[list[str | Estimate]] = [
            [column.name, *(self._pairs(column, v) for v in WORSE)] for _, column in self.columns
        ]
        note = (
            "How often the clean picture scores above one with worse looks of which the same sentences are true. A "
            "score of text alone would be at 50 %; one of looks at 100 %."
        )
        return Table("Is the clean picture above one with worse looks?", ["", *WORSE], rows, note=note)

    def _has_sentences(self, name: str) -> bool:
        return any(name in j.sentences for of in self.judged.values() for j in of)

    def _sentences(self) -> Table:
        names = [name for name in dict.fromkeys(n for n, _ in self.columns) if self._has_sentences(name)]
        rows: list[list[str | Estimate]] = [
            [name, *(sentence_auc(of, name) for of in self.judged.values())] for name in names
        ]
        note = (
            "AUC within a picture: how often a true sentence scores above a false one of the same picture, over "
            "pictures with both, with 95 % bootstrap intervals over pictures."
        )
        return Table("Are true sentences above false ones?", ["", *self.judged], rows, note=note)

    def _drawn_table(self) -> Table:
        every = [j for of in self.drawn.values() for j in of]
        rows: list[list[str | Estimate]] = []
        for name, column in self.columns:
            row: list[str | Estimate] = [column.name, self._correlation(every, column)]
            row += [self._correlation(of, column) for of in self.drawn.values()]
            row.append(sentence_auc(every, name) if any(name in j.sentences for j in every) else "—")
            rows.append(row)
        note = (
            f"{len(every):,} pictures that models drew. Rank correlation with the oracle's share of true sentences "
            "over all pictures and within each model; AUC of sentences as above. — : no number, or all pictures of a "
            "model are equally right."
        )
        return Table("On drawn pictures", ["", "all models", *self.drawn, "sentences (AUC)"], rows, note=note)

    def _between_models(self) -> Table:
        """Rank correlation over runs of each number with the share of true sentences."""
        truth = np.array([run["true"]["value"] for run in self.models], np.float64)
        rows: list[list[str | Estimate]] = []
        for column in (c for name in METRICS for c in METRICS[name].columns):
            values = [run.get(column.key, {}).get("value") for run in self.models]
            if column.key.startswith("true") or any(v is None for v in values):
                continue
            sign = 1 if column.better == "higher" else -1
            rho = spearman(sign * np.array(values, np.float64), truth)
            if not math.isfinite(rho):
                continue  # all models are equal
            rows.append([column.title, f"{rho:+.2f}".replace("-", "−")])
        note = (
            f"Spearman's ρ over {len(self.models)} models between a number of the whole set and the share of true "
            "sentences; +1 orders the models as the oracle does. So few models give no interval worth printing: with "
            "seven, |ρ| below 0.79 is compatible with chance (two-sided, 5 %)."
        )
        return Table("Between models", ["", "ρ"], rows, note=note)


def trust(
    scenes: int = 200,
    *,
    metrics: str = "clipscore,pickscore,denscore,denscore_o,verdict",
    results: Path | None = None,
    device: str = "auto",
    on_step: Advance = lambda pictures: None,
) -> Trust:
    """Measures every score on pictures of which the oracle knows the truth.

    Args:
        scenes: of each length.
        metrics: names with commas between; the oracle is added.
        results: results.jsonl of an evaluation with the oracle, for pictures that models drew.
        device: as in `longalign.runtime`.
        on_step: called with the number of pictures that were measured.

    Raises:
        LongalignError: an unknown metric; no metric can be computed; ``results`` has no oracle.
    """
    from longalign.evaluation.settings import EvaluateConfig, parse_metrics

    names = [n for n in parse_metrics(metrics) if n != "oracle"]
    config = EvaluateConfig(",".join(["oracle", *names]), device=device, samples=2)
    judged: dict[str, list[Judged]] = {}
    columns: list[tuple[str, MetricColumn]] = []
    for length, objects in LENGTHS.items():
        sets = versions_of(scenes, objects)
        job = EvaluationJob([], config, sets=sets)
        measuring, passes, kept = job.measure(sets, on_step=on_step)
        columns = [(m.name, c) for m in kept if m.name != "oracle" and m.level != "set" for c in m.columns]
        judged[length] = [
            judged_of(f"{length}-{item.key}", sets[item.of].label, line)
            for item, line in measuring.lines(passes)
        ]
    drawn = {} if results is None else read_results(results)
    summary = None if results is None else results.with_name(SUMMARY)
    models = read_json_object(summary)["runs"] if summary is not None and summary.is_file() else ()
    return Trust(columns, judged, scenes, drawn, models)


def trust_steps(scenes: int) -> int:
    """The sum of the numbers with which `trust` calls back.

    Args:
        scenes: of each length.
    """
    return len(LENGTHS) * scenes * (1 + len(CHANGES) + len(SEVERAL) + len(WORSE))


def versions_of(count: int, objects: tuple[int, int]) -> list[PictureSet]:
    """Held-out scenes in all versions: a set of pictures for each version. A version that cannot be is the right one.

    Args:
        count: how many scenes.
        objects: least and most stickers.
    """
    pictures: dict[str, list[CaptionedPicture]] = {}
    for i in range(count):
        rng = np.random.default_rng([_SEED, i, *objects])
        wanted = scene(i, objects=objects, split="test", seed=_SEED)
        prompt = text_of(caption(wanted, rng))
        arrays = {RIGHT: render_array(wanted)}
        for change in CHANGES:
            able = [s for s in wanted.stickers if change in possible(wanted, s)]
            shown = changed(wanted, able[rng.integers(len(able))], change, rng) if able else wanted
            arrays[change] = render_array(shown)
        for version, mistakes in zip(SEVERAL, (2, 4), strict=True):
            arrays[version] = render_array(_mistaken(wanted, mistakes, rng))
        for version, (kind, strength) in WORSE.items():
            arrays[version] = worsen(arrays[RIGHT], kind, strength, rng)
        for version, array in arrays.items():
            picture = CaptionedPicture(Image.fromarray(array), prompt, f"{version} {i}")
            pictures.setdefault(version, []).append(picture)
    ids = [f"{i:05d}" for i in range(count)]
    return [PictureSet(version, of, ids=ids) for version, of in pictures.items()]


def _mistaken(wanted: Scene, mistakes: int, rng: np.random.Generator) -> Scene:
    shown = wanted
    for _ in range(mistakes):
        sticker = shown.stickers[rng.integers(len(shown.stickers))]
        able = possible(shown, sticker)
        shown = changed(shown, sticker, able[rng.integers(len(able))], rng)
    return shown


def judged_of(key: str, version: str, line: Line) -> Judged:
    """One line of results.

    Args:
        key: of the scene or prompt.
        version: how the picture was made.
        line: metric → values.
    """
    oracle = line["oracle"]
    letters = {"true": 1.0, "false": 0.0}
    found = Judged(
        key, version, oracle["true"], np.array([letters.get(m, math.nan) for m in oracle["marks"]])
    )
    for name, value in line.items():
        if name == "oracle" or not isinstance(value, dict):
            continue
        for column, number in value.items():
            if isinstance(number, (int, float)):
                found.values[column] = float(number)
        sentences = value.get(SENTENCES)
        if sentences and len(sentences) == len(found.marks):
            found.sentences[name] = np.array([math.nan if s is None else s for s in sentences], np.float64)
    return found


def read_results(file: Path) -> dict[str, list[Judged]]:
    """The pictures of an evaluation, by run.

    Args:
        file: results.jsonl.

    Raises:
        LongalignError: it cannot be read, or the oracle is not among its metrics.
    """
    found: dict[str, list[Judged]] = {}
    for row in _rows(file):
        if "failed" in row:
            continue
        if "oracle" not in row:
            raise LongalignError(f"{file}: has no oracle; evaluate with --metrics oracle,…")
        if row["oracle"]["true"] is not None:
            found.setdefault(row["run"], []).append(judged_of(row["id"], row["run"], row))
    return found


def _rows(file: Path) -> Iterable[dict[str, Any]]:
    try:
        with open(file, encoding="utf-8") as opened:
            yield from (json.loads(line) for line in opened)
    except (OSError, ValueError) as error:
        raise LongalignError(f"{file}: cannot be read as results of an evaluation: {error}") from None


def sentence_auc(judged: Sequence[Judged], name: str) -> Estimate:
    """Mean AUC of true against false sentences within a picture, with an interval over pictures.

    Args:
        judged: pictures.
        name: of the metric.
    """
    found = []
    for j in judged:
        if name in j.sentences:
            values = j.sentences[name]
            one = auc(values[j.marks == 1], values[j.marks == 0])
            if math.isfinite(one):
                found.append(one)
    if not found:
        return Estimate(math.nan, math.nan, math.nan, 0)
    x = np.array(found)
    rng = np.random.default_rng(0)
    draws = np.array([x[rng.integers(len(x), size=len(x))].mean() for _ in range(_DRAWS)])
    return percentile(float(x.mean()), draws, len(x))


def clustered(x: np.ndarray, y: np.ndarray, keys: Sequence[str]) -> Estimate:
    """Spearman's ρ with a bootstrap interval that draws whole scenes.

    Args:
        x, y: (N,).
        keys: (N,) scene of each.
    """
    value = spearman(x, y) if len(x) > 2 else math.nan
    if not math.isfinite(value):
        return percentile(value, np.array([]), len(x), format=".2f")
    owner = np.unique(np.array(keys), return_inverse=True)[1]
    codes = [np.unique(side, return_inverse=True)[1] for side in (x, y)]
    draws = [
        weighted_spearman(codes[0], codes[1], row[owner])
        for weights in resample(int(owner.max()) + 1, _DRAWS, 0)
        for row in weights
    ]
    return percentile(value, np.array(draws), len(x), format=".2f")


def weighted_spearman(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    """`spearman` of a sample in which picture i is ``weights[i]`` times; nothing is sorted.

    Args:
        a, b: (N,) numbers of the distinct values in their order, from 0 on.
        weights: (N,) how often each is drawn.
    """
    centred = []
    for codes in (a, b):
        counts = np.bincount(codes, weights)
        middle = (np.cumsum(counts) - (counts - 1) / 2)[codes]  # ranks; equal values share their mean
        centred.append(middle - (weights @ middle) / weights.sum())
    u, v = centred
    scale = math.sqrt((weights @ (u * u)) * (weights @ (v * v)))
    return float(weights @ (u * v)) / scale if scale > 0 else math.nan
