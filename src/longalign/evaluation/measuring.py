"""Measures sets of pictures block by block. Each picture is decoded once for all metrics of a pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from longalign.data.entries import CaptionedPicture, Failure
from longalign.errors import LongalignError
from longalign.evaluation.parts import Line, Parts, numbers_in
from longalign.evaluation.sets import MeasuredSet, PictureSet
from longalign.metrics.embedding import Advance
from longalign.metrics.metric import Metric, PictureBatch, SetMetric, Tools
from longalign.metrics.prompt_bootstrap import MISSING, Number, PromptBootstrap

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPTS_AT_ONCE = 16  # of a block
REFERENCE = "reference"  # name of the pass over the reference pictures
_THREADS = 2  # that decode pictures
_OF_PICTURE = ("of", "key", "place", "failed")  # keys of a line that are no metrics
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """One picture of a block: of which set, under which key, and which picture of this set and key it is."""

    of: int
    key: str
    place: int
    picture: CaptionedPicture


class Blocks(Sequence[list[Item]]):
    """The pictures of all sets, some prompts at a time: block k has prompts k·B … k·B + B − 1 of every set.

    Args:
        sets: of pictures.
        prompts_at_once: B.
    """

    def __init__(self, sets: Sequence[PictureSet], prompts_at_once: int = PROMPTS_AT_ONCE) -> None:
        self.sets, self.size = sets, prompts_at_once
        self.keys = list(dict.fromkeys(key for of_set in sets for key in of_set.keys))
        self._places: list[dict[str, list[int]]] = []
        for of_set in sets:
            places: dict[str, list[int]] = {}
            for place, key in enumerate(of_set.keys):
                places.setdefault(key, []).append(place)
            self._places.append(places)

    def __len__(self) -> int:
        return -(-len(self.keys) // self.size)

    def __getitem__(self, block: Any) -> Any:
        if not 0 <= block < len(self):
            raise IndexError(block)
        return [
            Item(of, key, place, of_set.pictures[k])
            for key in self.keys[block * self.size : (block + 1) * self.size]
            for of, of_set in enumerate(self.sets)
            for place, k in enumerate(self._places[of].get(key, ()))
        ]

    def pictures(self, block: int) -> int:
        """How many pictures a block has."""
        return sum(
            len(places.get(key, ()))
            for key in self.keys[block * self.size : (block + 1) * self.size]
            for places in self._places
        )


@dataclass
class Pass:
    """Metrics that are computed together, with their models in memory at the same time.

    Attributes:
        name: of its parts.
        metrics: names.
        with_features: whether the features of all pictures are kept in this pass.
        options: of its metrics, as they were when it was planned.
    """

    name: str
    metrics: list[str]
    with_features: bool = False
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Measuring:
    """What stays the same over all passes of an evaluation.

    Attributes:
        blocks: of pictures.
        tools: what is loaded.
        parts: keeps finished blocks.
        records: key of a prompt → its row in the file of prompts.
        reference: pictures to compare with.
        mine: the blocks that this process measures; None: all.
        on_step: called with the number of pictures that were measured since the last call.
    """

    blocks: Blocks
    tools: Tools
    parts: Parts
    records: Mapping[str, Record] = field(default_factory=dict)
    reference: PictureSet | None = None
    mine: Sequence[int] | None = None
    on_step: Advance = lambda pictures: None

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of this process's blocks."""
        return range(len(self.blocks)) if self.mine is None else self.mine

    @cached_property
    def _of_prompt(self) -> dict[str, int]:
        """Prompt → number of its reference picture."""
        if self.reference is None:
            return {}
        return {key: k for k, key in reversed(list(enumerate(self.reference.keys)))}

    def run(self, of: Pass, metrics: Sequence[Metric]) -> dict[str, str]:
        """Measures the blocks that are not finished.

        Args:
            of: the pass.
            metrics: its metrics, loaded.

        Returns:
            name of each metric that had to be given up → the reason.
        """
        failed: dict[str, str] = {}
        for block in self.numbers:
            if self.parts.has(of.name, block):
                self.on_step(self.blocks.pictures(block))
                continue
            lines, features = self._block(self.blocks[block], of, metrics, failed)
            self.parts.write(of.name, block, lines, features)
        return failed

    def finished(self, of: Pass) -> bool:
        """Are all blocks of a pass measured?

        Args:
            of: the pass.
        """
        return all(self.parts.has(of.name, block) for block in range(len(self.blocks)))

    def measure_reference(self) -> None:
        """Computes the features of the reference pictures.

        Raises:
            LongalignError: one of them cannot be read.
        """
        assert self.reference is not None
        pictures = self.reference.pictures
        for block, start in enumerate(range(0, len(pictures), 64)):
            group = pictures[start : start + 64]
            if not self.parts.has(REFERENCE, block):
                images = list(_decoded(group))
                for picture, image in zip(group, images, strict=True):
                    if isinstance(image, str):
                        raise LongalignError(f"{self.reference.label}: {picture.name}: {image}")
                batch = PictureBatch(images, [p.text for p in group], self.tools)  # type: ignore[arg-type]
                x = batch.features.float().cpu().numpy()
                self.parts.write(REFERENCE, block, [{}] * len(group), x)
            self.on_step(len(group))

    def reference_features(self) -> np.ndarray | None:
        """(M, D) of the reference pictures; None if there are none."""
        if self.reference is None or not self.parts.has(REFERENCE, 0):
            return None
        found, block = [], 0
        while self.parts.has(REFERENCE, block):
            x = self.parts.features(REFERENCE, block)
            assert x is not None
            found.append(x)
            block += 1
        return np.concatenate(found)

    def _block(
        self, items: Sequence[Item], of: Pass, metrics: Sequence[Metric], failed: dict[str, str]
    ) -> tuple[list[Line], np.ndarray | None]:
        self.tools.forget_texts()
        lines: list[Line] = []
        readable: list[int] = []
        images: list[Image] = []
        for number, (item, image) in enumerate(
            zip(items, _decoded([item.picture for item in items]), strict=True)
        ):
            line: Line = {"of": item.of, "key": item.key, "place": item.place}
            if isinstance(image, str):
                line["failed"] = image
            else:
                images.append(image)
                readable.append(number)
            lines.append(line)
        if not images:
            self.on_step(len(items))
            return lines, None
        chosen = [items[i] for i in readable]
        prompts = [item.picture.text for item in chosen]
        batch = PictureBatch(
            images,
            prompts,
            self.tools,
            [self.records.get(item.key, {}) for item in chosen],
            self._references(prompts) if any("reference" in m.needs for m in metrics) else None,
        )
        for metric in metrics:
            if metric.name in failed or isinstance(metric, SetMetric):
                continue
            try:
                values = metric.measure(batch)
            except LongalignError as error:
                failed[metric.name] = str(error)
                continue
            if len(values) != len(batch):
                raise LongalignError(
                    f"metric {metric.name!r} gave {len(values)} values for {len(batch)} pictures: it must give one a "
                    "picture"
                )
            for number, value in zip(readable, values, strict=True):
                named = value if isinstance(value, Mapping) else {metric.columns[0].key: float(value)}
                lines[number][metric.name] = dict(named)
        self.on_step(len(items))
        return lines, batch.features.float().cpu().numpy() if of.with_features else None

    def _references(self, prompts: Sequence[str]) -> list[Image | None]:
        assert self.reference is not None
        wanted = [self._of_prompt.get(prompt) for prompt in prompts]
        different = list(dict.fromkeys(k for k in wanted if k is not None))
        images = dict(zip(different, _decoded([self.reference.pictures[k] for k in different]), strict=True))
        found = [None if k is None else images[k] for k in wanted]
        return [None if isinstance(image, str) else image for image in found]

    def lines(self, passes: Sequence[Pass]) -> Iterator[tuple[Item, Line]]:
        """Each picture with what all passes found of it, in order.

        Args:
            passes: all passes.
        """
        for block in range(len(self.blocks)):
            yield from self._lines_of(block, passes)

    def _lines_of(self, block: int, passes: Sequence[Pass]) -> Iterator[tuple[Item, Line]]:
        of_passes = [self.parts.read(of.name, block) for of in passes]
        for item, *found in zip(self.blocks[block], *of_passes, strict=True):
            merged: Line = {}
            for of, line in zip(passes, found, strict=True):
                merged.update({k: v for k, v in line.items() if k in _OF_PICTURE or k in of.metrics})
            yield item, merged

    def measured(
        self, passes: Sequence[Pass], metrics: Sequence[Metric], samples: int = 2000, seed: int = 0
    ) -> list[MeasuredSet]:
        """The sets with their numbers, from finished blocks.

        Args:
            passes: all passes.
            metrics: in the order of the table.
            samples, seed: of the bootstrap.

        Raises:
            LongalignError: a set of which no picture can be read.
        """
        sets = self.blocks.sets
        kept: list[list[Item]] = [[] for _ in sets]
        failed: list[list[Failure]] = [list(s.failed) for s in sets]
        values: list[dict[str, list[dict[str, np.ndarray]]]] = [{m.name: [] for m in metrics} for _ in sets]
        for block in range(len(self.blocks)):
            rows: list[list[Line]] = [[] for _ in sets]
            for item, line in self._lines_of(block, passes):
                if "failed" in line:
                    failed[item.of].append(Failure(item.picture.name, line["failed"]))
                else:
                    kept[item.of].append(item)
                    rows[item.of].append(line)
            for of, mine in enumerate(rows):
                for metric in metrics:
                    found_in = numbers_in([row.get(metric.name, {}) for row in mine])
                    values[of][metric.name].append({"": np.zeros(len(mine)), **found_in})
        y = self.reference_features()
        result = []
        for of, of_set in enumerate(sets):
            if not kept[of]:
                why = failed[of][0].reason if failed[of] else "there are none"
                raise LongalignError(f"{of_set.label}: none of its pictures can be read; {why}")
            found_of = MeasuredSet(
                of_set.label,
                [item.picture for item in kept[of]],
                metrics,
                failed[of],
                keys=[item.key for item in kept[of]],
                missing=of_set.missing,
            )
            bootstrap = PromptBootstrap(found_of.keys, samples, seed)
            x = self._features_of(of, len(kept[of]), passes)
            for metric in metrics:
                numbers = _joined(values[of][metric.name])
                found_of.numbers[metric.name] = numbers
                for key, number in _cells(metric, numbers, x, y, bootstrap).items():
                    found_of.values[key], found_of.cells[key] = number
            result.append(found_of)
        return result

    def _features_of(self, of: int, count: int, passes: Sequence[Pass]) -> np.ndarray | None:
        """(N, D) features of the readable pictures of one set."""
        holder = next((p.name for p in passes if p.with_features), None)
        if holder is None:
            return None
        x: np.ndarray | None = None
        at = 0
        for block in range(len(self.blocks)):
            features = self.parts.features(holder, block)
            if features is None:
                continue
            whole = [line for line in self.parts.read(holder, block) if "failed" not in line]
            mine = features[[line["of"] == of for line in whole]]
            if x is None:
                x = self.parts.scratch(f"set-{of}", (count, features.shape[1]))
            x[at : at + len(mine)] = mine
            at += len(mine)
        return x


