"""Base classes of metrics, what they are given, and what they return.

A metric is one class in one file. `measure` turns a batch of decoded pictures into one value a picture, and `cells`
turns the numbers of a whole set into table cells. A complete metric of one number a picture::

    class Sharpness(Metric):
        name = "sharpness"
        columns = (MetricColumn("sharpness", "sharpness", ".3f", "higher"),)

        def measure(self, batch: PictureBatch) -> list[float]:
            return [gradient_energy(image) for image in batch.images]

It joins the table `longalign.metrics.METRICS` by an entry point ``metric.sharpness`` of a package
(`longalign.plugins`). A metric of whole sets, such as FID, is a `SetMetric`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

import numpy as np
from torch import Tensor

from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError
from longalign.metrics.embedding import embed_images
from longalign.metrics.prompt_bootstrap import MISSING, Number, PromptBootstrap
from longalign.preference.images import to_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

    from longalign.metrics.features import Features
    from longalign.preference import PreferenceModel
    from longalign.preference.memory import EmbeddingMemory
    from longalign.worlds import World

Need = Literal["reference", "features", "world"]
Level = Literal["picture", "sentence", "set"]
Value = float | Mapping[str, Any]
Result = TypeVar("Result")
_NEEDS: Mapping[Need, str] = {
    "reference": "a reference set of pictures",
    "features": "a feature extractor",
    "world": "a world that knows which sentences are true",
}
SENTENCES = "sentences"  # key of a value: one number a sentence of the prompt


@dataclass(frozen=True)
class MetricColumn:
    """One number of a metric.

    Attributes:
        key: its name in JSON. No two metrics share one.
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
class NoOptions:
    """Options of a metric that has none."""


