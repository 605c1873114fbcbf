"""Soft tokens by contrast: the two-pass gradient, negatives over processes, options, what is saved and refused."""

from __future__ import annotations

import copy
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_contrastive
import torch
from picture_objectives import LENGTH, SIDE_PX, TEXTS, Pictures, accelerator, batch_of, data, gradients
from segment_encoding import encode
from tiny_contrastive import RUNS, contrastive, errors_at_once, recipe, registered
from tiny_objectives import saved
from torch.nn.functional import cross_entropy
from two_processes import two

import longalign.objectives.contrastive.pairs as module
from longalign.data.cache import CacheBuilder
from longalign.data.cached import CachedPictures
from longalign.data.captioned import CaptionedPictures
from longalign.data.text_states import TextSide
from longalign.diffusion.denoiser import Denoiser
from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError
from longalign.losses import contrastive_loss
from longalign.objectives.contrastive.guided import choose_negatives, wearing
from longalign.objectives.contrastive.pairs import (
    Caption,
    Matching,
    gather_captions,
    near_caption,
    same_captions,
)
from longalign.objectives.contrastive.settings import ContrastiveSettings
from longalign.objectives.contrastive.tokens import new_tokens
from longalign.objectives.random_draws import Draws
from longalign.soft_tokens import SoftTokens
from longalign.stickers.captions import caption, is_true, parse_all, text_of
from longalign.stickers.world import scene
from longalign.training import fit, read_recipe
from longalign.training.checkpoint import read_parts
from longalign.weights.stack import (
    load_pipeline,
)

PIPES = {"sd15": tiny.tiny_sd15, "sdxl": tiny.tiny_sdxl, "sd3": tiny.tiny_sd3}


def one_pass(objective: Any, batch: Any, seed: int, loss_of: Any) -> dict[str, torch.Tensor]:
    """Gradients of a loss of all E, as autograd has them from one graph."""
    x0, states, padding = objective.encode(batch)
    x0 = x0.double()
    torch.manual_seed(seed)
    common = Draws.now(len(x0)).common()
    t = objective.times(torch.rand((), generator=common))
    eps = torch.randn(x0.shape[1:], generator=common, dtype=x0.dtype)
    loss_of(errors_at_once(objective, x0, t, eps, states, padding)).backward()
    return gradients(objective)


