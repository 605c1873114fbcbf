"""The tiny models of the sticker world as an objective of the training loop: ``objective: sticker_part``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import Dataset

from longalign.errors import LongalignError
from longalign.objectives import BuildContext, Objective, Task
from longalign.objectives.random_draws import numpy_generator
from longalign.stickers.making.parts import Part
from longalign.stickers.making.recipes import PARTS, SceneSettings, StickerPartSettings
from longalign.worlds import resolve_model


class SceneNumbers(Dataset[int]):
    """Row i is the number i; parts draw scene number i themselves, since what it shows depends on the step."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return index


class StickerPart(Objective):
    """Trains one tiny model (`longalign.stickers.making.parts.Part`) on sticker scenes.

    A step is one micro-batch of one process: some parts contrast all rows of a step, and all draw their times and
    captions for the whole batch.

    Args:
        part: the model and its loss.
        name: name of the part.
        steps: number of steps that the part's curriculum takes.
    """

    Settings = StickerPartSettings
    DataSettings = SceneSettings

    def __init__(self, part: Part, name: str, steps: int) -> None:
        self.part, self.name, self.steps = part, name, steps

    @classmethod
    def build(
        cls, model: str, settings: StickerPartSettings, data: SceneSettings, context: BuildContext
    ) -> Task:
        """See `longalign.objectives.Objective.build`. ``model`` is the folder of parts that were trained before.

        Raises:
            LongalignError: no such part, a part that it needs is missing, or there are several processes.
        """
        if context.num_processes > 1:
            raise LongalignError("sticker_part: the tiny models are trained by one process")
        kind = PARTS[settings.part]
        part = kind(context.device, Path(resolve_model(model)))
        return Task(cls(part, settings.part, settings.steps), SceneNumbers(data.count))

    def modules(self) -> Mapping[str, nn.Module]:
        """The part's trained module."""
        return {self.name: self.part.trained}

    def collate(self, rows: Sequence[int]) -> list[int]:
        """Numbers of scenes."""
        return list(rows)

    def backward(self, batch: Sequence[int], accelerator: Any) -> dict[str, float | Tensor]:
        """See `longalign.objectives.Objective.backward`.

        Raises:
            LongalignError: the step has several micro-batches.
        """
        draws = self.draws_of(len(batch))
        if len(batch) != draws.batch_size:
            raise LongalignError(
                "sticker_part: a step has to be one micro-batch: leave train.micro_batch_size out"
            )
        rng = numpy_generator(draws.common())
        with sdpa_kernel(SDPBackend.MATH):  # on CPUs the backward pass of the fused kernel is slower here
            loss, metrics = self.part.loss(batch, draws.step / self.steps, rng)
            accelerator.backward(loss)
        return {"loss": loss.detach(), **metrics}

    def evaluate(self, accelerator: Any) -> dict[str, float]:
        """See `longalign.stickers.making.parts.Part.check`."""
        return self.part.check() if self.part.evaluations else {}

    def save(self, folder: Path) -> None:
        """See `longalign.stickers.making.parts.Part.save`."""
        self.part.save(folder)
