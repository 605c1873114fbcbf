"""Soft tokens on a whole pipeline: found by name, attached, and described in reports."""

from __future__ import annotations

from contextlib import AbstractContextManager

from longalign.backbones import denoising_module
from longalign.backbones.base import Pipeline
from longalign.soft_tokens.attachment import Attachment, branch
from longalign.soft_tokens.tokens import SoftTokens


def attach_tokens(pipe: Pipeline, name: str, *, scale: float = 1.0, branches: str = "both") -> Attachment:
    """Attach trained soft tokens to a pipeline's UNet or transformer, until `detach` or the end of a ``with`` block.

    Args:
        name: as of `SoftTokens.from_pretrained`.
        scale: from 0 (as if there were none) to 1.
        branches: those of classifier-free guidance that get tokens: ``both``, ``cond`` or ``uncond``. All but ``both``
            need `guided_rows` around the pipeline's calls; `longalign.diffusion.sampling.sample` does this.

    Raises:
        LongalignError: there are none, or they are for another backbone.
    """
    return SoftTokens.from_pretrained(name).attach(denoising_module(pipe), scale=scale, branches=branches)  # type: ignore[arg-type]  # checked there


def guided_rows(pipe: Pipeline, guidance: float | None) -> AbstractContextManager[None]:
    """Says which rows of a pipeline's batches are conditional, for soft tokens that are for one branch alone.

    SD3's skip-layer guidance calls the transformer a third time, with the conditional rows alone; that is not
    supported.

    Args:
        pipe: a diffusers pipeline.
        guidance: the pipeline's guidance scale. More than 1 doubles the batch. None is the pipeline's default, which
            is
            more than 1.
    """
    return branch(denoising_module(pipe), "cfg" if guidance is None or guidance > 1 else "cond")


def describe_tokens(name: str, scale: float, branches: str = "both") -> str:
    """Soft tokens in words, for reports."""
    scaled = "" if scale == 1 else f", scale {scale:g}"
    return name + scaled + ("" if branches == "both" else f", {branches} alone")
