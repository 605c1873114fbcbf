"""Base class of metrics, what they are given, and what they return.

A metric is one class in one file. `measure` turns a batch of decoded pictures into one value a picture, and `cells`
turns the values of a whole set into table cells. A complete metric of one number a picture::

    class Sharpness(Metric):
        name = "sharpness"
        columns = (MetricColumn("sharpness", "sharpness", ".3f", "higher"),)

        def measure(self, batch: PictureBatch) -> list[float]:
            return [gradient_energy(image) for image in batch.images]

It joins the table `longalign.metrics.METRICS` by an entry point ``metric.sharpness`` of a package
(`longalign.plugins`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
from torch import Tensor

from longalign.errors import LongalignError
from longalign.metrics.embedding import embed_images
from longalign.metrics.prompt_bootstrap import MISSING, Number, PromptBootstrap
from longalign.preference.images import to_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

    from longalign.metrics.features import Features
    from longalign.preference import PreferenceModel
    from longalign.worlds import World

Need = Literal["reference", "features", "preference", "world"]
Level = Literal["picture", "sentence", "set"]
_NEEDS: Mapping[Need, str] = {
    "reference": "a reference set of pictures",
    "features": "a feature extractor",
    "preference": "a preference model",
    "world": "a world that knows which sentences are true",
}


@dataclass(frozen=True)
class MetricColumn:
    """One number of a metric.

    Attributes:
        key: its name in JSON.
        name: its heading, without the arrow.
        format: format specification of the number.
        better: which values are better.
    """

    key: str
    name: str
    format: str
    better: Literal["higher", "lower"]

    @property
    def title(self) -> str:
        """The heading with an arrow towards the better values, such as ``FID ↓``."""
        return f"{self.name} {'↑' if self.better == 'higher' else '↓'}"


@dataclass(frozen=True)
class Tools:
    """What an evaluation has loaded. Metrics that need what is None cannot be computed.

    Attributes:
        reference: label of the reference set of pictures.
        features: the feature extractor.
        preference: the preference model.
        world: the world that the prompts describe.
        device, dtype: where and how a metric loads a model of its own, as in `longalign.runtime`.
    """

    reference: str | None = None
    features: Features | None = None
    preference: PreferenceModel | None = None
    world: World | None = None
    device: str = "auto"
    dtype: str = "auto"


class PictureBatch:
    """Decoded pictures with their prompts. What several metrics need of them is computed once.

    Args:
        images: B pictures, RGB.
        prompts: B prompts. They are empty in a reference set without captions.
        tools: of the evaluation.
    """

    def __init__(self, images: Sequence[Image], prompts: Sequence[str], tools: Tools) -> None:
        self.images, self.prompts, self.tools = images, prompts, tools

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def features(self) -> Tensor:
        """(B, D) features of the evaluation's extractor.

        Raises:
            LongalignError: the evaluation has no extractor, or a feature is not finite.
        """
        if self.tools.features is None:
            raise LongalignError("this evaluation has no feature extractor")
        # `embed_images` calls the method `image` alone, which `Features` has.
        extractor = cast("Any", self.tools.features)
        return embed_images(extractor, lambda i: to_pixels(self.images[i]), len(self))


class Metric(ABC):
    """A metric of generated pictures.

    Attributes:
        name: its name on the command line and in `METRICS`.
        columns: the numbers that it gives.
        needs: what it cannot do without.
        level: whether its values belong to single pictures, to single sentences, or to a whole set of pictures.
        by_default: whether `longalign evaluate` computes it without being asked, where its needs are met.

    Args:
        tools: what the evaluation has loaded.

    Raises:
        LongalignError: something that the metric needs is missing.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[MetricColumn, ...]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    level: ClassVar[Level] = "picture"
    by_default: ClassVar[bool] = False

    def __init__(self, tools: Tools) -> None:
        for need, words in _NEEDS.items():
            if need in self.needs and getattr(tools, need) is None:
                raise LongalignError(f"{self.name}: needs {words}")
        self.tools = tools

    @property
    def reads(self) -> str:
        """What the metric reads of a prompt, in words."""
        return "the picture alone"

    @abstractmethod
    def measure(self, batch: PictureBatch) -> Sequence[Any]:
        """One value a picture, in the order of the batch.

        The reference set passes through this method, too, if the metric needs one.

        Args:
            batch: decoded pictures with their prompts.

        Returns:
            B values of any type that `cells` understands. For the `cells` of this base class a value is a number, or
            a mapping from column keys to numbers; NaN and missing keys are left out of the mean.
        """

    def cells(
        self, values: Sequence[Any], bootstrap: PromptBootstrap, reference: Sequence[Any] | None
    ) -> dict[str, Number]:
        """The numbers of one set of pictures, with their cells in the table.

        This implementation takes the mean over pictures, with an interval that draws whole prompts.

        Args:
            values: N values of `measure`.
            bootstrap: draws of the prompts of these N pictures.
            reference: values of the reference pictures; None if the metric needs no reference.

        Returns:
            column key → number and cell.
        """
        found = {}
        for column in self.columns:
            numbers = [
                value.get(column.key, np.nan) if isinstance(value, Mapping) else value for value in values
            ]
            found[column.key] = bootstrap.mean(np.array(numbers, np.float64), column.format)
        return found

    def share_read(self, prompts: Sequence[str], values: Sequence[Any]) -> str:
        """How much of the prompts the metric could read, in words.

        Args:
            prompts: of all pictures of all sets.
            values: their values.

        Returns:
            a cell of the report, such as ``97.3% of the characters``.
        """
        return "nothing"


__all__ = ["MISSING", "Level", "Metric", "MetricColumn", "Need", "Number", "PictureBatch", "Tools"]
