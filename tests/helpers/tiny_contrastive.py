"""The contrastive objective over tiny pipelines in float64. As a script it is one process of several."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiny
import torch
from picture_objectives import LENGTH, data
from torch import Tensor

from longalign.data.text_states import TextStates, join
from longalign.diffusion.pipelines import (
    ModelSettings,
)
from longalign.objectives import OBJECTIVES, BuildContext, Task
from longalign.objectives.contrastive.objective import ContrastiveObjective
from longalign.training import fit
from longalign.training.processes import leave_group
from longalign.training.recipe import Recipe

# Errors of random models are about 1: a temperature at which they still say something.
SETTINGS: dict[str, Any] = {"length": LENGTH, "temperature": 2.0, "pairs_at_once": 3}


def contrastive(
    pipe: Any = None, rows: Any = None, held_out: Any = None, t5: Any = None, **settings: Any
) -> ContrastiveObjective:
    """In float64, with tokens large enough to matter."""
    objective = ContrastiveObjective(
        pipe or tiny.tiny_sd15(),
        ContrastiveObjective.Settings(**{**SETTINGS, **settings}),
        rows or data(),
        model=ModelSettings(guidance=3.0),
        model_name="tiny",
        t5=t5,
        held_out=held_out,
    )
    for part in objective.pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.double()
    torch.manual_seed(1)
    for tokens in objective.modules().values():
        tokens.double()
        for p in tokens.parameters():
            torch.nn.init.normal_(p)
    for average in objective.averages.values():
        average.double()
        for p in average.parameters():
            torch.nn.init.normal_(p)
    return objective


def errors_at_once(
    objective: ContrastiveObjective,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    states: Sequence[TextStates],
    padding: Any,
) -> Tensor:
    """(b, B) E by one caption's calls after another's, in one graph: the plain way."""
    denoiser = objective.denoiser
    noise = eps.expand_as(x0)
    x_t, target = denoiser.noised(x0, noise, t), denoiser.target(x0, noise, t)
    columns = []
    for state in states:
        [(_, conditioning)] = join([state], padding, objective.adapter)
        f = denoiser(x_t, t, conditioning[[0] * len(x0)])
        columns.append((f - target).square().mean((1, 2, 3)))
    return torch.stack(columns, dim=1)


class TinyContrastive(ContrastiveObjective):
    @classmethod
    def build(cls, model: str, settings: Any, rows: Any, context: BuildContext) -> Task:
        objective = contrastive(rows=data(10), **settings.model_dump(exclude_unset=True))
        objective.context = context
        return Task(objective, objective.data)


RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"symmetric": True, "near_negatives": 1},
    "guided": {"alignment_guided": {"negatives": 2, "ema": 0.5}},
}


@contextmanager
def registered() -> Iterator[None]:
    before = OBJECTIVES["contrastive"]
    OBJECTIVES["contrastive"] = "tiny_contrastive:TinyContrastive"
    try:
        yield
    finally:
        OBJECTIVES["contrastive"] = before


def recipe(name: str, **train: Any) -> Recipe:
    return Recipe.from_mapping(
        {
            "objective": "contrastive",
            "model": "tiny",
            "seed": 3,
            "contrastive": {**SETTINGS, **RUNS[name]},
            "train": {
                "batch_size": 4,
                "lr": 1e-2,
                "max_grad_norm": None,  # clipping would hide a factor
                "checkpoint_every_steps": 1,
                "keep_checkpoints": 100,
                **train,
            },
        }
    )


if __name__ == "__main__":
    import tiny_contrastive  # the module by its name, as recipes find it

    for name in sys.argv[2:]:
        with tiny_contrastive.registered():
            fit(tiny_contrastive.recipe(name, steps=3), Path(sys.argv[1]) / name)
    leave_group()
