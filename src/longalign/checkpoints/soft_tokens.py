"""SoftREPA's released token files: a pickled Parameter, and a pickled embedding of time buckets beside it.

dc_tokens.pth      tokens; SD1.5: (4, 768)
dc_t_tokens.pth    table over t // 10; SD1.5: (100, 768). Not every release has one
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from longalign.checkpoints.safe import read_pickle, read_tensors, write_tensors
from longalign.errors import LongalignError
from longalign.runs import atomic_write_text, json_line

TOKENS, TIME = "dc_tokens.pth", "dc_t_tokens.pth"
FILE_NAME, CONFIG = "soft_tokens.safetensors", "soft_tokens.json"


@dataclass(frozen=True)
class SoftTokenFile:
    """Trained text tokens.

    Attributes:
        tokens: (…, n, D) n tokens of width D.
        time: (buckets, D′) what is added by the time bucket, or None.
    """

    tokens: Tensor
    time: Tensor | None = None

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """``soft_tokens.safetensors`` and a configuration of the shapes. Raises LongalignError: the disk refuses."""
        folder = Path(folder)
        time = {} if self.time is None else {"time": self.time}
        write_tensors(folder / FILE_NAME, {"tokens": self.tokens, **time})
        config = {
            "tokens": self.tokens.shape[-2],
            "width": self.tokens.shape[-1],
            "time_buckets": None if self.time is None else self.time.shape[0],
        }
        atomic_write_text(folder / CONFIG, json_line(config))
        return folder / FILE_NAME

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> SoftTokenFile:
        """What `write` wrote. Raises LongalignError: no such file, or damaged."""
        path = Path(folder) / FILE_NAME
        found, _ = read_tensors(path)
        if "tokens" not in found:
            raise LongalignError(f"{path}: holds no 'tokens'")
        return cls(found["tokens"], found.get("time"))


def read_published(folder: str | os.PathLike[str]) -> SoftTokenFile:
    """Read ``dc_tokens.pth``, and ``dc_t_tokens.pth`` where there is one, without running code that they may hold.

    Raises:
        LongalignError: damaged, or something else in them.
    """
    folder = Path(folder)
    tokens = read_pickle(folder / TOKENS)
    if not isinstance(tokens, Tensor) or tokens.ndim < 2:
        raise LongalignError(f"{folder / TOKENS}: holds no tokens (n, D)")
    time = None
    if (folder / TIME).is_file():
        table = read_pickle(folder / TIME, allow=(nn.modules.sparse.Embedding,))
        time = getattr(table, "weight", table)
        if not isinstance(time, Tensor) or time.ndim != 2:
            raise LongalignError(f"{folder / TIME}: holds no table of time buckets")
        time = time.detach()
    return SoftTokenFile(tokens.detach(), time)
