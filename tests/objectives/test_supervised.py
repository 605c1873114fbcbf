"""Supervised fine-tuning: the loss by hand, cached against live, what is trained, saved, skipped and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from picture_objectives import LENGTH, SIDE_PX, TEXTS, accelerator, batch_of, data, gradients, make
from segment_encoding import encode
from torch.nn.functional import mse_loss

from longalign.backbones.latents import encode_pixels
from longalign.data.cache import CacheBuilder
from longalign.data.cached import CachedPictures
from longalign.data.text_states import TextSide
from longalign.diffusion.pipelines import (
    settings_of,
)
from longalign.errors import LongalignError
from longalign.objectives.pictures.settings import PictureDataSettings, SupervisedSettings
from longalign.objectives.pictures.supervised import SupervisedObjective
from longalign.objectives.random_draws import Draws
from longalign.training import fit, read_recipe
from longalign.weights import lora
from longalign.weights.stack import (
    load_pipeline,
)


def supervised(**options: Any) -> SupervisedObjective:
    return make(SupervisedObjective, **options)


def v_pipe() -> Any:
    pipe = tiny.tiny_sd15()
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    return pipe


@pytest.mark.parametrize(
    ("make_pipe", "noisings"),
    [(tiny.tiny_sd15, 1), (v_pipe, 2), (tiny.tiny_sdxl, 1), (tiny.tiny_sd3, 1)],
)
def test_the_loss_by_hand(make_pipe: Any, noisings: int) -> None:
    """mean |f − target|² over all noised rows, with target ε, α ε − σ x_0, or ε − x_0, row by row at its own text.

    Rows are told by a hook; x_t = α x_0 + σ ε then gives back each ε, and with it the target.
    """
    objective = supervised(pipe=make_pipe(), caption_dropout=0, noisings=noisings)
    pipe, denoiser = objective.pipe, objective.denoiser
    calls: list[Any] = []
    own = denoiser._predict

    def predict(x: Any, t: Any, embeds: Any, *others: Any) -> Any:
        f = own(x, t, embeds, *others)
        calls.append((x.detach(), t, embeds, f))
        return f

    denoiser._predict = predict  # type: ignore[method-assign]
    batch = batch_of(objective)
    found = objective.backward(batch, accelerator())
    x0 = encode_pixels(pipe.vae, batch["image"])
    states = torch.cat(
        [
            encode(pipe, TEXTS[0], length=LENGTH).embeds,
            *[encode(pipe, TEXTS[i], length=LENGTH).embeds for i in (2, 3)],
        ]
    )
    short, long = calls  # rows 0, 2 and 3, then row 1
    torch.testing.assert_close(short[2], states.repeat_interleave(noisings, 0))
    torch.testing.assert_close(long[2], encode(pipe, TEXTS[1], length=LENGTH).embeds.expand_as(long[2]))
    losses = []
    for (x_t, t, _, f), rows in ((short, [0, 2, 3]), (long, [1])):
        clean = x0[rows].repeat_interleave(noisings, 0)
        if denoiser.alphas_cumprod is None:
            sigma = (t / 1000).view(-1, 1, 1, 1)
            alpha = 1 - sigma
        else:
            bar = pipe.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
            alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
        eps = (x_t - alpha * clean) / sigma
        target = {"epsilon": eps, "v": alpha * eps - sigma * clean, "flow": eps - clean}[
            denoiser.parameterisation
        ]
        losses.append((f - target).square().flatten(1).mean(1))
    torch.testing.assert_close(found["loss"], torch.cat(losses).mean().detach(), rtol=1e-3, atol=1e-3)
    assert len(torch.cat(losses)) == 4 * noisings
    assert all(name.split(".")[-3].startswith("lora_") for name in gradients(objective))


def test_the_gradient_is_that_of_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups of captions, two calls of the UNet: together the gradient of one mean over four rows."""
    objective = supervised(caption_dropout=0)
    batch = batch_of(objective)
    torch.manual_seed(5)
    objective.backward(batch, accelerator())
    found = gradients(objective)
    x0, _, _ = objective.encode(batch)
    torch.manual_seed(5)
    draws = Draws.now(4)
    common, own = draws.common(), draws.rows(4)
    t = ((torch.randperm(4, generator=common) + torch.rand(4, generator=common)) / 4 * 1000).long()
    for generator in own:
        torch.rand((), generator=generator)  # the caption dropout's
    eps = torch.stack([torch.randn(x0.shape[1:], generator=generator) for generator in own])
    total = 0.0
    for i, text in enumerate(TEXTS):
        conditioning = encode(objective.pipe, text, length=LENGTH)
        x_t = objective.denoiser.noised(x0[[i]], eps[[i]], t[[i]])
        f = objective.denoiser.module(x_t, t[[i]], conditioning.embeds).sample
        total = total + mse_loss(f, eps[[i]]) / 4
    total.backward()  # type: ignore[attr-defined]
    for name, g in gradients(objective).items():
        torch.testing.assert_close(found[name], g, rtol=1e-4, atol=1e-6)


