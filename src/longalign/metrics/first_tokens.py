"""What CLIPScore, PickScore and HPSv2 share: the cosine between a picture and the first tokens of its prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from longalign.errors import LongalignError
from longalign.metrics.metric import Metric, PictureBatch, Tools, share_of_tokens


@dataclass(frozen=True)
class ClipOptions:
    """Options of a metric by a CLIP.

    Attributes:
        model: a `CLIPModel` folder, hub name, embedded name or open_clip checkpoint; None: the published one.
        tokenizer: a folder or hub name; None: the model's own, else the published one.
    """

    model: str | None = None
    tokenizer: str | None = None


class FirstTokens(Metric):
    """Base class of metrics that compare C_X of a picture with C_P of its truncated prompt.

    Attributes:
        published: hub name of the published model; None where it is a file that one has to download.
        published_tokenizer: hub name of its tokenizer, where the model has none of its own.
        how_to_get: advice for a user who has no model.

    Args:
        tools: what the evaluation has loaded.
        options: a `ClipOptions`; None: the defaults.

    Raises:
        LongalignError: the model or its tokenizer cannot be loaded (the message says which option names another).
    """

    published: ClassVar[str | None] = None
    published_tokenizer: ClassVar[str | None] = None
    how_to_get: ClassVar[str] = ""
    Options = ClipOptions

    def __init__(self, tools: Tools, options: Any = None) -> None:
        super().__init__(tools, options)
        names = self.weights(tools, self.options)
        if not names:
            raise LongalignError(f"{self.name}: no model is given: {self.how_to_get}")
        self.model_name = names[0]
        words = self.options.tokenizer
        if words is None and (self.model_name == self.published or Path(self.model_name).is_file()):
            words = self.published_tokenizer
        try:
            self.memory = tools.preference(self.model_name, **({} if words is None else {"tokenizer": words}))
        except LongalignError as error:
            raise LongalignError(f"{self.name}: {error} ({self.how_to_get})") from error

    @classmethod
    def weights(cls, tools: Tools, options: Any) -> Sequence[str]:
        """The model alone."""
        name = options.model or cls.published
        return () if name is None else (name,)

    @property
    def reads(self) -> str:
        """Names the window of the model."""
        return f"the first {self.memory.model.window_tokens} tokens"

    @property
    def what(self) -> str:
        """Names the model."""
        return self.model_name

    def share_read(self, prompts: Sequence[str]) -> str:
        """The share of the prompts' tokens that fit the window.

        Args:
            prompts: of all pictures of all sets.
        """
        return share_of_tokens(self.memory, prompts)

    def measure(self, batch: PictureBatch) -> Sequence[float]:
        """One score a picture.

        Args:
            batch: decoded pictures with their prompts.

        Raises:
            LongalignError: an embedding is not finite.
        """
        images = batch.embeddings(self.model_name)  # (B, D)
        texts = self.memory.texts(batch.prompts, truncate=True)  # (B, D)
        cosines = (images * texts).sum(-1)  # (B,)
        if not cosines.isfinite().all():
            raise LongalignError(f"{self.name}: an embedding is not finite: try the model in float32")
        found: list[float] = self.score(cosines).tolist()
        return found

    @abstractmethod
    def score(self, cosines: Tensor) -> Tensor:
        """The metric's numbers.

        Args:
            cosines: (B,) C_X·C_P.

        Returns:
            (B,)
        """
