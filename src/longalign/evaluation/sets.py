"""A set of pictures with their prompts, before and after it is measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from longalign.data.entries import CaptionedPicture, Failure
from longalign.metrics.metric import Metric
from longalign.metrics.prompt_bootstrap import TableCell
from longalign.report import Estimate


@dataclass(frozen=True)
class PictureSet:
    """The pictures that one model, or one setting of it, made.

    Attributes:
        label: its name in tables.
        pictures: each with the prompt that it was made for as its ``text``.
        failed: rows that have no picture or no prompt, with the reason.
        ids: for each picture the id of its prompt; none where the text of the prompt is its id.
        missing: ids of prompts for which there is no picture.
    """

    label: str
    pictures: Sequence[CaptionedPicture]
    failed: Sequence[Failure] = ()
    ids: Sequence[str] = ()
    missing: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def keys(self) -> Sequence[str]:
        """For each picture what pictures of the same prompt in other sets have in common: its id, else its text."""
        return self.ids or [p.text for p in self.pictures]

    def only(self, keys: Collection[str]) -> PictureSet:
        """The pictures of some prompts.

        Args:
            keys: of the prompts.
        """
        chosen = [i for i, key in enumerate(self.keys) if key in keys]
        ids = [self.ids[i] for i in chosen] if self.ids else ()
        return replace(self, pictures=[self.pictures[i] for i in chosen], ids=ids)

    @property
    def prompts(self) -> list[str]:
        """Each prompt once, in order."""
        return list(dict.fromkeys(p.text for p in self.pictures))


@dataclass
class MeasuredSet:
    """A set of pictures with its numbers.

    Attributes:
        label: as of the `PictureSet`.
        pictures: those that could be read.
        metrics: by which the set was measured.
        failed: pictures that could not be read, with the reason.
        keys: of each picture's prompt.
        missing: keys of prompts without a picture.
        numbers: name of a metric → key of a number → (N,), one a picture.
        values: key of a column → its number, NaN where there is none.
        cells: key of a column → the number as the table shows it, with its interval if it has one.
    """

    label: str
    pictures: Sequence[CaptionedPicture]
    metrics: Sequence[Metric]
    failed: Sequence[Failure]
    keys: Sequence[str] = ()
    missing: Sequence[str] = ()
    numbers: dict[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    cells: dict[str, TableCell] = field(default_factory=dict)

    def per_prompt(self, key: str) -> dict[str, float]:
        """The mean of a number over the pictures of each prompt: key of the prompt → mean. NaN is left out.

        Args:
            key: of a column.
        """
        values = next((n[key] for n in self.numbers.values() if key in n), None)
        if values is None:
            return {}
        sums: dict[str, list[float]] = {}
        for prompt, value in zip(self.keys, values.tolist(), strict=True):
            if value == value:
                sums.setdefault(prompt, []).append(value)
        return {prompt: sum(found) / len(found) for prompt, found in sums.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; those that are means over pictures with their intervals."""
        result: dict[str, Any] = {
            "run": self.label,
            "pictures": len(self.pictures),
            "prompts": len({p.text for p in self.pictures}),
            "failed": [{"picture": f.name, "reason": f.reason} for f in self.failed],
        }
        if self.missing:
            result["missing"] = list(self.missing)
        for key, value in self.values.items():
            cell = self.cells[key]
            whole = {"value": value}
            if isinstance(cell, Estimate) and cell.bounded:
                whole |= {"low": cell.low, "high": cell.high, "n": cell.n}
            result[key] = whole
        return result