def test_dropped_captions_are_the_empty_prompt() -> None:
    """All dropped: whatever the captions say, the loss is the same."""
    losses = []
    for text in ("A cat.", "The red dog runs."):
        objective = supervised(caption_dropout=1.0)
        batch = {**batch_of(objective), "texts": [text] * 4}
        torch.manual_seed(3)
        losses.append(objective.backward(batch, accelerator())["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("strategy", "make_pipe"), [("clip-cat", tiny.tiny_sdxl), ("clip+t5", tiny.tiny_sd15)]
)
def test_cached_data_train_as_live_ones(strategy: str, make_pipe: Any, tmp_path: Path) -> None:
    """Equal where the cache holds float32, within rounding (2⁻⁸) where it holds bfloat16."""
    losses, grads = [], []
    for stored in (None, "float32", "bfloat16"):
        pipe, t5 = make_pipe(), tiny.t5_branch() if "t5" in strategy else None
        rows: Any = data()
        if stored is not None:
            side = TextSide(pipe, strategy, LENGTH, t5)
            CacheBuilder(tmp_path / stored, pipe, side, SIDE_PX, stored=stored).build(rows.source)
            rows = CachedPictures(tmp_path / stored)
        objective = supervised(pipe=pipe, rows=rows, t5=t5, strategy=strategy, caption_dropout=0.5)
        for p in t5.adapter.parameters() if t5 else ():
            assert p.requires_grad
        torch.manual_seed(2)
        losses.append(objective.backward(batch_of(objective), accelerator())["loss"])
        grads.append(gradients(objective))
    assert torch.equal(losses[0], losses[1])
    assert (
        all(torch.equal(grads[0][name], g) for name, g in grads[1].items())
        and grads[0].keys() == grads[1].keys()
    )
    torch.testing.assert_close(losses[2], losses[0], rtol=2**-7, atol=0)
    assert any("adapter" in name for name in grads[0]) == (strategy == "clip+t5")


def test_all_weights_or_a_lora() -> None:
    full = supervised(tune="full")
    full.backward(batch_of(full), accelerator())
    assert len(gradients(full)) == len(list(full.denoiser.module.parameters()))
    assert not lora.attached(full.denoiser.module)
    assert all(not p.requires_grad for p in full.pipe.text_encoder.parameters())
    with pytest.raises(LongalignError, match="tune 'full' starts from a whole model"):
        supervised(tune="full", start_from=("x",))


def test_evaluation_is_the_same_every_time() -> None:
    """Fixed times and noise, whatever the random state; another number of rows another loss."""
    objective = supervised(held_out=data(8))
    torch.manual_seed(0)
    first = objective.evaluate(accelerator())
    torch.manual_seed(1)
    assert objective.evaluate(accelerator()) == first and set(first) == {"loss"}
    assert supervised().evaluate(accelerator()) == {}


@pytest.mark.parametrize("make_pipe", [tiny.tiny_sd15, tiny.tiny_sd3])
def test_pictures_to_be_shown(make_pipe: Any) -> None:
    """Two held-out captions from the same seeds each time; a flow model by its own solver. None held out, none."""
    objective = supervised(pipe=make_pipe(), held_out=data(4), sample_pictures=2)
    torch.manual_seed(1)
    found = objective.samples(accelerator())
    torch.manual_seed(2)
    assert [(text, image.tobytes()) for text, image in objective.samples(accelerator())] == [
        (text, image.tobytes()) for text, image in found
    ]
    assert [text for text, _ in found] == list(TEXTS[:2]) and found[0][1].size == (SIDE_PX, SIDE_PX)
    assert supervised(sample_pictures=2).samples(accelerator()) == []


def test_pictures_to_be_shown_of_a_cache(tmp_path: Path) -> None:
    """The same pictures as of live data; captions are not in a cache."""
    pipe, rows = tiny.tiny_sd15(), data()
    CacheBuilder(tmp_path, pipe, TextSide(pipe, "clip-cat", LENGTH), SIDE_PX, stored="float32").build(
        rows.source
    )
    live = supervised(pipe=pipe, held_out=rows, sample_pictures=2).samples(accelerator())
    cache = CachedPictures(tmp_path)
    objective = supervised(rows=cache, held_out=cache, sample_pictures=2)
    found = objective.samples(accelerator())
    assert [text for text, _ in found] == ["held-out row 0", "held-out row 1"]
    assert [image.tobytes() for _, image in found] == [image.tobytes() for _, image in live]


def test_times() -> None:
    """Uniform: u = ½ is 500. With power ½: 707. Flow models take fractions of steps."""
    u = torch.tensor([0.0, 0.5, 0.9999999])
    assert supervised().times(u).tolist() == [0, 500, 999]
    assert supervised(time_power=0.5).times(u).tolist() == [0, 707, 999]
    assert supervised(pipe=tiny.tiny_sd3()).times(torch.tensor([0.50025])).item() == pytest.approx(500.25)


def test_a_saved_lora_gives_the_same_in_a_plain_pipeline(tmp_path: Path) -> None:
    objective = supervised(t5=tiny.t5_branch(), strategy="clip+t5")
    objective.save(tmp_path)
    plain = tiny.tiny_sd15()
    plain.load_lora_weights(tmp_path)
    x, states = torch.randn(1, 4, 16, 16), torch.randn(1, 7, tiny.WIDTH)
    with torch.no_grad():
        expected = objective.denoiser.module.eval()(x, 10, states).sample
        torch.testing.assert_close(plain.unet(x, 10, states).sample, expected, rtol=1e-4, atol=1e-5)
        assert (tiny.tiny_sd15().unet(x, 10, states).sample - expected).abs().max() > 1e-3
    adapter = lora.load_text_adapter(tmp_path)
    assert adapter is not None and objective.t5 is not None
    for a, b in zip(adapter.parameters(), objective.t5.adapter.parameters(), strict=True):
        assert torch.equal(a, b)


def test_bad_rows_are_skipped_counted_and_listed(tmp_path: Path) -> None:
    """Of 100 rows five may be bad; the sixth that is met stops the run."""
    objective = supervised(rows=data(200, frozenset(range(0, 12, 2))))
    objective.opened(tmp_path)
    rows = [objective.data[i] for i in (0, 2, 4, 6)]
    found = objective.backward(objective.collate(rows), accelerator())
    assert found["rows_skipped"] == 4
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 4
    resumed = supervised(rows=data(200, frozenset(range(0, 12, 2))))
    resumed.load_state_dict(objective.state_dict())
    found = resumed.backward(resumed.collate([resumed.data[i] for i in (2, 101)]), accelerator())
    assert found["rows_skipped"] == 4  # row 2 was one of them
    for one in (objective, resumed):
        with pytest.raises(LongalignError, match="6 of 100 rows cannot be used, more than 5%"):
            one.backward(one.collate([one.data[i] for i in (8, 10)]), accelerator())


def test_recipes_are_valid() -> None:
    for name in ("sd15-sft", "sdxl-sft", "stickers-sft"):
        recipe = read_recipe(name)
        assert isinstance(recipe.settings, SupervisedSettings) and recipe.settings.rank == 32
        assert isinstance(recipe.data, PictureDataSettings)
    with pytest.raises(LongalignError, match="from 1 to 9"):
        read_recipe("stickers-sft", ["data.objects=[0, 4]"])


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_the_sticker_recipe_trains(tune: str, tmp_path: Path) -> None:
    """Two steps on the embedded model; then what it saved is a LoRA, or a whole model with its settings."""
    small = ["train.steps=2", "train.batch_size=4", "data.held_out_count=2", "train.precision='no'"]
    small += [
        f"supervised.tune={tune}",
        "supervised.oracle_scenes=1",
        "supervised.noisings=1",
        "train.micro_batch_size=4",
    ]
    result = fit(read_recipe("stickers-sft", small), tmp_path / "run")
    assert result.step == 2 and result.model is not None and 0 <= result.evaluation["true"] <= 1
    assert result.evaluation["looks"] <= 0 and len(list((result.folder / "samples").rglob("*.png"))) == 1
    if tune == "lora":
        pipe = load_pipeline(device="cpu")
        pipe.load_lora_weights(result.model)
    else:
        pipe = load_pipeline(str(result.model), device="cpu")
        assert settings_of(str(result.model)) == settings_of("stickers")
        before = load_pipeline(device="cpu").unet.conv_in.weight
        assert not torch.equal(pipe.unet.conv_in.weight, before)


def test_one_of_several_captions_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """By (seed, step, row): two processes of two rows draw what one of four rows draws; each caption has its turn."""
    objective = supervised(caption_dropout=0)
    drawn: list[list[str]] = []

    def encode(batch: Any) -> Any:
        drawn.append(batch["texts"])
        raise StopIteration

    monkeypatch.setattr(objective, "encode", encode)
    batch = batch_of(objective)
    batch["others"] = [("b", "c"), (), ("b", "c"), ("b",)]
    batch["texts"] = ["a", "only", "a", "a"]

    def captions(step: int, rows: slice) -> list[str]:
        part = {key: value[rows] if key != "skipped" else [] for key, value in batch.items()}
        objective.reseed(Draws(5, step, rows.start, 4))
        with pytest.raises(StopIteration):
            objective.backward(part, accelerator())
        return drawn.pop()

    seen: set[tuple[int, str]] = set()
    for step in range(40):
        whole = captions(step, slice(0, 4))
        assert (
            captions(step, slice(0, 2)) + captions(step, slice(2, 4)) == whole == captions(step, slice(0, 4))
        )
        seen |= set(enumerate(whole))
    assert seen == {
        (0, "a"),
        (0, "b"),
        (0, "c"),
        (1, "only"),
        (2, "a"),
        (2, "b"),
        (2, "c"),
        (3, "a"),
        (3, "b"),
    }