def two_pass(objective: Any, batch: Any, seed: int) -> tuple[Any, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    x0, states, padding = objective.encode(batch)
    found = objective.learn(x0.double(), states, padding, accelerator())
    return found, gradients(objective)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", PIPES)
def test_two_passes_have_the_gradient_of_one(family: str, checkpointing: bool) -> None:
    """16 pairs by threes, of two padded lengths, against one graph of all: to rounding in float64."""
    objective = contrastive(PIPES[family](), matched_weight=0.5, gradient_checkpointing=checkpointing)
    batch = batch_of(objective)

    def loss_of(errors: torch.Tensor) -> torch.Tensor:
        own = cross_entropy(4 * (-errors / 2.0).exp(), torch.arange(4))
        return own + 0.5 * errors.diagonal().mean()

    expected = one_pass(objective, batch, 7, loss_of)
    found, grads = two_pass(objective, batch, 7)
    assert (
        grads.keys()
        == expected.keys()
        == {f"soft_tokens.{n}" for n, _ in objective.tokens.named_parameters()}
    )
    for name, g in grads.items():
        assert g.abs().max() > 1e-6
        torch.testing.assert_close(g, expected[name], rtol=1e-9, atol=1e-12)
    assert set(found) == {"loss", "contrast", "accuracy", "matched"}


@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_the_chunk_size_changes_nothing(at_once: int) -> None:
    """64 takes all pairs of a padded length together."""
    batch = batch_of(contrastive())
    _, whole = two_pass(contrastive(), batch, 2)
    _, parts = two_pass(contrastive(pairs_at_once=at_once), batch, 2)
    for name, g in whole.items():
        torch.testing.assert_close(parts[name], g, rtol=1e-9, atol=1e-12)


def test_no_pair_is_computed_in_vain() -> None:
    """4 × 4 pairs: 12 under the three short captions, then 4 under the long one, which keep their graph. Each of the
    other 12 is computed twice unless its weight is 0. Here only E_ii of the first row has one: once more, one pair.
    """
    objective = contrastive(pairs_at_once=4)
    x0, states, padding = objective.encode(batch_of(objective))
    calls: list[tuple[int, bool]] = []
    matching = Matching(
        objective.denoiser, x0.double(), torch.tensor(10), x0[0].double(), states, padding, None, 4
    )
    own = matching.predictions

    def predictions(pairs: torch.Tensor) -> torch.Tensor:
        calls.append((len(pairs), torch.is_grad_enabled()))
        return own(pairs)

    matching.predictions = predictions  # type: ignore[method-assign]
    weight = torch.zeros(16, dtype=torch.float64)
    weight[0] = 1
    matching.backward(matching.every_pair(), lambda errors: weight, accelerator())
    assert calls == [(4, False)] * 3 + [(4, True), (1, True)]
    assert objective.tokens.tokens.grad is not None and objective.tokens.tokens.grad.abs().max() > 0


def test_pairs_of_little_weight_can_be_left_out() -> None:
    """Weights of 1 in 4 of 16 pairs and of less than a half in others: with ½ only the 4 get a gradient."""
    objective = contrastive(skip_below=0.5, matched_weight=40.0)
    weights, _ = objective._weighed(
        torch.rand(4, 4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.bool)
    )
    assert torch.equal(weights != 0, torch.eye(4, dtype=torch.bool))
    exact, _ = contrastive(matched_weight=40.0)._weighed(
        torch.rand(4, 4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.bool)
    )
    assert (exact != 0).all()


def test_a_caption_stands_at_its_own_padded_length() -> None:
    """E of picture i under caption j is the same whoever else is in the batch."""
    objective = contrastive()
    x0, states, padding = objective.encode(batch_of(objective))
    place = (x0.double(), torch.tensor(400), torch.ones(x0.shape[1:], dtype=torch.float64))
    whole = Matching(objective.denoiser, *place, states, padding, None, 5).matrix()
    for j in range(4):
        one = Matching(objective.denoiser, *place, [states[j]], padding, None, 2).matrix()
        torch.testing.assert_close(whole[:, j : j + 1], one, rtol=1e-9, atol=0)
    assert len({s.shape for s in states}) == 2


def test_one_time_and_one_noise_for_the_batch() -> None:
    objective = contrastive()
    seen: list[Any] = []
    module = objective.denoiser.module

    def note(_: Any, args: Any, kwargs: Any) -> None:
        seen.append((args[0] if args else kwargs["sample"], args[1] if len(args) > 1 else kwargs["timestep"]))

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    two_pass(
        objective, {**batch_of(objective), "image": torch.zeros(4, 3, SIDE_PX, SIDE_PX, dtype=torch.uint8)}, 5
    )
    handle.remove()
    # All pictures are the same one here, so all noised ones are.
    assert len({float(t) for _, times in seen for t in times}) == 1
    rows = torch.cat([x for x, _ in seen])
    torch.testing.assert_close(rows, rows[:1].expand_as(rows), rtol=0, atol=0)


def test_equal_captions_are_no_negatives() -> None:
    """Rows 0 and 2 have one text. Masked: among "a b a", row 0 is told from b alone, and E_02 has no gradient."""
    assert same_captions(["a", "b", "a"]).tolist() == [
        [False, False, True],
        [False, False, False],
        [True, False, False],
    ]
    assert same_captions(["a", "b", "a"], 2, 1).tolist() == [[True, False, False]]
    objective = contrastive(matched_weight=0.0)
    batch = {**batch_of(objective), "texts": ["A cat.", "A tree.", "A cat.", "The red house."]}
    mask = same_captions(batch["texts"])
    expected = one_pass(objective, batch, 3, lambda e: contrastive_loss(e, mask, temperature=2.0))
    _, found = two_pass(objective, batch, 3)
    for name, g in found.items():
        torch.testing.assert_close(g, expected[name], rtol=1e-9, atol=1e-12)
    plain = one_pass(objective, batch, 3, lambda e: contrastive_loss(e, temperature=2.0))
    assert any((plain[name] - g).abs().max() > 1e-6 for name, g in found.items())


def test_cached_captions_are_told_apart_by_their_states(tmp_path: Path) -> None:
    pipe = tiny.tiny_sd15()
    rows = data(8)  # captions 0 to 3 twice
    CacheBuilder(tmp_path / "cache", pipe, TextSide(pipe, "clip-cat", LENGTH), SIDE_PX).build(rows.source)
    objective = contrastive(rows=CachedPictures(tmp_path / "cache"))
    _, states, _ = objective.encode(batch_of(objective, 8))
    keys = [s.key for s in states]  # type: ignore[attr-defined]
    assert torch.equal(same_captions(keys), same_captions(list(TEXTS) * 2)) and len(set(keys)) == 4
    assert all(p.device.type == "cpu" for p in pipe.text_encoder.parameters())
    with pytest.raises(LongalignError, match="a cache, which does not hold captions as text"):
        near = contrastive(rows=CachedPictures(tmp_path / "cache"), near_negatives=1)
        near.backward(batch_of(near), accelerator())


def test_symmetric() -> None:
    objective = contrastive(symmetric=True, matched_weight=0)

    def loss_of(errors: torch.Tensor) -> torch.Tensor:
        logits = 4 * (-errors / 2).exp()
        own = torch.arange(4)
        return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2

    batch = batch_of(objective)
    expected = one_pass(objective, batch, 4, loss_of)
    for name, g in two_pass(objective, batch, 4)[1].items():
        torch.testing.assert_close(g, expected[name], rtol=1e-9, atol=1e-12)


def test_near_negatives_are_the_rows_own() -> None:
    """With one of each row there are five logits a row; a batch of one has something to be told from."""
    objective = contrastive(near_negatives=1)
    seen: list[torch.Size] = []
    weighed = objective._weighed
    objective._weighed = lambda e, same: (seen.append(e.shape), weighed(e, same))[1]  # type: ignore[method-assign, func-returns-value]
    two_pass(objective, batch_of(objective), 1)
    assert seen == [(4, 5)]
    one = contrastive(near_negatives=2)
    batch = {"image": batch_of(one, 1)["image"], "texts": ["A cat. A dog."], "skipped": [], "frames": [None]}
    with pytest.raises(LongalignError, match="no caption of this batch has a sentence that another has not"):
        one.backward(batch, accelerator())


def test_a_near_caption_differs_in_one_sentence() -> None:
    """Of sticker scenes: in a sentence that is false of the scene; of others: in one of another caption."""
    for i in range(40):
        shown = scene(i, objects=(1, 9), split="validation")
        text = text_of(caption(shown, i, referring=i % 2 == 0))
        near = near_caption(text, [], np.random.default_rng(i), "stickers")
        own, other = ([s.text for s in Segmenter()(t)] for t in (text, near))
        assert len(own) == len(other)
        [place] = [k for k, (a, b) in enumerate(zip(own, other, strict=True)) if a != b]
        fact = parse_all(other)[place]
        assert fact is not None and not is_true(fact, shown)
    text, rng = "A cat sits. It is red.", np.random.default_rng(0)
    found = {near_caption(text, [text, "A dog runs. It is red."], rng) for _ in range(20)}
    assert found == {"A dog runs. It is red.", "A cat sits. A dog runs."}


@pytest.mark.parametrize("start", [False, True])
def test_alignment_guided_targets(start: bool) -> None:
    """L = mean |f⁺ − (f* + γ⁺Δ_own)|² over own captions, and |f⁻ − (f* − γ⁻Δ_j)|² over others, by hand.

    For Δ, f̂ of the own caption is under ψ̂+ and f̂ of the others under ψ̂−; ψ+ and ψ− get the gradient of their own part.
    Three captions a picture, T = 0.1. At the start of a training, where ψ+ = ψ− = ψ̂+ = ψ̂−, one average gives the same.
    """
    guided = {"negatives": 2, "gamma_negative": 0.5, "ema": 0.75}
    objective = contrastive(tiny.tiny_sd3(), alignment_guided=guided)
    assert objective.negative is not None
    trained, averages = {"positive": objective.tokens, "negative": objective.negative}, objective.averages
    if start:
        for tokens in (*trained.values(), *averages.values()):
            tokens.load_state_dict(objective.tokens.state_dict())
    moved = copy.deepcopy(averages)
    for name, average in moved.items():  # ψ̂ ← ¾ψ̂ + ¼ψ, which a step begins with
        of = trained[name].state_dict()
        average.load_state_dict({k: 0.75 * v + 0.25 * of[k] for k, v in average.state_dict().items()})
    batch = batch_of(objective)
    torch.manual_seed(6)
    x0, states, padding = objective.encode(batch)
    x0, draws = x0.double(), Draws.now(4)
    common = draws.common()
    t = objective.times(torch.rand((), generator=common))
    eps = torch.randn(x0.shape[1:], generator=common, dtype=x0.dtype)
    matching = Matching(objective.denoiser, x0, t, eps, states, padding, None, 100)
    none = torch.zeros(0, dtype=torch.long)
    generators = draws.rows(4)
    seen = [
        choose_negatives(torch.zeros(4, 4, dtype=torch.bool), i, none, 2, g) for i, g in enumerate(generators)
    ]
    assert all(s[0] == i and len(set(s.tolist())) == 3 for i, s in enumerate(seen))
    total = torch.zeros((), dtype=torch.float64)

    def predict(tokens: SoftTokens, i: int, j: torch.Tensor) -> torch.Tensor:
        with wearing(objective.attachment, tokens):
            return matching.predictions(torch.tensor([[i, int(j)]]))[0]

    for i, captions in enumerate(seen):
        with torch.no_grad():
            sides = [averages["positive"]] * 3 if start else [moved["positive"], *[moved["negative"]] * 2]
            f = torch.stack([predict(side, i, j) for side, j in zip(sides, captions, strict=True)])
        r = -0.5 * (f - matching.target[i]).square().mean((1, 2, 3))
        w = (r / 0.1).softmax(0)
        delta = f - (w[:, None, None, None] * f).sum(0)
        own = predict(objective.tokens, i, captions[0])
        total = total + (own - matching.target[i] - delta[0]).square().mean() / 4
        for k in (1, 2):
            away = matching.target[i] - 0.5 * delta[k]
            total = total + (predict(objective.negative, i, captions[k]) - away).square().mean() / 8
    total.backward()
    expected = gradients(objective)
    found, grads = two_pass(objective, batch, 6)
    assert {n.split(".")[0] for n in grads} == {"soft_tokens", "negative_tokens"}
    torch.testing.assert_close(found["loss"], total.detach(), rtol=1e-9, atol=0)
    for name, g in grads.items():
        torch.testing.assert_close(g, expected[name], rtol=1e-8, atol=1e-12)


def test_average_tokens_move_and_are_kept() -> None:
    """ψ̂+ ← ½ψ̂+ + ½ψ+ and ψ̂− ← ½ψ̂− + ½ψ−; a checkpoint brings both back."""
    objective = contrastive(alignment_guided={"negatives": 1, "ema": 0.5})
    assert objective.negative is not None

    def averages() -> dict[str, torch.Tensor]:
        return {k: v.clone() for k, v in objective.state_dict().items() if k != "rows_skipped"}

    start = averages()
    objective.learn(*_first(objective), accelerator())
    trained = {"positive": objective.tokens, "negative": objective.negative}
    own = {f"{name}.{k}": v for name, tokens in trained.items() for k, v in tokens.state_dict().items()}
    assert set(own) == set(start)
    for name, value in averages().items():
        torch.testing.assert_close(value, (start[name] + own[name]) / 2)
    objective.load_state_dict(start)
    assert all(torch.equal(v, start[k]) for k, v in averages().items())


def test_alignment_guided_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Stopped after 2 of 3 steps and gone on with: tokens, moments and both averages are the same, bit for bit."""

    def stop(done: int, row: Any) -> None:
        if done == 1:  # the step after it is taken, too
            signal.raise_signal(signal.SIGTERM)

    with registered():
        fit(recipe("guided", steps=3), tmp_path / "whole")
        assert fit(recipe("guided", steps=3), tmp_path / "parts", on_step=stop).step == 2
        assert fit(recipe("guided", steps=3), tmp_path / "parts").resumed_from == 2
    last = "checkpoints/step-00000003"
    whole, parts = read_parts(tmp_path / "whole" / last), read_parts(tmp_path / "parts" / last)
    assert {name.split(".")[0] for name in whole["objective"]} == {"positive", "negative", "rows_skipped"}
    for part, tensors in whole.items():
        assert set(tensors) == set(parts[part])
        assert all(torch.equal(t, parts[part][name]) for name, t in tensors.items()), part


def _first(objective: Any) -> Any:
    x0, states, padding = objective.encode(batch_of(objective))
    return x0.double(), states, padding


@pytest.mark.slow  # two more interpreters that load torch
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """3 steps of 4 rows in one process, and of 2 × 2 in two, whose captions are each other's negatives, of other padded
    lengths. Weights, moments and the average agree to rounding; the first moments are the gradient.
    """
    two(tiny_contrastive.__file__, str(tmp_path / "two"), *RUNS, timeout_s=400)
    for name in RUNS:
        with registered():
            fit(recipe(name, steps=3), tmp_path / "one" / name)
        one, both = saved(tmp_path / "one" / name), saved(tmp_path / "two" / name)
        assert len(one) == len(both) == 3 and (one[2] - one[0]).norm() > 1e-3
        for a, b in zip(one, both, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


class _Two:
    """An accelerator of two processes, of which the other one has what it is told."""

    num_processes, process_index = 2, 0

    def __init__(self, other: list[Caption]) -> None:
        self.other = other

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        raw = torch.cat(
            [
                p.flatten().view(torch.uint8)
                for c in self.other
                for p in (c.own, c.t5, c.pooled)
                if p is not None
            ]
        )
        padded = own.new_zeros(1, own.shape[1])
        padded[0, : len(raw)] = raw
        return torch.cat([own, padded])


def test_captions_travel_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of other lengths, types and parts, bit for bit."""
    g = torch.Generator().manual_seed(0)

    def made(n: int, key: str, kind: torch.dtype) -> Caption:
        own, pooled = torch.randn(n, 3, generator=g).to(kind), torch.randn(5, generator=g)
        return Caption(own, (24, 0), None, pooled, n == 2, key)

    mine = [made(2, "a", torch.float32), made(7, "b", torch.bfloat16)]
    other = [made(3, "c", torch.bfloat16), made(1, "a", torch.float32)]

    def heads(own: Any) -> Any:
        kinds = [[module._kind(t) for t in module._parts(c)] for c in other]
        return [*own, *[(c.key, c.own_shape, c.cut, k) for c, k in zip(other, kinds, strict=True)]]

    monkeypatch.setattr(module, "gather_object", heads)
    found = gather_captions(mine, _Two(other))
    for a, b in zip(found, [*mine, *other], strict=True):
        assert (a.key, a.own_shape, a.cut, a.t5) == (b.key, b.own_shape, b.cut, None)
        assert a.own is not None and a.pooled is not None and b.own is not None and b.pooled is not None
        assert a.own.dtype == b.own.dtype and torch.equal(a.own, b.own) and torch.equal(a.pooled, b.pooled)


def test_only_tokens_are_trained_and_saved(tmp_path: Path) -> None:
    """SD1.5's start from the empty prompt's first state; λ is the backbone's; what is saved is theirs alone."""
    objective = contrastive(start_noise=0.0)
    fresh = ContrastiveSettings(length=LENGTH)
    assert {m: contrastive(PIPES[m]()).matched_weight for m in PIPES} == {"sd15": 10, "sdxl": 10, "sd3": 0}
    assert all(not p.requires_grad for p in objective.denoiser.module.parameters())
    objective.save(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["soft_tokens.safetensors"]
    found = SoftTokens.from_pretrained(tmp_path)
    assert found.config.base == "tiny" and found.config.stages == ("down",) and found.config.count == 4
    pipe = tiny.tiny_sd15()
    first = encode(pipe, "", length=LENGTH).embeds[0, 0]
    texts = TextSide(pipe, "clip-cat", LENGTH)
    equal = new_tokens(Denoiser.of(pipe), fresh.model_copy(update={"start_noise": 0.0}), texts)
    torch.testing.assert_close(equal.tokens[0], first.expand(4, -1))
    apart = new_tokens(Denoiser.of(pipe), fresh, texts).tokens[0] - first
    assert 0.005 < apart.std() < 0.05
    plain = new_tokens(Denoiser.of(pipe), fresh.model_copy(update={"time_tokens": False, "tokens": 2}), texts)
    assert plain.time is None and plain.tokens.shape == (1, 2, tiny.WIDTH)


def test_evaluation_is_the_same_every_time() -> None:
    """Two batches of 4 held-out rows at fixed times, whatever the random state; figures by hand."""
    objective = contrastive(held_out=data(9), held_out_batch=4, matched_weight=0.5)
    objective.encode_held_out = _doubled(objective.encode_held_out)  # type: ignore[method-assign]
    torch.manual_seed(0)
    first = objective.evaluate(accelerator())
    torch.manual_seed(1)
    assert objective.evaluate(accelerator()) == first
    assert first["loss"] == pytest.approx(first["contrast"] + 0.5 * first["matched"])
    # No caption comes twice among 4, so each row has log 4 to win.
    assert first["information"] == pytest.approx(np.log(4) - first["contrast"], abs=1e-6)
    assert contrastive().evaluate(accelerator()) == {}


def _doubled(encode_held_out: Any) -> Any:
    def doubled(numbers: Any) -> Any:
        x0, states, padding = encode_held_out(numbers)
        return x0.double(), states, padding

    return doubled


@pytest.mark.parametrize(
    ("settings", "texts", "message"),
    [
        ({}, ["A cat."], "the batch has only one caption"),
        ({}, ["A cat."] * 3, "the batch has only one caption"),
        ({"start": "empty", "family": "sd3"}, [], "SD3's tokens stand after its context embedder"),
        ({"stages": ("down",), "family": "sd3"}, [], "SD3 has no stages"),
        ({"layers": 9, "family": "sd3"}, [], "soft tokens for 9 blocks, and this model has 2"),
    ],
)
def test_what_cannot_be(settings: dict[str, Any], texts: list[str], message: str) -> None:
    with pytest.raises(LongalignError, match=message):
        objective = contrastive(PIPES[settings.pop("family", "sd15")](), **settings)
        batch = batch_of(objective, len(texts))
        objective.backward({**batch, "texts": texts}, accelerator())


def test_pictures_of_a_size_that_the_model_cannot_take() -> None:
    """Two pixels a latent and one halving in the UNet: multiples of 4. SD3: patches of two, 16 of them at most."""
    rows = lambda side: CaptionedPictures(Pictures(4), side)  # noqa: E731
    with pytest.raises(
        LongalignError, match="30 px do not match the model, which takes multiples of 4: leave"
    ):
        contrastive(rows=rows(30))
    with pytest.raises(LongalignError, match="multiples of 4, at most 64"):
        contrastive(tiny.tiny_sd3(), rows=rows(68))
    assert contrastive(rows=rows(28)).size_px == 28


@pytest.mark.slow  # the embedded model
@pytest.mark.parametrize("option", ["contrastive.near_negatives=1", "contrastive.alignment_guided.ema=0.9"])
def test_the_sticker_recipe_trains(option: str, tmp_path: Path) -> None:
    """Two steps of two rows, evaluated before and after; then the tokens are a file that fits the model."""
    small = ["train.steps=2", "train.batch_size=2", "train.precision='no'", "data.held_out_count=2", option]
    small += ["contrastive.oracle_scenes=1", "contrastive.held_out_batch=2", "train.evaluate_first=true"]
    result = fit(read_recipe("stickers-softrepa", small), tmp_path / "run")
    assert result.step == 2 and result.model is not None
    assert set(result.evaluation) == {
        "loss",
        "contrast",
        "accuracy",
        "matched",
        "information",
        "true",
        "looks",
    }
    assert 0 <= result.evaluation["true"] <= 1 and len(list((tmp_path / "run/samples").glob("*/00.png"))) == 2
    tokens, pipe = SoftTokens.from_pretrained(result.model), load_pipeline(device="cpu")
    with tokens.attach(pipe.unet):
        assert sum(p.numel() for p in tokens.parameters()) == 13_312
    spread = tokens.tokens.detach()[0].std(0).mean()
    assert spread > 0.01  # the four are not one


def test_several_micro_batches_are_refused(tmp_path: Path) -> None:
    with registered(), pytest.raises(LongalignError, match="the batch has to be one micro-batch"):
        fit(recipe("plain", steps=1, micro_batch_size=2), tmp_path)


def test_nan_is_seen_by_the_loop(tmp_path: Path) -> None:
    """A picture of NaN makes loss and gradients NaN, so that the loop skips the step."""
    objective = contrastive()
    x0, states, padding = _first(objective)
    x0[1, 0, 0, 0] = float("nan")
    found = objective.learn(x0, states, padding, accelerator())
    assert not torch.isfinite(torch.as_tensor(found["loss"]))
    assert all(not torch.isfinite(g).all() for g in gradients(objective).values())
    with torch.no_grad():
        objective.tokens.tokens[0, 0, 0] = float("nan")
    with pytest.raises(LongalignError, match="NaN or infinity"):
        objective.save(tmp_path)


def test_tokens_in_half_precision_get_gradients() -> None:
    """Under bf16 autocast, where the first pass runs without gradient, the second has one; near that of float32."""
    objective = contrastive()
    for part in (*objective.pipe.components.values(), objective.tokens):
        if isinstance(part, torch.nn.Module):
            part.float()
    batch = batch_of(objective)
    torch.manual_seed(1)
    objective.backward(batch, accelerator())
    whole = gradients(objective)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        objective.backward(batch, accelerator())
    half = gradients(objective)
    for name, g in whole.items():
        assert torch.cosine_similarity(half[name].flatten(), g.flatten(), dim=0) > 0.98
