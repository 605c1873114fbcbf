"""Preference training: each loss against a plain computation, V, evaluation, what is saved, what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import preference_ranks
import pytest
import torch
from accelerate import Accelerator
from preference_files import ROW, write
from tiny_clip import WIDTH, tiny_model
from transformers import CLIPTextModel

from longalign import losses
from longalign.data.jsonl import JsonlPairs
from longalign.data.pairs import (
    Pair,
)
from longalign.errors import LongalignError
from longalign.objectives import BuildContext
from longalign.objectives.preference.objective import PreferenceObjective, TextMean
from longalign.objectives.preference.settings import PreferenceDataSettings, PreferenceSettings
from longalign.preference import PreferenceModel
from longalign.preference.decomposition import FILE_NAME, Decomposition, fit_prompts
from longalign.stickers.raters import RaterPairs
from longalign.training import fit, read_recipe

LOSSES = ["single", "seg", "seg-a", "seg-o"]
CPU = BuildContext(torch.device("cpu"))
accelerator = cache(lambda: Accelerator(cpu=True))


def make(
    loss: str = "seg-o", *, pairs: int = 8, held_out: Any = None, **settings: Any
) -> PreferenceObjective:
    return PreferenceObjective(
        tiny_model(),
        PreferenceSettings(loss=loss, **settings),
        RaterPairs(pairs),
        held_out,  # type: ignore[arg-type]
    )


def rows_of(objective: PreferenceObjective, count: int = 6) -> list[Pair]:
    """Rated pairs, the second of them made a tie."""
    rows = [objective.data[i] for i in range(count)]
    rows[1] = Pair(**{**_fields(rows[1]), "preferred": 0.5})
    return rows


def _fields(row: Pair) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Pair.__dataclass_fields__}


def gradient(objective: PreferenceObjective) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in objective.model.clip.parameters() if p.grad is not None])


def plain_loss(objective: PreferenceObjective, rows: list[Pair], *, detached: bool = True) -> torch.Tensor:
    """Pictures, prompts and all captions embedded on their own, then the equation."""
    model = objective.model
    a, b = (
        torch.cat([model.image(torch.from_numpy(np.array(p)).permute(2, 0, 1)[None] / 255) for p in of])
        for of in ([row.image_a for row in rows], [row.image_b for row in rows])
    )
    by_segment = objective.settings.prompt == "segments"
    prompt = (model.text_mean if by_segment else model.text)([row.prompt for row in rows])
    captions = [
        model.text_mean([t or "" for t in of])
        for of in ([r.caption_a for r in rows], [r.caption_b for r in rows])
    ]
    y = torch.tensor([row.preferred for row in rows])
    # V is of the captions that count: that of the preferred picture, both of a tie.
    used = torch.cat([captions[0][y > 0], captions[1][y < 1]])
    v = torch.nn.functional.normalize(used.mean(0), dim=0)
    scale = model.clip.logit_scale.exp()
    name = objective.settings.loss
    if name == "single":
        return losses.pair_loss(a, b, prompt, y, scale)
    if name == "seg":
        return losses.seg_loss(a, b, *captions, y, scale)
    if name == "seg-a":
        return losses.seg_a_loss(a, b, prompt, *captions, y, scale)
    if detached:
        return losses.seg_o_loss(a, b, prompt, *captions, v, y, scale)
    perp = [c - (c @ v).unsqueeze(-1) * v for c in captions]
    return losses.seg_a_loss(a, b, prompt, *perp, y, scale)


@pytest.mark.parametrize(
    ("loss", "prompt"), [*((loss, "whole") for loss in LOSSES), ("seg-a", "segments"), ("seg-o", "segments")]
)
def test_loss_and_gradient_are_those_of_the_equation(loss: str, prompt: str) -> None:
    objective = make(loss, prompt=prompt)
    rows = rows_of(objective)
    metrics = objective.backward(objective.collate(rows), accelerator())
    found = gradient(objective)
    objective.model.clip.zero_grad()
    expected = plain_loss(objective, rows)
    expected.backward()
    assert float(metrics["loss"]) == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(found, gradient(objective), rtol=1e-3, atol=1e-5 * float(found.abs().max()))
    assert not any(isinstance(v, torch.Tensor) and v.requires_grad for v in metrics.values())


def test_a_single_value_has_no_segments() -> None:
    with pytest.raises(ValueError, match="reads whole prompts"):
        PreferenceSettings(loss="single", prompt="segments")


def test_v_has_no_gradient() -> None:
    """With the gradient that flows through V the sum would be another."""
    objective = make("seg-o")
    rows = rows_of(objective)
    gradients = []
    for detached in (True, False):
        objective.model.clip.zero_grad()
        plain_loss(objective, rows, detached=detached).backward()
        gradients.append(gradient(objective))
    apart = float((gradients[0] - gradients[1]).norm())
    objective.model.clip.zero_grad()
    objective.backward(objective.collate(rows), accelerator())
    assert apart > 1e-2 * float(gradients[0].norm())
    assert float((gradient(objective) - gradients[0]).norm()) < 1e-2 * apart


def test_captions_that_count() -> None:
    """Preferred a, a tie, preferred b: captions of pictures a0, a1, b1, b2; with 3 pairs these are rows 0, 1, 4, 5."""
    objective = make("seg")
    rows = [Pair(**{**_fields(objective.data[i]), "preferred": y}) for i, y in enumerate((1, 0.5, 0))]
    batch = objective.collate(rows)
    assert batch["caption_rows"].tolist() == [0, 1, 4, 5]
    assert [" ".join(c) for c in batch["captions"]] == [
        rows[0].caption_a,
        rows[1].caption_a,
        rows[1].caption_b,
        rows[2].caption_b,
    ]
    assert batch["image"].shape == (6, 3, 32, 32) and batch["factors"] is None
    assert make("single").collate(rows)["captions"] == []
    mixed = [Pair(**{**_fields(rows[0]), "image_b": rows[0].image_b[:50]}), rows[1]]  # pictures of two sizes
    batch = objective.collate(mixed)
    torch.testing.assert_close(batch["image"][1], objective.collate(rows)["image"][1])


def test_what_is_trained() -> None:
    for trained, frozen in (("vision", "text"), ("text", "vision")):
        objective = make("single", **{f"train_{frozen}": False, "train_logit_scale": False})
        objective.backward(objective.collate(rows_of(objective)), accelerator())
        with_gradient = {n for n, p in objective.modules()["clip"].named_parameters() if p.grad is not None}
        names = {"vision": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}
        assert all(name.startswith(names[trained]) for name in with_gradient)
        assert {name.split(".")[0] for name in with_gradient} == set(names[trained])
    with pytest.raises(LongalignError, match="both off: nothing to train"):
        make(train_vision=False, train_text=False)


def test_logit_scale_stays_within_its_bound_and_can_leave_it() -> None:
    objective = make("single")
    scale = objective.model.clip.logit_scale
    scale.data.fill_(math.log(250))
    metrics = objective.backward(objective.collate(rows_of(objective)), accelerator())
    assert float(metrics["logit_scale"]) == pytest.approx(100)
    assert scale.grad is not None and float(scale.grad) != 0


def test_autocast_does_not_reach_the_loss() -> None:
    """Under bf16 the towers round to 8 bits; V and the loss are float32."""
    objective = make("seg-o")
    batch = objective.collate(rows_of(objective))
    exact = float(objective.backward(batch, accelerator())["loss"])
    objective = make("seg-o")
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective.backward(batch, accelerator())["loss"]
    assert isinstance(loss, torch.Tensor) and loss.dtype == torch.float32
    assert objective._text_mean.total.dtype == torch.float32
    assert 0 < abs(float(loss) - exact) < 0.05 * exact


def test_training_lowers_the_loss() -> None:
    for loss in LOSSES:
        objective = make(loss)
        batch = objective.collate(rows_of(objective, 3))
        optimizer = torch.optim.AdamW(objective.model.clip.parameters(), lr=1e-3)
        found = []
        for _ in range(4):
            optimizer.zero_grad()
            found.append(float(objective.backward(batch, accelerator())["loss"]))
            optimizer.step()
        assert found[-1] < 0.9 * found[0], loss


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for on in (False, True):
        objective = make("seg-a", gradient_checkpointing=on)
        objective.backward(objective.collate(rows_of(objective)), accelerator())
        gradients.append(gradient(objective))
    torch.testing.assert_close(*gradients)


def test_running_mean_by_hand() -> None:
    """h = 2/ln 2: after two more texts earlier ones count e^(−2 ln 2/2) = ½. Two texts (1, 0), then two (0, 1):
    S = ½·(2, 0) + (0, 2) = (1, 2), N = ½·2 + 2 = 3, so E = (⅓, ⅔) and V = (1, 2)/√5."""
    mean = TextMean(2, "cpu", 2 / math.log(2))
    mean.update(torch.tensor([[1.0, 0], [1, 0]], requires_grad=True), accelerator())
    assert mean.mean.tolist() == [1, 0] and not mean.mean.requires_grad
    mean.update(torch.tensor([[0.0, 1], [0, 1]]), accelerator())
    assert mean.mean.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert mean.v.tolist() == pytest.approx([1 / 5**0.5, 2 / 5**0.5])
    batch = TextMean(2, "cpu", 0)  # forgets
    for c in ([[1.0, 0]], [[0.0, 1]]):
        batch.update(torch.tensor(c), accelerator())
    assert batch.mean.tolist() == [0, 1]


def test_state_goes_on_where_it_was() -> None:
    one, other = make(), make()
    batch = one.collate(rows_of(one))
    one.backward(batch, accelerator())
    other.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    torch.testing.assert_close(one._text_mean.mean, other._text_mean.mean)
    assert make("seg").state_dict() == {} == make(v="batch").state_dict()
    with pytest.raises(LongalignError, match="saved V has width 5, but the model's embeddings have width 24"):
        one.load_state_dict({"text_sum": torch.ones(5), "text_weight": torch.tensor(1.0)})
    with pytest.raises(LongalignError, match="holds no running mean"):
        one.load_state_dict({})


def test_two_processes_are_as_one(tmp_path: Path) -> None:
    """Each takes half of both batches; so the second one's V comes from all sixteen pairs. Ties and captions fall
    unevenly on the two. Five and six of the held-out pairs are theirs."""
    objective = preference_ranks.make()
    ties = [y for i in range(16) if (y := objective.data[i].preferred) == 0.5]
    assert ties  # else both have equally many captions
    script = Path(preference_ranks.__file__)
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    alone = preference_ranks.run(objective, accelerator(), [list(b) for b in preference_ranks.BATCHES])
    assert alone["gradient"].dtype == torch.float64
    together = {name: (ranks[0][name] + ranks[1][name]) / 2 for name in alone}
    for name, expected in alone.items():
        error = float((together[name] - expected).norm() / expected.norm())
        assert error < 1e-6, name
    assert torch.equal(ranks[0]["v"], ranks[1]["v"]) and torch.equal(
        ranks[0]["evaluation"], ranks[1]["evaluation"]
    )


@pytest.mark.parametrize("loss", ["single", "seg-o"])
def test_evaluation_by_hand(loss: str) -> None:
    """By what `PreferenceModel.score` says of each picture."""
    held_out = RaterPairs(40, "validation", seed=1)  # of seed 0, pair 6 has the same pixels twice: a tie
    objective = make(loss, held_out=held_out)
    found = objective.evaluate(accelerator())
    agree: dict[str, list[float]] = {"accuracy": [], "accuracy_truth": [], "accuracy_looks": []}
    rows = [held_out[i] for i in range(40)]
    scores = objective.model.score(
        torch.cat([_stack(row) for row in rows]), [r.prompt for r in rows for _ in "ab"]
    )
    score = scores.single if loss == "single" else scores.overall
    for row, (of_a, of_b) in zip(rows, score.view(40, 2).tolist(), strict=True):
        first = of_a > of_b
        agree["accuracy"].append(0.5 if row.preferred == 0.5 else first == bool(row.preferred))
        if row.looks_a == row.looks_b and row.truth_a != row.truth_b:
            agree["accuracy_truth"].append(first == (row.truth_a > row.truth_b))
        if row.truth_a == row.truth_b and row.looks_a != row.looks_b:
            agree["accuracy_looks"].append(first == (row.looks_a > row.looks_b))
    assert all(agree.values())
    assert found == pytest.approx({name: sum(each) / len(each) for name, each in agree.items()})
    assert objective.model.clip.training  # as it was
    assert make().evaluate(accelerator()) == {}


def _stack(row: Pair) -> torch.Tensor:
    return torch.from_numpy(np.stack([row.image_a, row.image_b])).permute(0, 3, 1, 2) / 255


def test_what_is_saved_can_be_loaded(tmp_path: Path) -> None:
    objective = make(pairs=5, v_prompts=3)
    objective.save(tmp_path / "model")
    loaded = PreferenceModel.from_pretrained(tmp_path / "model", device="cpu")
    texts = ["A fox.", "A pig is in the middle."]
    torch.testing.assert_close(loaded.text(texts), objective.model.text(texts))
    images = _stack(objective.data[0])
    torch.testing.assert_close(loaded.image(images), objective.model.image(images))
    assert loaded.decomposition is not None and loaded.decomposition.count == 3
    assert loaded.preprocess.to_config() == objective.model.preprocess.to_config()
    every = [text for i in range(5) for text in objective.data.texts(i)]
    near = fit_prompts(loaded, every).V @ loaded.decomposition.V
    assert float(near) > 0.9
    objective.save(tmp_path / "again")
    again = Decomposition.load(tmp_path / "again" / FILE_NAME)
    assert again.source == loaded.decomposition.source and torch.equal(
        again.total, loaded.decomposition.total
    )
    # and it can be trained on, with the V that stands beside it
    stored = PreferenceObjective.build(
        str(tmp_path / "model"), PreferenceSettings(v="stored"), PreferenceDataSettings(count=4), CPU
    )
    assert "v_length" not in stored.objective.backward(
        stored.objective.collate([stored.data[0], stored.data[1]]), accelerator()
    )


def test_build_on_the_embedded_clip() -> None:
    settings = PreferenceDataSettings(count=7, held_out="stickers", held_out_count=3)
    task = PreferenceObjective.build(
        "stickers/clip", PreferenceSettings(), settings, BuildContext("cpu", seed=5)
    )
    objective = task.objective
    assert isinstance(objective, PreferenceObjective) and objective.model.clip.dtype == torch.float32
    assert isinstance(task.data, RaterPairs) and (len(task.data), task.data.seed) == (7, 5)
    assert isinstance(objective.held_out, RaterPairs)
    assert (objective.held_out.split, objective.held_out.seed, len(objective.held_out)) == (
        "validation",
        0,
        3,
    )
    with pytest.raises(
        LongalignError, match=r"no embedded preference model stickers/unet; there are stickers/clip"
    ):
        PreferenceObjective.build("stickers/unet", PreferenceSettings(), settings, CPU)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("clip-h-denscore", "seg-o"),
        ("stickers-denscore", "seg-o"),
        ("stickers-denscore-seg", "seg"),
        ("stickers-denscore-seg-a", "seg-a"),
        ("stickers-pickscore", "single"),
    ],
)
def test_recipes(name: str, loss: str) -> None:
    recipe = read_recipe(name)
    assert isinstance(recipe.settings, PreferenceSettings) and recipe.settings.loss == loss
    assert isinstance(recipe.data, PreferenceDataSettings) and recipe.data.held_out is not None
    if name.startswith("clip-h"):  # FACTS §1.3
        train = recipe.train
        assert (train.steps, train.batch_size, train.lr, train.warmup_steps) == (4000, 128, 3e-6, 500)
        assert (train.precision, train.schedule) == ("bf16", "linear")


def test_recipe_trains_in_the_loop(tmp_path: Path) -> None:
    few = ["train.steps=2", "train.batch_size=4", "data.held_out_count=4", "preference.v_prompts=4"]
    result = fit(read_recipe("stickers-denscore", few), tmp_path / "run")
    assert result.step == 2 and 0 <= result.evaluation["accuracy"] <= 1
    assert result.model is not None
    assert PreferenceModel.from_pretrained(result.model, device="cpu").decomposition is not None


def test_bad_input_to_build(tmp_path: Path) -> None:
    data = PreferenceDataSettings(count=4)

    def build(model: Path | str, *, pairs: Path | None = None, **settings: Any) -> None:
        given = data if pairs is None else PreferenceDataSettings(pairs=str(pairs))
        PreferenceObjective.build(str(model), PreferenceSettings(**settings), given, CPU)

    tiny_model().save_pretrained(tmp_path / "bare")
    with pytest.raises(LongalignError, match="'stored', but the model has no V beside it"):
        build(tmp_path / "bare", v="stored")
    build("stickers/clip", v="stored")
    uncaptioned = write(tmp_path, ROW, {**ROW, "caption_b": ""})
    with pytest.raises(LongalignError, match="line 2: the loss 'seg-o' needs a long caption of each picture"):
        build("stickers/clip", pairs=uncaptioned)
    build("stickers/clip", pairs=uncaptioned, loss="single")
    with pytest.raises(LongalignError, match="all 1 pairs are ties"):
        build("stickers/clip", pairs=write(tmp_path, {**ROW, "preferred": 0.5}))
    with pytest.raises(LongalignError, match='no "preferred"'):
        build("stickers/clip", pairs=write(tmp_path, {k: v for k, v in ROW.items() if k != "preferred"}))
    model = tiny_model()
    other = tmp_path / "text"
    CLIPTextModel(model.clip.config.text_config).save_pretrained(other)
    model.tokenizer.save_pretrained(other)
    with pytest.raises(
        LongalignError, match="is a 'clip_text_model' model; a preference model must be 'clip'"
    ):
        build(other)
    model.save_pretrained(tmp_path / "model")
    Decomposition.fit(torch.ones(1, 5)).save(tmp_path / "model" / FILE_NAME)
    with pytest.raises(LongalignError, match=f"V has width 5, but the embeddings have width {WIDTH}"):
        build(tmp_path / "model")


def test_trains_from_files_without_known_factors(tmp_path: Path) -> None:
    data = JsonlPairs(write(tmp_path, ROW, {**ROW, "preferred": 0}))
    objective = PreferenceObjective(tiny_model(), PreferenceSettings(), data, data)
    metrics = objective.backward(objective.collate([data[0], data[1]]), accelerator())
    assert math.isfinite(float(metrics["loss"]))
    # the same pictures preferred once this way and once that way: one of the two is always right; captions play no part
    objective.held_out = JsonlPairs(
        write(tmp_path, *({**ROW, "preferred": y, "caption_a": None} for y in (0, 1)))
    )
    assert objective.evaluate(accelerator()) == {"accuracy": 0.5}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_late_head_learns_with_every_loss_and_on_frozen_towers(loss: str, tmp_path: Path) -> None:
    """Head and, where they may, towers get gradients; what is saved brings the head along."""
    for frozen in (False, True):
        objective = make(loss, head="late", late_width=8, train_vision=not frozen, train_text=not frozen)
        batch = objective.collate(rows_of(objective, 3))
        found = objective.backward(batch, accelerator())
        assert {"late", "truth", "sentences_right"} <= set(found)
        head = objective.modules()["late"]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
        towers = [p.grad is not None for p in objective.model.clip.vision_model.parameters()]
        assert not any(towers) if frozen else any(towers)
    objective.save(tmp_path)
    assert PreferenceModel.from_pretrained(tmp_path, device="cpu").late is not None


def test_without_known_sentences_captions_of_other_pairs_are_false() -> None:
    """Two pairs: picture a of the first is asked its own caption's sentences and those of the second's a."""
    objective = make(head="late")
    rows = [Pair(**{**_fields(row), "true_a": (), "false_a": ()}) for row in rows_of(objective, 2)]
    batch = objective.collate(rows)
    own = [s.text for s in objective.model.segments(rows[0].caption_a or "")]
    assert batch["asked"][0][: len(own)] == own
    assert sum(batch["asked_true"][0]) == len(own) < len(batch["asked"][0])
    assert batch["asked_true"][2] == [1.0] * 3 + [0.0] * 3  # b's are known
