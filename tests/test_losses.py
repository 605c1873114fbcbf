"""The losses of preference training and of soft tokens, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from longalign.losses import (
    alignment_directions,
    contrastive_logits,
    contrastive_loss,
    margin,
    pair_loss,
    preference_nll,
    seg_a_loss,
    seg_loss,
    seg_o_loss,
)

X = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
Y = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
Z = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
A_WINS, TIE, B_WINS = (torch.tensor([y], dtype=torch.float64) for y in (1.0, 0.5, 0.0))


def nll(delta: float) -> float:
    return math.log(1 + math.exp(-delta))


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def test_pair_loss_by_hand() -> None:
    """Image a is the text itself, b is at right angles: Δ = 1 − 0. With s = 2: −log σ(2) = 0.1269.

    If b was preferred it is −log σ(−2) = 2.1269, and for a tie the mean of both, 1.1269.
    """
    assert pair_loss(X, Y, X, A_WINS, 2.0).item() == pytest.approx(nll(2), rel=1e-12)
    assert pair_loss(X, Y, X, B_WINS, 2.0).item() == pytest.approx(nll(-2), rel=1e-12)
    assert pair_loss(X, Y, X, TIE, 2.0).item() == pytest.approx((nll(2) + nll(-2)) / 2, rel=1e-12)
    assert nll(2) == pytest.approx(0.1269, abs=1e-4)


def test_pair_loss_is_the_mean_over_pairs() -> None:
    """Pairs of Δ = 1 and Δ = −1 at s = 1: (log(1 + e⁻¹) + log(1 + e)) / 2 = 0.8133."""
    images_a, images_b, text = torch.cat([X, Y]), torch.cat([Y, X]), torch.cat([X, X])
    loss = pair_loss(images_a, images_b, text, torch.ones(2), 1.0).item()
    assert loss == pytest.approx((nll(1) + nll(-1)) / 2) == pytest.approx(0.8133, abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.floats(-8, 8), st.floats(0.1, 100))
def test_it_is_the_softmax_over_the_two_scores_that_pickscore_uses(delta: float, scale: float) -> None:
    """−Σ y_i log softmax(s·R)_i with y = (y, 1 − y), for R = (Δ, 0)."""
    log_p = torch.log_softmax(scale * torch.tensor([delta, 0.0], dtype=torch.float64), 0)
    for y in (0.0, 0.5, 1.0):
        expected = -(y * log_p[0] + (1 - y) * log_p[1])
        got = preference_nll(torch.tensor([delta], dtype=torch.float64), torch.tensor([y]), scale)
        assert got.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)


def test_a_tie_is_least_where_both_images_score_alike() -> None:
    """Its minimum is log 2 at Δ = 0, and the gradient there is 0."""
    delta = torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64, requires_grad=True)
    losses = preference_nll(delta, torch.full((3,), 0.5), 10.0)
    assert losses.argmin() == 1 and losses[1].item() == pytest.approx(math.log(2))
    assert torch.autograd.grad(losses.sum(), delta)[0][1] == 0


def test_large_margins_stay_finite() -> None:
    """s·Δ = −200: the loss is 200, not −log of a σ that is 0 in float32."""
    loss = pair_loss(-X.float(), X.float(), X.float(), torch.ones(1), 100.0)
    assert loss.item() == pytest.approx(200.0)


def test_seg_loss_by_hand() -> None:
    """The caption of a says X and Y: its mean is (½, ½, 0). With images X and Z, Δ = ½ − 0; s = 4 gives −log σ(2).

    The caption of b, here at random, plays no part when a wins; only it does when b wins: with (0, 0, 1),
    Δ = 0 − 1 and the loss is −log σ(4).
    """
    caption_a = (X + Y) / 2
    assert seg_loss(X, Z, caption_a, units(1, 3), A_WINS, 4.0).item() == pytest.approx(nll(2))
    assert seg_loss(X, Z, caption_a, Z, B_WINS, 4.0).item() == pytest.approx(nll(4))


def test_a_tie_counts_both_captions_one_half() -> None:
    """Each caption at ½, each order at ½: ¼ (ℓ(2) + ℓ(−2)) + ¼ (ℓ(4) + ℓ(−4)) for sΔ = 2 and −4."""
    loss = seg_loss(X, Z, (X + Y) / 2, Z, TIE, 4.0).item()
    assert loss == pytest.approx((nll(2) + nll(-2) + nll(4) + nll(-4)) / 4)


def test_one_segment_alike_on_both_sides_is_the_pair_loss() -> None:
    """K = 1 turns Eq. 6 into Eq. 4."""
    a, b, text = units(5, 3), units(5, 3, seed=1), units(5, 3, seed=2)
    y = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0])
    assert torch.allclose(seg_loss(a, b, text, text, y, 7.0), pair_loss(a, b, text, y, 7.0), rtol=1e-12)


def test_seg_a_is_the_sum_of_both() -> None:
    """Captions: −log σ(2) as above. Prompt Z: Δ = 0 − 1, −log σ(−4)."""
    loss = seg_a_loss(X, Z, Z, (X + Y) / 2, Z, A_WINS, 4.0).item()
    assert loss == pytest.approx(nll(2) + nll(-4))


def test_seg_o_by_hand() -> None:
    """V = Y takes Y out of the caption: C⊥ = (½, 0, 0). Images (X + Y)/√2 and X: without V, Δ = 1/√2 − ½ > 0.

    With V taken out it is 1/(2√2) − ½ < 0. Prompt Z scores both 0, so its part is log 2.
    """
    a = (X + Y) / math.sqrt(2)
    loss = seg_o_loss(a, X, Z, (X + Y) / 2, Z, Y[0], A_WINS, 1.0).item()
    assert loss == pytest.approx(nll(1 / (2 * math.sqrt(2)) - 0.5) + math.log(2))
    assert margin(a, X, (X + Y) / 2).item() > 0


def test_seg_o_gives_the_segments_no_gradient_along_v() -> None:
    """Only the prompt trains the text-irrelevant direction, and V itself gets no gradient.

    So with the prompt's part taken off, ∂/∂(caption) and ∂/∂(image) are at right angles to V.
    """
    a, b, text = (units(4, 6, seed=i).requires_grad_() for i in range(3))
    captions = [units(4, 6, seed=i).requires_grad_() for i in (3, 4)]
    v = units(6, seed=5).requires_grad_()
    y = torch.tensor([1.0, 0.0, 0.5, 1.0], dtype=torch.float64)
    rest = seg_o_loss(a, b, text, *captions, v, y, 5.0) - pair_loss(a, b, text, y, 5.0)
    for gradient in torch.autograd.grad(rest, [a, b, *captions], retain_graph=True):
        assert (gradient @ v.detach()).abs().max() < 1e-12 < gradient.norm()
    assert torch.autograd.grad(rest, v, allow_unused=True)[0] is None


def test_half_precision_labels_and_a_learned_scale() -> None:
    """Labels of any type serve, and the logit scale gets a gradient."""
    scale = torch.tensor(2.0, requires_grad=True)
    for y in (torch.tensor([1]), torch.tensor([1.0], dtype=torch.float16), torch.tensor([True])):
        loss = seg_a_loss(X, Y, X, X, X, y, scale)
        assert loss.item() == pytest.approx(2 * nll(2))
    assert torch.autograd.grad(loss, scale)[0].item() == pytest.approx(-2 / (1 + math.exp(2)))


E = torch.tensor([[0.0, 0.07], [0.14, 0.07]], dtype=torch.float64)


def test_contrastive_loss_by_hand() -> None:
    """τ = 0.07 and s = 4: logits 4·(1, e⁻¹ | e⁻², e⁻¹) = (4, 1.4715 | 0.5413, 1.4715).

    Row 0: log(1 + e^(1.4715 − 4)) = 0.0768; row 1: log(1 + e^(0.5413 − 1.4715)) = 0.3325. With λ = 10 comes
    10 · (0 + 0.07)/2 = 0.35.
    """
    rows = [math.log(1 + math.exp(4 / math.e - 4)), math.log(1 + math.exp(4 / math.e**2 - 4 / math.e))]
    assert rows == pytest.approx([0.0768, 0.3325], abs=1e-4)
    torch.testing.assert_close(contrastive_logits(E)[1, 0], torch.tensor(4 / math.e**2, dtype=torch.float64))
    assert contrastive_loss(E).item() == pytest.approx(sum(rows) / 2)
    assert contrastive_loss(E, matched_weight=10.0).item() == pytest.approx(sum(rows) / 2 + 0.35)


def test_contrastive_loss_of_captions_over_pictures() -> None:
    """Symmetric: the mean with the columns' log(1 + e^(0.5413 − 4)) = 0.0310 and log(1 + e^0) = 0.6931."""
    columns = [math.log(1 + math.exp(4 / math.e**2 - 4)), math.log(2)]
    expected = (contrastive_loss(E).item() + sum(columns) / 2) / 2
    assert contrastive_loss(E, symmetric=True).item() == pytest.approx(expected)
    wide = torch.cat([E, torch.zeros(2, 1, dtype=torch.float64)], dim=1)
    assert contrastive_loss(wide, symmetric=True).item() == pytest.approx(
        (contrastive_loss(wide).item() + sum(columns) / 2) / 2
    )


