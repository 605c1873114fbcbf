"""Objectives over tiny models in float64, with all that a recipe needs.

The run ``buckets`` is supervised training on pictures of three shapes. As a script it is one process of several.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import tiny
import torch
from framed_pictures import framed
from picture_objectives import data, make
from tiny_clip import tiny_model

from longalign.diffusion.pipelines import (
    ModelSettings,
)
from longalign.objectives import OBJECTIVES, BuildContext, Task
from longalign.objectives.pictures.consistency import ConsistencyObjective
from longalign.objectives.pictures.supervised import SupervisedObjective
from longalign.objectives.reward.objective import RewardObjective
from longalign.objectives.reward.rewards import Reward
from longalign.objectives.reward.sampling import load_prompts
from longalign.preference import PreferenceModel
from longalign.preference.decomposition import fit_prompts
from longalign.training import fit
from longalign.training.checkpoint import read_parts
from longalign.training.processes import leave_group
from longalign.training.recipe import Recipe

ROWS = 10


class _Doubled:
    """Puts an objective's models and trained weights into float64."""

    @classmethod
    def doubled(cls, objective: Any, *others: Any) -> Any:
        for part in (*objective.pipe.components.values(), *others):
            if isinstance(part, torch.nn.Module):
                part.double()
        return objective


class TinySupervised(_Doubled, SupervisedObjective):
    @classmethod
    def build(cls, model: str, settings: Any, rows: Any, context: BuildContext) -> Task:
        pictures = data(ROWS) if rows.bucket_step_px is None else framed(ROWS)
        given = settings.model_dump(exclude_unset=True)
        objective = cls.doubled(make(cls, rows=pictures, flip=rows.flip, **given))
        return Task(objective, objective.data)


class TinyConsistency(_Doubled, ConsistencyObjective):
    build: ClassVar[Any] = classmethod(TinySupervised.build.__func__)  # type: ignore[attr-defined]


class TinyReward(_Doubled, RewardObjective):
    @classmethod
    def build(cls, model: str, settings: Any, rows: Any, context: BuildContext) -> Task:
        from longalign.weights import lora

        pipe = tiny.tiny_sd15()
        torch.manual_seed(8)
        for parameter in lora.attach(pipe.unet, rank=2, name="reward"):
            torch.nn.init.normal_(parameter, std=0.1)
        clip = tiny_model()
        v = fit_prompts(clip, ["A star is in the middle.", "A car.", "The background is navy."])
        scorer = PreferenceModel(clip.clip.double(), clip.tokenizer, clip.preprocess, v)
        objective = cls(
            pipe, [Reward("clip", scorer)], settings, model=ModelSettings(guidance=3.0), context=context
        )
        prompts = load_prompts("stickers", count=ROWS, objects=[(1, 2), (3, 4)])
        return Task(cls.doubled(objective), prompts)


TINY: dict[str, Any] = {"supervised": TinySupervised, "consistency": TinyConsistency, "reward": TinyReward}
# LCM draws noise between its steps, and DRTune one of the two.
SETTINGS: dict[str, dict[str, Any]] = {
    "supervised": {"noisings": 2, "caption_dropout": 0.3},
    "consistency": {},
    "reward": {"solver": "lcm", "timesteps": [999, 499], "gradient_steps": 1, "length": 77, "crop": 7 / 8},
}


@contextmanager
def registered() -> Iterator[None]:
    """Recipes mean the tiny ones."""
    before = {name: OBJECTIVES[name] for name in TINY}
    for name, kind in TINY.items():
        OBJECTIVES[name] = f"tiny_objectives:{kind.__name__}"
    try:
        yield
    finally:
        for name, kind in before.items():
            OBJECTIVES[name] = kind


RUNS = (*TINY, "buckets")


def recipe(run: str, **train: Any) -> Recipe:
    objective = "supervised" if run == "buckets" else run
    return Recipe.from_mapping(
        {
            "objective": objective,
            "model": "tiny",
            "seed": 3,
            objective: SETTINGS[objective],
            "data": {"bucket_step_px": 8, "flip": True} if run == "buckets" else {},
            "train": {
                "batch_size": 4,
                "lr": 1e-3,
                "max_grad_norm": 0.3,
                "checkpoint_every_steps": 1,
                "keep_checkpoints": 100,
                **train,
            },
        }
    )


def states(run: str, out: Path, **train: Any) -> list[torch.Tensor]:
    """Trained weights and AdamW's moments after each step, in one vector each."""
    with registered():
        fit(recipe(run, **train), out)
    return saved(out)


def saved(out: Path) -> list[torch.Tensor]:
    """The same of a run that is there."""
    return [
        torch.cat(
            [t.flatten() for part in ("modules", "optimizer") for t in read_parts(folder)[part].values()]
        )
        for folder in sorted((out / "checkpoints").iterdir())
    ]


if __name__ == "__main__":
    import tiny_objectives  # the module by its name, as recipes find it

    steps, folder, killed_after = int(sys.argv[1]), Path(sys.argv[2]), os.environ.get("KILLED_AFTER")

    def on_step(step: int, row: Any) -> None:
        if str(step) == killed_after:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in sys.argv[3:]:
        with tiny_objectives.registered():
            fit(tiny_objectives.recipe(name, steps=steps, micro_batch_size=1), folder / name, on_step=on_step)
    leave_group()
