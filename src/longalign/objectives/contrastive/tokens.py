"""New soft tokens for a model, as a recipe's section `contrastive` says."""

from __future__ import annotations

from typing import Any

import torch

from longalign.data.text_states import TextSide, join
from longalign.diffusion.denoiser import Denoiser
from longalign.errors import LongalignError
from longalign.objectives.contrastive.settings import ContrastiveSettings
from longalign.soft_tokens import SoftTokenConfig, SoftTokens


def new_tokens(
    denoiser: Denoiser, settings: ContrastiveSettings, texts: TextSide, adapter: Any = None, base: str = ""
) -> SoftTokens:
    """Soft tokens on the denoiser's device, attached to nothing yet.

    Args:
        texts, adapter: what encodes the empty prompt, from whose first state those of SD1.5 start.
        base: name of the model, which is saved with them.

    Raises:
        LongalignError: stages, layers or a start that this backbone has not.
    """
    changes: dict[str, Any] = {"count": settings.tokens, "base": base}
    for name in ("stages", "layers"):
        if getattr(settings, name) is not None:
            changes[name] = getattr(settings, name)
    if settings.time_tokens is not None:
        changes["buckets"] = 100 if settings.time_tokens else None
    config = SoftTokenConfig.of(denoiser.module, **changes)
    if (settings.start or config.places.start) == "random":
        return SoftTokens(config).to(denoiser.device)
    if config.places.joint:
        raise LongalignError(
            f"contrastive.start empty: {denoiser.backbone.abbreviation}'s tokens stand after its context embedder, "
            "and the empty prompt's states before it; take random"
        )
    with torch.no_grad():
        [(_, empty)] = join(texts.encode([""]), texts.padding, adapter)
    start = empty.embeds[0, 0].cpu()  # (D,), with CLIP the same for every prompt
    return SoftTokens(config, start=start, noise=settings.start_noise).to(denoiser.device)


def check_size(denoiser: Denoiser, size_px: int) -> None:
    """Can the model take square pictures of this side?

    Raises:
        LongalignError: no; what it can take is named.
    """
    unit, most = denoiser.backbone.sizes_px(denoiser.module, denoiser.vae_factor)
    if size_px % unit or (most is not None and size_px > most):
        limit = "" if most is None else f", at most {most}"
        raise LongalignError(
            f"pictures of {size_px} px do not match the model, which takes multiples of {unit}{limit}: leave "
            f"data.size_px out for its own {denoiser.side * denoiser.vae_factor}, or cache the data at that size"
        )