def test_contrastive_loss_without_what_is_no_negative() -> None:
    """Row 0 has nothing else left and loses 0; row 1 has a third caption like the second: log(1 + e^−0.9302 + 1).

    The masked pair has no gradient.
    """
    errors = torch.cat([E, E[:, 1:]], dim=1).requires_grad_()
    masked = torch.tensor([[False, True, True], [False, False, False]])
    loss = contrastive_loss(errors, masked)
    row = math.log(2 + math.exp(4 / math.e**2 - 4 / math.e))
    assert loss.item() == pytest.approx(row / 2)
    loss.backward()
    assert errors.grad is not None and (errors.grad[0] == 0).all() and (errors.grad[1] != 0).all()


def test_contrastive_gradient_dies_far_from_the_temperature() -> None:
    """−s/τ · exp(−E/τ): at E = 20 τ it is 2·10⁻⁹ of what it is at 0. It stays finite."""
    errors = torch.tensor([[1.4, 1.4], [0.0, 0.07]], requires_grad=True)
    contrastive_loss(errors).backward()
    assert errors.grad is not None and 0 < errors.grad[0].abs().max() < 1e-6 < errors.grad[1].abs().max()


def test_alignment_directions_by_hand() -> None:
    """One picture of one number, f* = 0, predictions 1 and 3, A = 2, T = 4: r = (−1, −9), w = softmax(−¼, −9/4).

    w = (σ(2), σ(−2)) = (0.8808, 0.1192), the mean is 1.2384, Δ = (−0.2384, 1.7616).
    """
    predictions = torch.tensor([1.0, 3.0], dtype=torch.float64).view(1, 2, 1, 1, 1)
    found = alignment_directions(
        predictions, torch.zeros(1, 1, 1, 1, dtype=torch.float64), 4.0, 2.0
    ).flatten()
    assert found.tolist() == pytest.approx([-0.2384, 1.7616], abs=1e-4)
    w = 1 / (1 + math.exp(-2))
    assert found.tolist() == pytest.approx([1 - (3 - 2 * w), 3 - (3 - 2 * w)])
