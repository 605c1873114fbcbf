"""A cache of encoded sentences, and fingerprints that show a change of the encoder."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import NamedTuple

import torch
from torch import nn


class States(NamedTuple):
    """An encoder's output for one text: (n, D) token states and, where asked for, its (P,) pooled vector."""

    tokens: torch.Tensor
    pooled: torch.Tensor | None = None


class EncodingCache:
    """Keeps encoded sentences on the CPU; when it is full, the least recently used ones are dropped.

    Pass one cache to all calls of `encode` that may have sentences in common: ``encode(pipe, prompts, cache=cache)``.
    Entries belong to an encoder's weights (see `fingerprint`), so one cache may serve several models.

    Args:
        max_bytes: most bytes of tensors that are kept.
    """

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[Hashable, States] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, n_tokens: int, pooled: bool, device: torch.device) -> States | None:
        """The first ``n_tokens`` states of ``key``, on ``device``; None if they or the pooled vector are not in the
        cache.
        """
        with self._lock:
            found = self._entries.get(key)
            if found is None or len(found.tokens) < n_tokens or (pooled and found.pooled is None):
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
        vector = found.pooled.to(device) if pooled and found.pooled is not None else None
        return States(found.tokens[:n_tokens].to(device), vector)

    def put(self, key: Hashable, states: States) -> None:
        """Copies ``states`` to the CPU, so that the cache does not hold larger tensors of which they are views."""
        entry = States(_copied(states.tokens), None if states.pooled is None else _copied(states.pooled))
        with self._lock:
            if (old := self._entries.pop(key, None)) is not None:
                self.n_bytes -= _n_bytes(old)
            self._entries[key] = entry
            self.n_bytes += _n_bytes(entry)
            while self.n_bytes > self.max_bytes:
                self.n_bytes -= _n_bytes(self._entries.popitem(last=False)[1])

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _n_bytes(states: States) -> int:
    return sum(t.nbytes for t in states if t is not None)


def fingerprint(model: nn.Module) -> bytes:
    """A hash that changes when the weights change, but not when the model moves between devices; within milliseconds.

    It reads one element of every parameter, their version counters (which in-place changes such as an
    optimizer's step raise), and what peft's layers are set to. A change through ``.data`` that
    leaves all those elements the same is not noticed.
    """
    parameters = list(model.parameters())
    there = [p.detach() for p in parameters if p.device.type != "meta"]
    probes = [p[tuple(size // 2 for size in p.shape)] for p in there]
    values = torch.stack([p.float() for p in probes]).cpu().numpy().tobytes() if probes else b""
    versions = sum(p._version for p in parameters if not p.is_inference())
    adapters = [
        (m.scaling, m.active_adapters, m.disable_adapters, m.merged_adapters)
        for m in model.modules()
        if "scaling" in vars(m) and "merged_adapters" in vars(m)
    ]
    described = repr((type(model).__name__, len(parameters), parameters[0].dtype, versions, adapters))
    return hashlib.blake2b(values + described.encode(), digest_size=16).digest()
