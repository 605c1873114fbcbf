"""Losses, pure functions, one an equation: of preference training (LongAlign, §2.2, §3.2, App. B.1), and below them of
soft tokens (SoftREPA and its successor).

Of preferences the paper prints the probability σ(Δ) as the loss. What is minimised is −log σ(s·Δ), with s the CLIP
logit scale, as in the training of PickScore. Everywhere

* ``image_a``, ``image_b`` (B, D) are the unit embeddings C_X of the two images of each pair,
* ``preferred`` (B,) is the share of raters who prefer a: 1, 0, or ½ for a tie,
* ``scale`` is s, the exponential of the model's ``logit_scale``,

and the result is the mean over the pairs, a scalar. Soft tokens learn from the errors E_ij (B, B) of a denoiser on
picture i under caption j; see there.
"""

from __future__ import annotations

from torch import Tensor, arange
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

Scalar = float | Tensor


def preference_nll(delta: Tensor, preferred: Tensor, scale: Scalar) -> Tensor:
    """−y log σ(sΔ) − (1 − y) log σ(−sΔ) of each pair, with y = ``preferred``: (B,) → (B,).

    A tie counts either order ½, so its loss is least, log 2, where both images score alike.
    """
    return binary_cross_entropy_with_logits(scale * delta, preferred.to(delta), reduction="none")


def margin(image_a: Tensor, image_b: Tensor, text: Tensor) -> Tensor:
    """Δ = C_X(x_a)·c − C_X(x_b)·c: (B, D) each → (B,)."""
    return ((image_a - image_b) * text).sum(-1)


# L = −log σ(s (R(x_i, p) − R(x_j, p)))                                                          Eq. 4
def pair_loss(image_a: Tensor, image_b: Tensor, text: Tensor, preferred: Tensor, scale: Scalar) -> Tensor:
    """The single-value loss. ``text`` (B, D) is the unit embedding C_P of each pair's prompt."""
    return preference_nll(margin(image_a, image_b, text), preferred, scale).mean()


# L = −log σ(s Σ_k (R(x_i, p̂_k) − R(x_j, p̂_k)) / K),  R summed over segments = C_X·C_P^seg         Eq. 6
def seg_loss(
    image_a: Tensor,
    image_b: Tensor,
    caption_a: Tensor,
    caption_b: Tensor,
    preferred: Tensor,
    scale: Scalar,
) -> Tensor:
    """The segment loss: the long caption of the preferred image must fit it better than the other image.

    Args:
        caption_a, caption_b: (B, D) C_P^seg of the two images' long captions, the mean of their segments' unit
            embeddings (`longalign.preference.segment_mean`). The caption of a counts ``preferred``, that
            of b the rest, so a tie counts both ½.
    """
    y = preferred.to(image_a)
    by_a = preference_nll(margin(image_a, image_b, caption_a), y, scale)  # (B,)
    by_b = preference_nll(margin(image_a, image_b, caption_b), y, scale)
    return (y * by_a + (1 - y) * by_b).mean()


# L^seg-a = L^seg({p̂_k}) + L(p)                                                                   Eq. 9
def seg_a_loss(
    image_a: Tensor,
    image_b: Tensor,
    text: Tensor,
    caption_a: Tensor,
    caption_b: Tensor,
    preferred: Tensor,
    scale: Scalar,
) -> Tensor:
    """Segment loss on the long captions plus pair loss on the short prompt ``text`` (B, D)."""
    on_segments = seg_loss(image_a, image_b, caption_a, caption_b, preferred, scale)
    return on_segments + pair_loss(image_a, image_b, text, preferred, scale)


# L^seg-o = L^seg with C⊥(p̂_k) in place of C_P(p̂_k), + L(p)                                      Eq. 10
def seg_o_loss(
    image_a: Tensor,
    image_b: Tensor,
    text: Tensor,
    caption_a: Tensor,
    caption_b: Tensor,
    v: Tensor,
    preferred: Tensor,
    scale: Scalar,
) -> Tensor:
    """Eq. 9 with the text-irrelevant direction taken out of the segments, which leaves it to the pair loss.

    Args:
        v: (D,) V, of unit length. It gets no gradient.
    """
    v = v.detach().to(caption_a)
    perp_a, perp_b = (c - (c @ v).unsqueeze(-1) * v for c in (caption_a, caption_b))
    return seg_a_loss(image_a, image_b, text, perp_a, perp_b, preferred, scale)


# logit_ij = s · exp(−E_ij / τ)                                                        SoftREPA
def contrastive_logits(errors: Tensor, scale: float = 4.0, temperature: float = 0.07) -> Tensor:
    """How well captions explain pictures: in (0, s], of the shape of the errors.

    Where E is many times τ nothing is left of a logit, nor of its gradient −s/τ · exp(−E/τ).
    """
    return scale * (-errors / temperature).exp()


# L = −(1/B) Σ_i log softmax_j(logit_ij)_i + λ (1/B) Σ_i E_ii                          SoftREPA
def contrastive_loss(
    errors: Tensor,
    masked: Tensor | None = None,
    *,
    scale: float = 4.0,
    temperature: float = 0.07,
    matched_weight: float = 0.0,
    symmetric: bool = False,
) -> Tensor:
    """Cross-entropy of picking each picture's own caption among all, plus λ times the own captions' mean error.

    Args:
        errors: (B, B + n) E_ij: mean squared error of the prediction on picture i under caption j, all at one time
            and with one noise. Caption i is picture i's own; the last n are further negatives, each row's own.
        masked: (B, B + n) true where caption j is no negative of picture i (it is the same caption again). Never on
            the diagonal.
        matched_weight: λ.
        symmetric: the mean of this cross-entropy and the one of picking each caption's own picture (not in the
            paper; n captions of one row alone play no part in that).
    """
    logits = contrastive_logits(errors, scale, temperature)
    if masked is not None:
        logits = logits.masked_fill(masked, float("-inf"))
    own = arange(len(errors), device=errors.device)
    loss = cross_entropy(logits, own)
    if symmetric:
        loss = (loss + cross_entropy(logits[:, : len(errors)].T, own)) / 2
    return loss + matched_weight * errors.diagonal().mean()


# r_k = −(A/2) |f̂_k − f*|²,  w = softmax_k(r / T),  Δ_k = f̂_k − Σ_l w_l f̂_l            arXiv 2605.30038
def alignment_directions(
    predictions: Tensor, target: Tensor, temperature: float = 0.1, weight: float = 1.0
) -> Tensor:
    """Where each caption pulls the prediction, away from what the captions say on average.

    w is the posterior of the captions given the noised picture, so Δ_k is −σ ∇ log p(y_k | x_t): the direction of
    classifier guidance, with the denoiser itself for the classifier.

    Args:
        predictions: (B, K, C, h, w) f̂ of each picture under K captions.
        target: (B, C, h, w) f*, what it should be: ε, or ε − x_0 of flow models, where the same direction comes out.
        temperature: T.
        weight: A. |·|² is the mean over channels and places here.

    Returns:
        (B, K, C, h, w).
    """
    r = -weight / 2 * (predictions - target[:, None]).square().flatten(2).mean(2)  # (B, K)
    w = (r / temperature).softmax(1)[..., None, None, None]
    return predictions - (w * predictions).sum(1, keepdim=True)
