"""Orthogonal decomposition of text embeddings (LongAlign, §4.1): what depends on the text, and what does not.

All texts share one direction V. A score along it says nothing about the text and much about looks; what remains,
C⊥, is alignment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longalign.errors import LongalignError
from longalign.runs import atomic_write_bytes
from longalign.safe_files import serialised
from longalign.worlds import resolve_beside

FILE_NAME = "decomposition.safetensors"  # beside the weights of the preference model
_FORMAT = "longalign.decomposition"
_HASH_BITS = 256


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The common direction V of a model's text embeddings, and the sums it comes from.

    Sums, so that a prompt set of any size takes one pass and shards can be merged.

    Attributes:
        total: (D,) float64, the sum of the embeddings.
        count: how many they are.
        source: hash of the prompts (see `prompt_hash`); "" where embeddings were given.
    """

    total: Tensor
    count: int
    source: str = ""

    @classmethod
    def fit(cls, embeddings: Tensor | Iterable[Tensor], source: str = "") -> Decomposition:
        """One pass over (N, D) embeddings, whole or in batches. Each must be one prompt's C_P or C_P^seg.

        Given the texts of one training batch it is the batch estimate of the released reward code.

        Raises:
            LongalignError: no embedding at all, batches of different widths, numbers that are not finite.
        """
        total, count = torch.zeros(0, dtype=torch.float64), 0
        for batch in [embeddings] if isinstance(embeddings, Tensor) else embeddings:
            if batch.ndim != 2:
                raise LongalignError(f"embeddings must be (N, D), not {tuple(batch.shape)}")
            added = batch.detach().to("cpu", torch.float64).sum(0)  # (D,)
            if count and added.shape != total.shape:
                raise LongalignError(
                    f"embeddings of width {len(added)} after those of width {len(total)}: "
                    "are they all from one model?"
                )
            total = total + added if count else added
            count += len(batch)
        if not count:
            raise LongalignError("the decomposition needs at least one embedding: is the prompt set empty?")
        if not total.isfinite().all():
            raise LongalignError("an embedding is not finite: try the model in float32")
        return cls(total, count, source)

    def merge(self, other: Decomposition) -> Decomposition:
        """The decomposition of both prompt sets together, such as the shards of several processes."""
        self.check_width(other.width)
        source = _add_hashes(self.source, other.source) if self.source and other.source else ""
        return Decomposition(self.total + other.total, self.count + other.count, source)

    @property
    def width(self) -> int:
        """D."""
        return len(self.total)

    @property
    def mean_length(self) -> float:
        """|E C_P|, from 0 (no common direction) to 1 (all embeddings equal); also the mean of η."""
        return self.total.norm().item() / self.count

    # V = E[C_P] / |E[C_P]|
    @cached_property
    def V(self) -> Tensor:
        """(D,) float64, unit length.

        Raises:
            LongalignError: the embeddings have no common direction (their mean is zero).
        """
        if self.mean_length < 1e-6:
            raise LongalignError("the embeddings have no common direction: their mean is zero")
        return self.total / self.total.norm()

    def v_like(self, c: Tensor) -> Tensor:
        """V with the device and dtype of embeddings (…, D).

        Raises:
            LongalignError: they have another width.
        """
        self.check_width(c.shape[-1])
        return self.V.to(c.dtype).to(c.device)  # in this order: not every device has float64

    # η = C_P·V,  C⊥ = C_P − ηV
    def split(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """(…, D) embeddings → (…, D) C⊥ and (…) η. Linear, so it may come before or after a mean of segments."""
        v = self.v_like(c)
        eta = c @ v
        return c - eta.unsqueeze(-1) * v, eta

    # C⊥ + ω ηV
    def reweight(self, c: Tensor, omega: float) -> Tensor:
        """(…, D) → (…, D), the text side of the reweighted reward (Eq. 8); ω = 1 changes nothing."""
        c_perp, eta = self.split(c)
        return c_perp + omega * eta.unsqueeze(-1) * self.v_like(c)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write as safetensors: `sum` (D,), with `count` and `source` as metadata."""
        metadata = {"format": _FORMAT, "count": str(self.count), "source": self.source}
        return atomic_write_bytes(path, serialised({"sum": self.total.contiguous()}, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str], width: int | None = None) -> Decomposition:
        """Read what `save` wrote.

        Args:
            path: the file, the folder that holds it (a run of `longalign decompose`, a preference model), or an
                embedded preference model such as ``stickers/denscore``.
            width: the width D of the model's embeddings, if known.

        Raises:
            LongalignError: no such file, a file of another kind, or a V of another width.
        """
        path = resolve_beside(path, FILE_NAME)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise LongalignError(f"{path}: holds tensors, but no decomposition of longalign")
                total = file.get_tensor("sum")
        except FileNotFoundError:
            raise LongalignError(f"{path}: no such decomposition file") from None
        except (SafetensorError, OSError) as error:
            raise LongalignError(f"{path}: cannot be read as safetensors: {error}") from error
        found = cls(total, int(metadata["count"]), metadata.get("source", ""))
        if width is not None:
            found.check_width(width, f"{path}: ")
        return found

    def check_width(self, width: int, where: str = "") -> None:
        """Raises `LongalignError`, its message beginning with ``where``, unless V has this width."""
        if width != self.width:
            raise LongalignError(
                f"{where}V has width {self.width}, but the embeddings have width {width}: "
                "it was made for another preference model; make one with this model"
            )


def fit_prompts(model: Any, prompts: Iterable[str], *, chunk: int = 1024) -> Decomposition:
    """V of a prompt set of any size, in one pass: every prompt counts once, as the mean of its segments (C_P^seg).

    Args:
        model: a `longalign.preference.PreferenceModel`.
        prompts: an iterator is read ``chunk`` prompts at a time; equal segments of a chunk are encoded once.

    Raises:
        LongalignError: no prompts.
    """
    source = ""

    def batches() -> Iterator[Tensor]:
        nonlocal source
        stream = iter(prompts)
        while texts := list(islice(stream, chunk)):
            for text in texts:
                source = _add_hashes(source, prompt_hash(text))
            with torch.no_grad():
                yield model.text_mean(texts)  # (chunk, D)

    fitted = Decomposition.fit(batches())
    return Decomposition(fitted.total, fitted.count, source)


def prompt_hash(prompt: str) -> str:
    """SHA-256, 64 hexadecimal digits. The hash of a set is the sum of its members' (mod 2²⁵⁶).

    So it does not depend on their order, nor on how they were divided among processes.
    """
    return hashlib.sha256(prompt.encode()).hexdigest()


def _add_hashes(a: str, b: str) -> str:
    total = (int(a or "0", 16) + int(b or "0", 16)) % (1 << _HASH_BITS)
    return f"{total:0{_HASH_BITS // 4}x}"
