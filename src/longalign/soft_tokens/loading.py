"""Soft tokens on a whole pipeline: from a file, for its guidance, and by name in reports."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from longalign.backbones import denoising_module
from longalign.soft_tokens.attachment import Attachment, branch
from longalign.soft_tokens.tokens import FILE_NAME, SoftTokens
from longalign.worlds import owner


def resolve_tokens(name: str | os.PathLike[str]) -> Path:
    """The folder or file that a name stands for: ``stickers/softrepa`` and other embedded ones (`token_names`) by name.

    Of a run folder of `longalign train`, the ``model`` in it.

    Raises:
        LongalignError: there are no embedded soft tokens of this name.
    """
    told = os.fspath(name)
    if "/" in told and (of_world := owner(told)) is not None:
        return of_world.token_folder(told)
    path = Path(name)
    trained = path / "model"
    return trained if (trained / FILE_NAME).is_file() and not (path / FILE_NAME).is_file() else path


def load_tokens(name: str | os.PathLike[str]) -> SoftTokens:
    """Trained soft tokens.

    Args:
        name: their file, or the folder that it is in; a run folder of `longalign train`; ``stickers/softrepa`` and the
            other embedded ones.

    Raises:
        LongalignError: there are none, or they cannot be read.
    """
    return SoftTokens.from_pretrained(resolve_tokens(name))


def put_on(pipe: Any, name: str, *, scale: float = 1.0, branches: str = "both") -> Attachment:
    """Attach trained soft tokens to a pipeline's UNet or transformer, until `detach` or the end of a ``with`` block.

    Args:
        name: as in `load_tokens`.
        scale: from 0 (as if there were none) to 1.
        branches: of classifier-free guidance: ``both``, ``cond`` or ``uncond``. All but the first need `guided_rows`
            around the pipeline's calls, as `longalign.diffusion.sampling.sample` has it.

    Raises:
        LongalignError: there are none, or they are for another backbone.
    """
    return load_tokens(name).attach(denoising_module(pipe), scale=scale, branches=branches)  # type: ignore[arg-type]  # checked there


def guided_rows(pipe: Any, guidance: float | None) -> AbstractContextManager[None]:
    """Tells soft tokens that are for one branch alone which rows of a pipeline's batches are which.

    SD3's skip-layer guidance calls the transformer a third time, with the conditional rows alone: that cannot be told.

    Args:
        guidance: of the pipeline. More than 1 doubles the batch; None is its default, which does, too.
    """
    return branch(denoising_module(pipe), "cfg" if guidance is None or guidance > 1 else "cond")


def told(name: str, scale: float, branches: str = "both") -> str:
    """Soft tokens as reports name them."""
    scaled = "" if scale == 1 else f", scale {scale:g}"
    return name + scaled + ("" if branches == "both" else f", {branches} alone")
