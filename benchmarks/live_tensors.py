"""How much memory tensors take at the most, counted tensor by tensor: on a CPU the process's own peak says little."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of storages that operations make inside of the block, while they live.

    Every operation's results pass through here, also in a backward pass and in recomputation; a storage is counted
    once however many tensors look at it. What was there before (weights, inputs) is not counted, scratch memory
    inside an operation is not seen, and neither is what backward on a GPU does in its own thread.

    Attributes:
        peak_bytes: the most that was alive at one time.
        live_bytes: what is alive now.
    """

    def __init__(self, *existing: torch.Tensor) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        self._before = {t.untyped_storage()._cdata for t in existing}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if not size or key in self._before or key in self._known:
            return

        def gone(_: Any) -> None:
            del self._known[key]
            self.live_bytes -= size

        self._known[key] = weakref.ref(storage, gone)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
