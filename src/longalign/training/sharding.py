"""`train.shard: fsdp`: the frozen weights of a large model are divided among the processes (FSDP2, through accelerate).

A process holds its part of every block, and gathers a block's weights when it computes it. What is trained (a LoRA, an
adapter) is small and stays whole in every process: gradients are averaged, and checkpoints, averages and saved files
made, as without sharding.

Gathering is communication, in which all processes have to take part in the same order. But one process may call the
model more often than another: captions of other lengths make other groups, and rows to evaluate are shared out
unevenly. So before each call, and before each way back, the processes tell each other what they are about to do; one
that has nothing to do any more makes a call whose result is dropped (`Sharding.catch_up`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from longalign.errors import LongalignError
from longalign.objectives import Objective

_DONE, _CALL, _GRAD, _BACK = range(4)  # what a process is about to do


def shard(objective: Objective, accelerator: Accelerator) -> Objective:
    """Divides the frozen weights of the objective's denoiser among the processes.

    Args:
        objective: with all LoRAs on its model.
        accelerator: of this process.

    Returns:
        the objective, which keeps the processes in step. With one process nothing changes.

    Raises:
        LongalignError: the objective has no large model of its own, or trains all weights.
    """
    module = objective.large_module()
    if module is None:
        raise LongalignError(
            f"train.shard fsdp: {type(objective).__name__} has no large frozen model that could be divided; take shard "
            "none"
        )
    if all(p.requires_grad for p in module.parameters()):
        raise LongalignError(
            "train.shard fsdp divides frozen weights, and this recipe trains all of them: take tune lora, or shard none"
        )
    if accelerator.num_processes == 1:
        return objective
    return cast(Objective, _InStep(objective, Sharding(module, accelerator)))


class Sharding:
    """A sharded module, and the calls of it.

    Args:
        module: with frozen weights, and perhaps trained ones; sharded in place, names stay.
        accelerator: of this process.
    """

    def __init__(self, module: nn.Module, accelerator: Accelerator) -> None:
        self.module, self.accelerator = module, accelerator
        self._inputs: tuple[Any, Any] | None = None  # of the last call
        self._pending: list[Tensor] = []  # results of calls that only keep others company
        self._in_company = False
        _prepare(module, accelerator)
        # Before FSDP's own hooks, which communicate.
        module.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True)
        module.register_forward_hook(self._after, prepend=True)

    def catch_up(self) -> None:
        """Makes the calls that other processes make and this one does not, until none makes any. All call it.

        Raises:
            LongalignError: the calls of two processes differ in more than their number.
        """
        while (kind := self._agree(_DONE)) != _DONE:
            if kind == _BACK:
                output = self._pending.pop(0)
                output.backward(torch.zeros_like(output))
                continue
            args, kwargs = self._inputs or ((), {})
            self._in_company = True
            try:
                with torch.set_grad_enabled(kind == _GRAD), self.accelerator.autocast():
                    output = _tensor(self.module(*args, **kwargs))
            finally:
                self._in_company = False
            if kind == _GRAD:
                self._pending.append(output)

    def _agree(self, kind: int) -> int:
        """Tells the others what this process is about to do; returns what those do that are not done."""
        own = torch.tensor([kind, self._inputs is not None], device=self.accelerator.device)
        told = self.accelerator.gather(own).view(-1, 2).tolist()
        busy = {k for k, _ in told if k != _DONE}
        if len(busy) > 1:
            raise LongalignError(
                "train.shard fsdp: two processes call the model in different orders, as captions of other lengths make "
                "them. Take shard none"
            )
        if busy and any(k == _DONE and not has for k, has in told):  # somebody has no inputs of its own
            source = next(rank for rank, (k, _) in enumerate(told) if k != _DONE)
            box = [_moved(self._inputs, "cpu") if self._inputs is not None else None]
            broadcast_object_list(box, from_process=source)
            if self._inputs is None:
                self._inputs = _moved(box[0], self.accelerator.device)
        return busy.pop() if busy else _DONE

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self._in_company:
            self._inputs = (_kept(args), _kept(kwargs))
            self._agree(_GRAD if torch.is_grad_enabled() else _CALL)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        tensor = _tensor(output)
        if not self._in_company and tensor.requires_grad:
            tensor.register_hook(self._backward)

    def _backward(self, grad: Tensor) -> None:
        self._agree(_BACK)


class _InStep:
    """An objective whose processes wait for each other after each of its methods that call the model."""

    collective = True

    def __init__(self, objective: Objective, sharding: Sharding) -> None:
        self._objective, self._sharding = objective, sharding
        self._waiting = _Waiting(sharding)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def backward(self, batch: Any, accelerator: Any) -> dict[str, float | Tensor]:
        metrics = self._objective.backward(batch, self._waiting)
        self._sharding.catch_up()
        return metrics

    def evaluate(self, accelerator: Any) -> dict[str, float]:
        figures = self._objective.evaluate(self._waiting)
        self._sharding.catch_up()
        return figures

    def samples(self, accelerator: Any) -> Any:
        pictures = self._objective.samples(self._waiting)
        self._sharding.catch_up()
        return pictures

    def save(self, folder: Path) -> None:
        self._objective.save(folder)


class _Waiting:
    """The accelerator; before it communicates, processes that called the model less often catch up."""

    def __init__(self, sharding: Sharding) -> None:
        self._sharding = sharding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sharding.accelerator, name)

    def reduce(self, *arguments: Any, **keywords: Any) -> Any:
        self._sharding.catch_up()
        return self._sharding.accelerator.reduce(*arguments, **keywords)

    def gather(self, *arguments: Any, **keywords: Any) -> Any:
        self._sharding.catch_up()
        return self._sharding.accelerator.gather(*arguments, **keywords)

    def wait_for_everyone(self) -> None:
        self._sharding.catch_up()
        self._sharding.accelerator.wait_for_everyone()


def _prepare(module: nn.Module, accelerator: Accelerator) -> None:
    """FSDP2 block by block: the classes that diffusers would not split (`_no_split_modules`), and the rest."""
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    trained = [
        part for part in module.modules() if any(p.requires_grad for p in part.parameters(recurse=False))
    ]
    # The plugin reads settings of `accelerate config` from the environment; these here are the recipe's.
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("FSDP_")}
    try:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=_blocks(module),
            ignored_modules=trained,
            reshard_after_forward=True,
            cpu_ram_efficient_loading=False,
        )
    finally:
        os.environ.update(kept)
    state = accelerator.state
    before = state._shared_state.get("fsdp_plugin")
    state._shared_state["fsdp_plugin"] = plugin
    try:
        fsdp2_prepare_model(accelerator, module)
    finally:
        state._shared_state["fsdp_plugin"] = before


def _blocks(module: nn.Module) -> list[str]:
    """Names of the classes of blocks that the module has."""
    wanted = set(getattr(module, "_no_split_modules", None) or ())
    there = {type(part).__name__ for part in module.modules()}
    return sorted(wanted & there)


def _tensor(output: Any) -> Tensor:
    """The tensor of a denoiser's output."""
    if isinstance(output, Tensor):
        return output
    return cast(Tensor, output[0] if isinstance(output, (tuple, list)) else output.sample)


def _kept(value: Any) -> Any:
    """Inputs without their history; whether they need a gradient stays."""
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {name: _kept(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_kept(part) for part in value)
    return value


def _moved(value: Any, device: Any) -> Any:
    """Inputs on another device."""
    if isinstance(value, Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {name: _moved(part, device) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(part, device) for part in value)
    return value
