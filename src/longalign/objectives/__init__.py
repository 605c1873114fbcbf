"""What a model is trained for: the base class `Objective`, and the table of objectives.

An objective has two pydantic models beside it: `Settings` (its own section of a recipe, with the name of the objective)
and `DataSettings` (the section ``data``). `Objective.build` makes the objective and its data from them. The training
loop (`longalign.training`) calls the methods of `Objective` and nothing else.

Other packages add an objective by an entry point ``objective.NAME`` (`longalign.plugins`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import Dataset

from longalign.objectives.random_draws import Draws
from longalign.plugins import Table

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydantic import BaseModel

OBJECTIVES = Table(
    "objective",
    {
        "consistency": "longalign.objectives.pictures.consistency:ConsistencyObjective",
        "contrastive": "longalign.objectives.contrastive.objective:ContrastiveObjective",
        "preference": "longalign.objectives.preference.objective:PreferenceObjective",
        "reward": "longalign.objectives.reward.objective:RewardObjective",
        "sticker_part": "longalign.stickers.making.objective:StickerPart",
        "supervised": "longalign.objectives.pictures.supervised:SupervisedObjective",
    },
)


@dataclass(frozen=True)
class BuildContext:
    """Where an objective is built.

    Attributes:
        device: device of this process.
        seed: the seed of the run.
        process_index: number of this process, from 0.
        num_processes: how many processes train together.
    """

    device: Any
    seed: int = 0
    process_index: int = 0
    num_processes: int = 1

    def share(self, count: int) -> range:
        """Which of ``count`` rows this process evaluates: every `num_processes`-th one."""
        return range(self.process_index, count, self.num_processes)


@dataclass(frozen=True)
class Task:
    """An objective with the data that it is trained on (map-style: `len` and indexing)."""

    objective: Objective
    data: Dataset[Any]


class Objective(ABC):
    """Base class of objectives: computes losses and gradients, evaluates, and saves the trained model.

    Clipping, optimiser steps, logging, checkpoints and resuming belong to the loop. A subclass implements `build`,
    `modules`, `collate`, `backward` and `save`. The other methods have defaults that do nothing.

    Attributes:
        Settings: pydantic model of the objective's own section of a recipe.
        DataSettings: pydantic model of the section ``data``.
        collective: whether `samples` communicates, so that every process has to call it.
    """

    collective: ClassVar[bool] = False
    Settings: ClassVar[type[BaseModel]]
    DataSettings: ClassVar[type[BaseModel]]

    _draws: Draws | None = None

    @classmethod
    @abstractmethod
    def build(cls, model: str, settings: Any, data: Any, context: BuildContext) -> Task:
        """Make the objective and its data from a validated recipe.

        Args:
            model: the recipe's ``model``: an embedded model, a folder or a hub name.
            settings: a `Settings`.
            data: a `DataSettings`.
            context: device, seed and processes.

        Raises:
            LongalignError: the model or the data cannot be loaded, or they do not fit together.
        """

    @abstractmethod
    def modules(self) -> Mapping[str, nn.Module]:
        """The modules that are trained, by the names that checkpoints use. Frozen parameters in them stay frozen."""

    @abstractmethod
    def collate(self, rows: Sequence[Any]) -> Any:
        """Rows of the data → one micro-batch, on the CPU. Data workers may call it."""

    @abstractmethod
    def backward(self, batch: Any, accelerator: Any) -> dict[str, float | Tensor]:
        """Add the gradient of this process's mean loss over one micro-batch to `.grad`.

        Gradients are added by ``accelerator.backward``. The loop averages gradients and metrics over micro-batches and
        processes afterwards.

        Returns:
            metrics by name; ``loss`` is among them. A loss that is not finite makes the loop skip the step.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the trained model as a transformers or diffusers folder. Only the main process calls it."""

    def large_module(self) -> nn.Module | None:
        """The module whose frozen weights `train.shard` divides among processes. None: there is none."""
        return None

    def opened(self, folder: Path) -> None:
        """Every process calls this with the run folder before the first step, for lists such as skipped rows."""
        return None

    def reseed(self, draws: Draws) -> None:
        """The loop calls this before each `backward`, with the random numbers of the micro-batch."""
        self._draws = draws

    def draws_of(self, rows: int) -> Draws:
        """The random numbers for a micro-batch of ``rows`` rows.

        They are those that `reseed` was given, and are used once; without them, numbers from torch's random state.
        """
        draws, self._draws = self._draws or Draws.now(rows), None
        return draws

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the modules, such as running means. Empty by default."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            LongalignError: the state belongs to other settings or another model.
        """
        return None

    def evaluate(self, accelerator: Any) -> dict[str, float]:
        """Metrics on held-out data, by name. Every process calls it. Empty by default: nothing is evaluated."""
        return {}

    def samples(self, accelerator: Any) -> list[tuple[str, Image]]:
        """Captions, and pictures that the model draws of them now. Empty by default: no pictures.

        The loop calls this at each evaluation, in the main process only, so it must not wait for other processes.
        Dropout is off and the random state is the same every time. The pictures go to the run folder (``samples/``),
        to the tracker and to the report, where pictures of one caption stand side by side. Give a few captions, the
        same ones each time.
        """
        return []
