"""SoftREPA's released token files: a pickled Parameter, and a pickled embedding of time buckets beside it.

    dc_tokens.pth      (4, 768) SD1.5, (4, 2048) SDXL, (5, 4, 1536) SD3, or (5, 4, 4096) for the context embedder
    dc_t_tokens.pth    table over ⌊t/10⌋: (100, 768), (100, 5·1536). Not every release has one

Which stages of a UNet they are for stands in no file: the paper's are taken (SD1.5 down; SDXL down and mid).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from longalign.backbones import BACKBONES, backbone_named
from longalign.errors import LongalignError
from longalign.safe_files import check_shapes, read_pickle
from longalign.soft_tokens import SoftTokenConfig, SoftTokens

TOKENS, TIME = "dc_tokens.pth", "dc_t_tokens.pth"


def read_published(folder: str | os.PathLike[str]) -> SoftTokens:
    """Read ``dc_tokens.pth``, and ``dc_t_tokens.pth`` where there is one, without running code that they may hold.

    Raises:
        LongalignError: damaged, something else in them, of no backbone's shape, or NaN.
    """
    folder = Path(folder)
    tokens = read_pickle(folder / TOKENS)
    if not isinstance(tokens, Tensor) or tokens.ndim not in (2, 3):
        raise LongalignError(f"{folder / TOKENS}: holds no tokens (n, D) or (layers, n, D)")
    width = tokens.shape[-1]
    families = [
        (family, places)
        for family in BACKBONES
        if (places := backbone_named(family).token_places) is not None
        and (tokens.ndim, width) in places.released
    ]
    if not families:
        raise LongalignError(
            f"{folder / TOKENS}: tokens of shape {tuple(tokens.shape)} are for no backbone that is known; the "
            "last size is 768 for SD1.5, 2048 for SDXL, and 1536 or 4096 for SD3, with its layers first"
        )
    [(family, places), *_] = families
    layers = tokens.shape[0] if places.joint else 1
    values = {"tokens": tokens.detach().reshape(layers, *tokens.shape[-2:])}
    changes: dict[str, Any] = {"count": tokens.shape[-2], "layers": layers, "buckets": None}
    if width != places.published["width"]:  # before the context embedder
        changes["token_width"] = width
    config = SoftTokenConfig.published(family, **changes)
    if (folder / TIME).is_file():
        time = _read_time(folder / TIME)  # (buckets, layers·D)
        changes["buckets"] = len(time)
        config = SoftTokenConfig.published(family, **changes)
        check_shapes(
            {"table": time.shape},
            {"table": (len(time), layers * config.width)},
            f"{folder / TIME}: time buckets",
        )
        values["time"] = time.reshape(len(time), layers, config.width)
    return SoftTokens.of_values(config, values, str(folder))


def _read_time(path: Path) -> Tensor:
    table = read_pickle(path, allow=(nn.modules.sparse.Embedding,))
    time = getattr(table, "weight", table)
    if not isinstance(time, Tensor) or time.ndim != 2:
        raise LongalignError(f"{path}: holds no table of time buckets")
    return time.detach()
