"""Guidance by a preference model's gradient on the clean latents that a prediction gives.

At a step with input x, time t and prediction f, the clean latents are x̂_0 = p x + q f (`Denoiser.x0_weights`). With L,
the loss of the sentences on the decoded picture, and g = ∂L/∂x̂_0, the prediction is changed so that x̂_0 moves
against g by a share η of its own length::

    x̂_0' = x̂_0 − η g |x̂_0|/|g|        f' = (x̂_0' − p x)/q

Since p and q are numbers, no graph goes through the denoiser, and a step costs one pass through the VAE's decoder and
the preference model, there and back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from longalign.diffusion.denoiser import Denoiser
from longalign.preference import PreferenceModel
from longalign.preference.late import late_scores
from longalign.preference.scores import SCALE
from longalign.repairing.redraw import Guide


def preference_guide(
    denoiser: Denoiser,
    scorer: PreferenceModel,
    sentences: Sequence[str],
    wanted: Sequence[int],
    *,
    strength: float = 0.1,
    between: tuple[float, float] = (0.3, 0.9),
) -> Guide:
    """A guide for `longalign.repairing.redraw`.

    Args:
        denoiser: of the pipeline, with its VAE.
        scorer: the preference model.
        sentences: of the prompt.
        wanted: numbers of those that should become true.
        strength: η.
        between: the share of the steps, from the first on, in which the guide acts.
    """
    texts = [sentences[i] for i in wanted]
    with torch.no_grad():
        pooled, tokens = scorer.text_parts(texts)
    cal = scorer.calibration
    if cal is not None and cal.kind == "aligned" and scorer.decomposition is not None:
        pooled, _ = scorer.decomposition.split(pooled)

    def loss(x_0: Tensor) -> Tensor:
        image, patches = scorer.parts_prepared(
            scorer.preprocess(denoiser.decode(x_0).float().to(scorer.device))
        )
        if patches is not None and tokens is not None:
            scores = SCALE * late_scores(patches, tokens, [len(texts)])
        else:
            scores = SCALE * (pooled @ image[0])
        if cal is None:
            return -scores.mean()
        return -logsigmoid((scores - cal.offset) / cal.temperature).mean()  # −log P(true)

    def guide(i: int, count: int, x: Tensor, f: Tensor, t: float) -> Tensor:
        if not between[0] <= (i + 0.5) / count < between[1]:
            return f
        p, q = denoiser.x0_weights(t, x)
        if float(q.abs().max()) < 1e-6:
            return f
        x_0 = (p * x + q * f).detach()
        with torch.enable_grad():
            at = x_0.clone().requires_grad_()
            (g,) = torch.autograd.grad(loss(at), at)
        length = g.norm()
        if not (torch.isfinite(length) and length > 0):
            return f
        return (x_0 - strength * x_0.norm() / length * g - p * x) / q

    return guide