def _joined(blocks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The numbers of all blocks, one after the other; NaN where a block does not have a number."""
    keys = dict.fromkeys(key for block in blocks for key in block if key)
    return {
        key: np.concatenate([block.get(key, np.full(len(block[""]), np.nan)) for block in blocks])
        for key in keys
    }


def _cells(
    metric: Metric,
    numbers: Mapping[str, np.ndarray],
    x: np.ndarray | None,
    y: np.ndarray | None,
    bootstrap: PromptBootstrap,
) -> dict[str, Number]:
    """The cells of one metric of one set. What cannot be computed is a cell that says why."""
    try:
        if isinstance(metric, SetMetric):
            return {} if x is None else metric.from_features(x, y, bootstrap)
        return metric.cells(numbers, bootstrap)
    except LongalignError as error:
        cell = f"{MISSING} ({error})"
        return {column.key: Number(float("nan"), cell) for column in metric.columns}


def _decoded(pictures: Sequence[CaptionedPicture]) -> Iterator[Image | str]:
    """Each picture, or why it is left out."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(_decode, pictures)


def _decode(picture: CaptionedPicture) -> Image | str:
    try:
        image = picture.picture()
    except LongalignError as error:
        return str(error)
    # Safety checkers replace a picture by a black one. A black pixel or two besides is no safety checker's.
    if not np.asarray(image).any():
        return "is black all over: a safety checker replaced it, or the model gave NaN"
    return image
