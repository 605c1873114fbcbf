"""What a model is trained for. The loop (`longalign.training`) knows an objective only as the protocol below.

An objective's class has two pydantic models beside it, `Settings` (its own section of a recipe, named as the
objective) and `DataSettings` (the section `data`), and `build`, which makes the objective and its data from them.
`OBJECTIVES` names the classes, so that nothing is imported before a recipe asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from torch.utils.data import Dataset

OBJECTIVES: dict[str, str] = {
    "consistency": "longalign.objectives.pictures.consistency:ConsistencyObjective",
    "contrastive": "longalign.objectives.contrastive.objective:ContrastiveObjective",
    "preference": "longalign.objectives.preference.objective:PreferenceObjective",
    "reward": "longalign.objectives.reward.objective:RewardObjective",
    "supervised": "longalign.objectives.pictures.supervised:SupervisedObjective",
}


class Objective(Protocol):
    """Fills `.grad` and says how it went; clipping, stepping, logging, saving and resuming are the loop's.

    An objective that writes lists of its own, such as of skipped rows, may have a method `opened(folder)`: every
    process calls it with the run folder before the first step. One that draws random numbers may have a method
    `reseed(draws)` (`longalign.objectives.random_draws`): the loop calls it before each `backward`, so that several
    processes draw what one would.

    One that makes pictures may have a method `samples(accelerator) -> list[tuple[str, PIL.Image.Image]]`: captions and
    what the model makes of them now. The loop calls it at each evaluation, in the main process alone (so it must not
    wait for others), always from the same random state and without dropout, and gives the pictures to the run folder
    (`samples/`), the tracker and the report, which sets those of one caption side by side. What it costs is the
    objective's business: a few captions, the same each time.
    """

    Settings: ClassVar[type]
    DataSettings: ClassVar[type]

    @classmethod
    def build(cls, model: str, settings: Any, data: Any, context: BuildContext) -> Task:
        """The objective and its data from validated settings. `model` is `stickers/…`, a folder or a hub name."""
        ...

    def modules(self) -> Mapping[str, nn.Module]:
        """What is trained, by the name that checkpoints use."""
        ...

    def collate(self, rows: Sequence[Any]) -> Any:
        """Rows of the data → one micro-batch, on the CPU."""
        ...

    def backward(self, batch: Any, accelerator: Any) -> dict[str, float | Tensor]:
        """Add the gradient of this process's mean loss over one micro-batch to `.grad`, by `accelerator.backward`.

        The loop averages gradients over processes afterwards, and metrics too.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What must be restored on resuming, beside the modules: running means and the like."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...

    def evaluate(self, accelerator: Any) -> dict[str, float]:
        """Figures on held-out data; empty where there are none."""
        ...

    def save(self, folder: Path) -> None:
        """What users load afterwards, as a transformers or diffusers folder. The main process calls it."""
        ...


@dataclass(frozen=True)
class BuildContext:
    """Where an objective is built: on which device, with which seed, among how many processes."""

    device: Any
    seed: int = 0
    process_index: int = 0
    num_processes: int = 1


@dataclass(frozen=True)
class Task:
    """An objective with the data that it is trained on (map-style: `len` and indexing)."""

    objective: Objective
    data: Dataset[Any]
