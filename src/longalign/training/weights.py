"""The trained parameters by name, AdamW, the learning rate schedule, and the moving average."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from longalign.errors import LongalignError
from longalign.training.recipe import TrainSettings

_FILLED_IN = (
    10  # the average's decay is at most (1 + k) / (10 + k) after k steps, so that it forgets the start
)


def learning_rate(step: int, train: TrainSettings) -> float:
    """The learning rate of step k = 0, 1, … of n, with w steps of warm-up.

    min(1, (k+1)/w) · (min_lr + (lr − min_lr) · f(p)),  f = 1 (constant), 1−p (linear), (1+cos πp)/2 (cosine)

    p = (k−w)/(n−w) goes from 0 to 1; with restarts every r steps it is ((k−w) mod r)/r, as of torch's
    CosineAnnealingWarmRestarts with T_0 = r and T_mult = 1. It moves every `lr_every` steps.
    """
    warm = min(1.0, (step + 1) / train.warmup_steps) if train.warmup_steps else 1.0
    past = max(0, step - train.warmup_steps)
    past -= past % train.lr_every
    if train.restart_steps is None:
        p = past / max(1, train.steps - train.warmup_steps)
    else:
        p = past % train.restart_steps / train.restart_steps
    course = {"constant": 1.0, "linear": 1 - p}.get(train.schedule, (1 + math.cos(math.pi * p)) / 2)
    return (train.min_lr + (train.lr - train.min_lr) * course) * warm


class Weights:
    """The trainable parameters of an objective's modules, their optimiser and their moving average.

    Trainable parameters in half precision become float32, since small updates would be rounded away in them; frozen
    ones stay. A parameter that two modules share is held once, under its first name.

    Raises:
        LongalignError: nothing is trainable.
    """

    def __init__(self, modules: Mapping[str, nn.Module], train: TrainSettings) -> None:
        self.modules, self.train_settings = dict(modules), train
        whole = nn.ModuleDict(self.modules)
        saved = whole.state_dict(keep_vars=True)
        self.parameters = {name: p for name, p in whole.named_parameters() if p.requires_grad}
        self.buffers = {name: b for name, b in whole.named_buffers() if name in saved}
        if not self.parameters:
            raise LongalignError("nothing is trainable: every parameter of the objective's modules is frozen")
        for p in self.parameters.values():
            if p.dtype in (torch.float16, torch.bfloat16):
                p.data = p.data.float()
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=train.lr,
            betas=train.betas,
            eps=train.eps,
            weight_decay=train.weight_decay,
        )
        self.average = [p.detach().clone() for p in self.parameters.values()] if train.ema else []

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def set_learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def update_average(self, updates: int) -> None:
        """θ̄ ← θ̄ + (1 − d)(θ − θ̄), d = min(decay, (1 + k)/(10 + k)) after k updates."""
        if self.average:
            decay = min(self.train_settings.ema, (1 + updates) / (_FILLED_IN + updates))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters.values()], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the modules have the averaged weights (if any) and no dropout, for evaluating and saving."""
        own = [p.detach().clone() for p in self.parameters.values()] if self.average else []
        self._copy(self.average)
        self.mode(training=False)
        try:
            yield
        finally:
            self._copy(own)
            self.mode(training=True)

    def mode(self, *, training: bool) -> None:
        for module in self.modules.values():
            module.train(training)

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """The tensors for a checkpoint. Frozen weights are left out, since building the objective loads them again."""
        names = list(self.parameters)
        moments = {
            f"{name}::{key}": value
            for name, p in self.parameters.items()
            for key, value in self.optimizer.state[p].items()
        }
        return {
            "modules": {**self.parameters, **self.buffers},
            "optimizer": moments,
            "ema": dict(zip(names, self.average, strict=True)) if self.average else {},
        }

    def judged(self) -> dict[str, Tensor]:
        """The weights that are evaluated and saved: the average if there is one, and the buffers."""
        averages = dict(zip(self.parameters, self.average, strict=False))
        return {**self.parameters, **averages, **self.buffers}

    def load_judged(self, saved: Mapping[str, Tensor]) -> None:
        """Load what `judged` gave as the modules' own weights.

        Raises:
            LongalignError: names or shapes are not those of these modules.
        """
        _copy_named("modules", {**self.parameters, **self.buffers}, saved)

    def load_parts(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore what `parts` gave.

        Raises:
            LongalignError: names or shapes are not those of these modules.
        """
        self.load_judged(parts.get("modules", {}))
        _copy_named("ema", dict(zip(self.parameters, self.average, strict=False)), parts.get("ema", {}))
        for key, value in parts.get("optimizer", {}).items():
            name, _, moment = key.partition("::")
            p = self.parameters[name]
            # AdamW counts its steps on the CPU; the moments live where the parameter lives.
            self.optimizer.state[p][moment] = value if moment == "step" else value.to(p.device, p.dtype)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for p, value in zip(self.parameters.values(), values, strict=False):
            p.copy_(value)


@torch.no_grad()
def _copy_named(part: str, targets: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    if {k: t.shape for k, t in saved.items()} != {k: t.shape for k, t in targets.items()}:
        raise LongalignError(
            f"the checkpoint's {part} have other names or shapes than the model of this recipe: was the model or the "
            "software changed? Choose another --out."
        )
    for name, target in targets.items():
        target.copy_(saved[name])
