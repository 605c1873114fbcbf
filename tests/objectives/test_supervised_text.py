"""A LoRA on the text encoders within supervised training: gradients, saving, loading, stacking, merging, packing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from picture_objectives import LENGTH, TEXTS, accelerator, batch_of, make
from segment_encoding import encode
from torch.nn.functional import mse_loss

from longalign.errors import LongalignError
from longalign.objectives.pictures.supervised import SupervisedObjective
from longalign.objectives.random_draws import Draws
from longalign.stickers.making.pack_run import pack_run
from longalign.training import fit, read_recipe
from longalign.weights import text_lora
from longalign.weights.merge import merge_loras
from longalign.weights.stack import load_pipeline, strategy_for

REFERENT = "clip-cat:context=referent"
PROMPT = "A fox is in the top left. It stands on a red disc."


def supervised(make_pipe: Any = tiny.tiny_sd15, **options: Any) -> SupervisedObjective:
    objective = make(SupervisedObjective, pipe=make_pipe(), tune_text="lora", text_rank=2, **options)
    for clip in objective.clips.values():
        for name, p in clip.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
    return objective


def text_gradients(objective: SupervisedObjective) -> dict[str, torch.Tensor]:
    found = {
        f"{encoder}.{name}": p.grad.clone()
        for encoder, clip in objective.clips.items()
        for name, p in clip.named_parameters()
        if p.grad is not None
    }
    for clip in objective.clips.values():
        clip.zero_grad()
    return found


def test_the_gradient_is_that_of_the_mean() -> None:
    """Captions of two padded lengths share rows of the encoder: its gradient is that of one mean over four rows."""
    objective = supervised(caption_dropout=0)
    batch = batch_of(objective)
    torch.manual_seed(5)
    objective.backward(batch, accelerator())
    found = text_gradients(objective)
    x0, _, _ = objective.encode(batch)
    torch.manual_seed(5)
    draws = Draws.now(4)
    common, own = draws.common(), draws.rows(4)
    t = ((torch.randperm(4, generator=common) + torch.rand(4, generator=common)) / 4 * 1000).long()
    for generator in own:
        torch.rand((), generator=generator)
    eps = torch.stack([torch.randn(x0.shape[1:], generator=generator) for generator in own])
    total = torch.zeros(())
    for i, text in enumerate(TEXTS):
        [states] = objective.texts.encode([text])
        assert states.own is not None and objective.texts.padding.pad_star is not None
        n_pads = -len(states.own) % LENGTH
        embeds = torch.cat([states.own, objective.texts.padding.pad_star.expand(n_pads, -1)])[None]
        x_t = objective.denoiser.noised(x0[[i]], eps[[i]], t[[i]])
        total = total + mse_loss(objective.denoiser.module(x_t, t[[i]], embeds).sample, eps[[i]]) / 4
    total.backward()
    expected = text_gradients(objective)
    assert expected.keys() == found.keys() and all(".lora_" in name for name in found)
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("make_pipe", "encoders"),
    [
        (tiny.tiny_sdxl, ("text_encoder", "text_encoder_2")),
        (tiny.tiny_sd3, ("text_encoder", "text_encoder_2")),
    ],
)
def test_all_clips_of_a_model_learn(make_pipe: Any, encoders: tuple[str, ...]) -> None:
    objective = supervised(make_pipe, strategy=REFERENT, caption_dropout=0)
    objective.backward(batch_of(objective), accelerator())
    assert tuple(objective.clips) == encoders
    found = text_gradients(objective)
    for encoder in encoders:
        assert any(name.startswith(f"{encoder}.") and g.abs().max() > 0 for name, g in found.items())


def test_pad_star_moves_with_the_weights() -> None:
    """What stands behind a caption is the trained encoder's, as `encode` has it."""
    objective = supervised(strategy=REFERENT)
    [before] = objective.texts.encode(["A cat. It runs."])
    with torch.no_grad():
        for p in objective.clips["text_encoder"].parameters():
            p.add_(0.01 * p.requires_grad)
    [after] = objective.texts.encode(["A cat. It runs."])
    assert before.own is not None and after.own is not None and len(before.own) == len(after.own) == 8
    whole = encode(objective.pipe, "A cat. It runs.", strategy=REFERENT, length=LENGTH).embeds[0]
    torch.testing.assert_close(after.own.detach(), whole[:8])
    torch.testing.assert_close(objective.texts.padding.pad_star, whole[-1])


def test_what_cannot_be() -> None:
    with pytest.raises(LongalignError, match="not 'full'"):
        supervised(tune="full")


def test_trained_saved_loaded_stacked_merged_and_packed(tmp_path: Path) -> None:
    """Two steps on the embedded model, over `stickers/sft`; every way to load it gives the same states."""
    small = ["train.steps=2", "train.batch_size=2", "data.held_out=null", "train.precision='no'"]
    small += ["supervised.oracle_scenes=0"]
    run = fit(read_recipe("stickers-sft-context", small), tmp_path / "run").folder
    assert strategy_for("auto", [run]) == REFERENT and strategy_for("plain", [run]) == "plain"
    assert strategy_for("auto", ["stickers/sft"]) == "clip-cat"
    pack_run(run, tmp_path / "packed", after=["stickers/sft"])
    merge_loras(["stickers/sft", str(tmp_path / "packed")], tmp_path / "merged")

    def states(*loras: object, fuse: bool | None = None) -> torch.Tensor:
        pipe = load_pipeline(device="cpu", dtype="float32", loras=[str(name) for name in loras], fuse=fuse)
        strategy = strategy_for("auto", [str(name) for name in loras])
        return encode(pipe, PROMPT, strategy=strategy, length=77).embeds

    expected = states(run)
    assert not torch.allclose(expected, states("stickers/sft"), atol=1e-3)
    for other in (
        states(run, fuse=False),
        states("stickers/sft", tmp_path / "packed"),
        states(tmp_path / "merged"),
    ):
        torch.testing.assert_close(other, expected, rtol=1e-3, atol=1e-3)
    plain = load_pipeline(device="cpu", dtype="float32")
    plain.load_lora_weights(run / "model")
    plain.load_lora_weights(run / "model" / "text_encoder", adapter_name="text")
    plain.set_adapters(["default_0", "text"])
    torch.testing.assert_close(encode(plain, PROMPT, strategy=REFERENT, length=77).embeds, expected)
    with pytest.raises(LongalignError, match="belongs to the base"):
        text_lora.load_text(tiny.tiny_sd15(), run)
