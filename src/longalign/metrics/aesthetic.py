"""LAION's aesthetic score: a linear head on CLIP's embedding of a picture (Schuhmann et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from longalign.errors import LongalignError
from longalign.metrics.metric import Metric, MetricColumn, PictureBatch, Tools
from longalign.metrics.weight_files import linear_chain, read_state

_MODEL = "openai/clip-vit-large-patch14"
_HOW = (
    "download sac+logos+ava1-l14-linearMSE.pth (GitHub, christophschuhmann/improved-aesthetic-predictor) or "
    "sa_0_4_vit_l_14_linear.pth (GitHub, LAION-AI/aesthetic-predictor) and give --set aesthetic.head=FILE"
)


@dataclass(frozen=True)
class AestheticOptions:
    """Options of `Aesthetic`.

    Attributes:
        head: file of the head.
        model: the CLIP whose unit C_X the head reads: a `CLIPModel` folder or hub name.
    """

    head: str | None = None
    model: str = _MODEL


class Aesthetic(Metric):
    """How much people would like the picture, from 1 to 10. It does not read the prompt.

    Args:
        tools: what the evaluation has loaded.
        options: an `AestheticOptions`; None: the defaults.

    Raises:
        LongalignError: no head is given, it is no linear head or of another CLIP; the CLIP cannot be loaded.
    """

    name = "aesthetic"
    columns = (MetricColumn("aesthetic", "aesthetic", ".3f", "higher"),)
    Options = AestheticOptions

    def __init__(self, tools: Tools, options: Any = None) -> None:
        super().__init__(tools, options)
        if self.options.head is None:
            raise LongalignError(f"aesthetic: no head is given: {_HOW}")
        self.head = linear_chain(read_state(self.options.head), self.options.head)
        try:
            width = tools.preference(self.options.model).model.width
        except LongalignError as error:
            raise LongalignError(
                f"aesthetic: {error} (--set aesthetic.model=FOLDER names another)"
            ) from error
        if (wanted := self.head[0].in_features) != width:
            raise LongalignError(
                f"aesthetic: the head {self.options.head} reads embeddings of {wanted} numbers, those of "
                f"{self.options.model} have {width}: give the CLIP it was trained on, --set aesthetic.model=FOLDER"
            )

    @classmethod
    def weights(cls, tools: Tools, options: Any) -> Sequence[str]:
        """The CLIP; the head is small."""
        return (options.model,)

    @property
    def what(self) -> str:
        """Names head and CLIP."""
        return f"{self.options.head} on {self.options.model}"

    def measure(self, batch: PictureBatch) -> Sequence[float]:
        """One score a picture.

        Args:
            batch: decoded pictures.
        """
        with torch.no_grad():
            found: list[float] = self.head(batch.embeddings(self.options.model).float())[:, 0].tolist()
        return found