class Tools:
    """What an evaluation has loaded. Metrics that need what is None cannot be computed.

    Args:
        reference: label of the reference set of pictures.
        features: the feature extractor.
        world: the world that the prompts describe.
        device, dtype: where and how models are loaded, as in `longalign.runtime`.
    """

    def __init__(
        self,
        reference: str | None = None,
        features: Features | None = None,
        world: World | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        self.reference, self.features, self.world = reference, features, world
        self.device, self.dtype = device, dtype
        self._preferences: dict[str, EmbeddingMemory] = {}
        if features is not None and features.model is not None:
            self.add_preference(features.name, features.model)

    def preference(self, name: str | os.PathLike[str], **load: Any) -> EmbeddingMemory:
        """A preference model with the embeddings that it has computed. All metrics share it.

        Args:
            name: as of `PreferenceModel.from_pretrained`.
            load: further arguments of it.

        Raises:
            LongalignError: there is no such model.
        """
        name = os.fspath(name)
        if name not in self._preferences:
            from longalign.preference import PreferenceModel

            self.add_preference(
                name, PreferenceModel.from_pretrained(name, device=self.device, dtype=self.dtype, **load)
            )
        return self._preferences[name]

    def add_preference(self, name: str, model: PreferenceModel) -> None:
        """Make a model known that is loaded already.

        Args:
            name: the name by which metrics ask for it.
            model: the model.
        """
        from longalign.preference.memory import EmbeddingMemory

        self._preferences[name] = EmbeddingMemory(model)

    def forget_texts(self) -> None:
        """Forget all texts. The embeddings of a block of pictures then do not depend on the blocks before it."""
        for memory in self._preferences.values():
            memory.forget()


class PictureBatch:
    """Decoded pictures with their prompts. What several metrics need of them is computed once.

    Args:
        images: B pictures, RGB.
        prompts: B prompts. They are empty in a reference set without captions.
        tools: of the evaluation.
        records: B rows of the file of prompts, such as GenEval's; None: there are none.
        references: B reference pictures of the same prompts, None where there is none; None: there are none at all.
    """

    def __init__(
        self,
        images: Sequence[Image],
        prompts: Sequence[str],
        tools: Tools,
        records: Sequence[Mapping[str, Any]] | None = None,
        references: Sequence[Image | None] | None = None,
    ) -> None:
        self.images, self.prompts, self.tools = images, prompts, tools
        self.records = [{}] * len(images) if records is None else records
        self.references = [None] * len(images) if references is None else references
        self._shared: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def sentences(self) -> list[list[str]]:
        """The sentences of each prompt."""
        segmenter = Segmenter()
        found = {p: [s.text for s in segmenter(p)] for p in dict.fromkeys(self.prompts)}
        return [found[p] for p in self.prompts]

    @cached_property
    def features(self) -> Tensor:
        """(B, D) features of the evaluation's extractor.

        Raises:
            LongalignError: the evaluation has no extractor, or a feature is not finite.
        """
        if self.tools.features is None:
            raise LongalignError("this evaluation has no feature extractor")
        if self.tools.features.model is not None:
            return self.embeddings(self.tools.features.name)
        # `embed_images` calls the method `image` alone, which `Features` has.
        extractor = cast("Any", self.tools.features)
        return embed_images(extractor, lambda i: to_pixels(self.images[i]), len(self))

    def embeddings(self, name: str) -> Tensor:
        """(B, D) unit C_X of a preference model, on the CPU.

        Args:
            name: as of `Tools.preference`.
        """

        def embed() -> Tensor:
            memory = self.tools.preference(name)
            return memory.images([memory.model.preprocess.picture(image) for image in self.images])

        return self.shared(("embeddings", name), embed)

    def shared(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """What several metrics need of this batch, made once.

        Args:
            key: its name.
            make: makes it.
        """
        if key not in self._shared:
            self._shared[key] = make()
        return cast("Result", self._shared[key])


class Metric(ABC):
    """A metric of generated pictures.

    Attributes:
        name: its name on the command line and in `METRICS`.
        columns: the numbers that it gives.
        needs: what it cannot do without.
        level: whether its values belong to single pictures, to single sentences, or to a whole set of pictures.
        by_default: whether `longalign evaluate` computes it without being asked, where its needs are met.
        Options: a frozen dataclass of its settings, for ``--set NAME.FIELD=VALUE``.

    Args:
        tools: what the evaluation has loaded.
        options: an `Options`; None: the defaults.

    Raises:
        LongalignError: something that the metric needs is missing, such as a model or a library.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[MetricColumn, ...]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    level: ClassVar[Level] = "picture"
    by_default: ClassVar[bool] = False
    Options: ClassVar[type] = NoOptions

    def __init__(self, tools: Tools, options: Any = None) -> None:
        for need, words in _NEEDS.items():
            if need in self.needs and getattr(tools, need) is None:
                raise LongalignError(f"{self.name}: needs {words}")
        self.tools = tools
        self.options = self.Options() if options is None else options

    @classmethod
    def weights(cls, tools: Tools, options: Any) -> Sequence[str]:
        """Names of the models that the metric loads, for the plan of which metrics share the memory.

        Args:
            tools: what the evaluation has loaded.
            options: an `Options`.
        """
        return ()

    @property
    def reads(self) -> str:
        """What the metric reads of a prompt, in words."""
        return "the picture alone"

    @property
    def what(self) -> str:
        """What stands behind its numbers, such as a model and a template; empty if there is nothing to say."""
        return ""

    @abstractmethod
    def measure(self, batch: PictureBatch) -> Sequence[Value]:
        """One value a picture, in the order of the batch.

        Args:
            batch: decoded pictures with their prompts.

        Returns:
            B values. A value is the number of the first column, or a mapping: numbers under the keys of columns (and
            others that `cells` understands), under ``sentences`` one number (or None) for each of ``batch.sentences``,
            and other details that JSON can hold. NaN is no number: it is left out of the mean.
        """

    def cells(self, numbers: Mapping[str, np.ndarray], bootstrap: PromptBootstrap) -> dict[str, Number]:
        """The numbers of one set of pictures, with their cells in the table.

        This implementation takes the mean over pictures, with an interval that draws whole prompts.

        Args:
            numbers: each number of the values of `measure`: key → (N,), NaN where a picture has none.
            bootstrap: draws of the prompts of these N pictures.

        Returns:
            column key → number and cell.
        """
        none = np.full(len(bootstrap.owner), np.nan)
        return {c.key: bootstrap.mean(numbers.get(c.key, none), c.format) for c in self.columns}

    def share_read(self, prompts: Sequence[str]) -> str:
        """How much of the prompts the metric could read, in words.

        Args:
            prompts: of all pictures of all sets.

        Returns:
            a cell of the report, such as ``97.3% of the characters``.
        """
        return "nothing"


class SetMetric(Metric):
    """A metric of the features of a whole set of pictures, such as FID. `tools` and `options` are those of `Metric`."""

    needs = frozenset(("features",))
    level = "set"

    def measure(self, batch: PictureBatch) -> Sequence[Value]:
        """Nothing: the evaluation keeps the features of each picture."""
        return [{}] * len(batch)

    def cells(self, numbers: Mapping[str, np.ndarray], bootstrap: PromptBootstrap) -> dict[str, Number]:
        """Nothing: see `from_features`."""
        return {}

    @abstractmethod
    def from_features(
        self, x: np.ndarray, y: np.ndarray | None, bootstrap: PromptBootstrap
    ) -> dict[str, Number]:
        """The numbers of one set, with their cells in the table.

        Args:
            x: (N, D) float32 features of the set; they may lie on the disk (`numpy.memmap`).
            y: (M, D) those of the reference set; None if the metric needs no reference.
            bootstrap: draws of the prompts of these N pictures.

        Returns:
            column key → number and cell.
        """


def share_of_tokens(memory: EmbeddingMemory, prompts: Sequence[str]) -> str:
    """How much of the prompts a model reads that takes the first tokens alone, for `Metric.share_read`.

    Args:
        memory: of the model.
        prompts: may repeat.

    Returns:
        such as ``61.2% of the tokens``.
    """
    tokenizer, window = memory.model.tokenizer, memory.model.window_tokens - 2
    counts = [
        len(tokenizer(p, add_special_tokens=False, verbose=False).input_ids) for p in dict.fromkeys(prompts)
    ]
    whole = sum(counts)
    return f"{sum(min(n, window) for n in counts) / whole:.1%} of the tokens" if whole else "—"


__all__ = [
    "MISSING",
    "SENTENCES",
    "Level",
    "Metric",
    "MetricColumn",
    "Need",
    "NoOptions",
    "Number",
    "PictureBatch",
    "SetMetric",
    "Tools",
    "Value",
    "share_of_tokens",
]
