"""Reward fine-tuning as an objective: loss and gradient against a plain computation, V, evaluation, files, refusals."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler
from tiny import tiny_sd15
from tiny_clip import tiny_model
from torch import Tensor

from longalign.diffusion.pipelines import (
    ModelSettings,
)
from longalign.diffusion.sampling import to_images
from longalign.errors import LongalignError
from longalign.metrics.distances import cmmd, fid
from longalign.objectives import BuildContext
from longalign.objectives.lora_off import without_lora
from longalign.objectives.random_draws import Draws
from longalign.objectives.reward.held_out import HeldOut, load_held_out
from longalign.objectives.reward.objective import RewardObjective
from longalign.objectives.reward.rewards import Reward
from longalign.objectives.reward.sampling import RewardSampler, load_prompts
from longalign.objectives.reward.settings import RewardDataSettings, RewardSettings
from longalign.preference import PreferenceModel, crop
from longalign.preference.decomposition import Decomposition, fit_prompts
from longalign.preference.images import to_pixels
from longalign.recipes import recipe_names
from longalign.stickers.scene_source import (
    StickerScenes,
)
from longalign.training import fit
from longalign.training.recipe import Recipe, read_recipe
from longalign.weights import lora
from longalign.weights.lora_file import LoraFile
from longalign.weights.stack import (
    load_pipeline,
)

CPU = BuildContext(torch.device("cpu"))
accelerator = cache(lambda: Accelerator(cpu=True))
# of two padded lengths, so of two groups
PROMPTS = ["A fox is in the middle.", "A pig is in the top left. The background is pink.", "A red disc."]


@cache
def scorers() -> tuple[PreferenceModel, PreferenceModel]:
    """Two tiny CLIPs with V of a few prompts."""
    found = []
    for seed in (0, 1):
        model = tiny_model(seed)
        v = fit_prompts(model, ["A star is in the middle.", "A car.", "The background is navy."])
        found.append(PreferenceModel(model.clip, model.tokenizer, model.preprocess, v))
    return found[0], found[1]


_pipe = cache(tiny_sd15)


def make(rewards: list[Reward] | None = None, **settings: Any) -> RewardObjective:
    """On a tiny SD1.5 with a LoRA whose `up` is not zero."""
    parts = dict(_pipe().components)
    parts["unet"] = copy.deepcopy(parts["unet"])
    pipe = type(_pipe())(**parts, requires_safety_checker=False)
    torch.manual_seed(8)
    for parameter in lora.attach(pipe.unet, rank=2, name="reward"):
        torch.nn.init.normal_(parameter, std=0.1)
    given = {"steps": 4, "gradient_steps": 2, "length": 10, "crop": 7 / 8, "guidance": 3.0, **settings}
    return RewardObjective(pipe, rewards or [Reward("clip", scorers()[0])], RewardSettings(**given))


def gradient(objective: RewardObjective) -> Tensor:
    parameters = objective.denoiser.module.parameters()
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def run(objective: RewardObjective, prompts: list[str] = PROMPTS, seed: int = 1) -> tuple[dict, Tensor]:
    objective.denoiser.module.zero_grad()
    torch.manual_seed(seed)
    return objective.backward(objective.collate(prompts), accelerator()), gradient(objective)


def plainly(objective: RewardObjective, half: bool, seed: int = 1) -> tuple[Tensor, Tensor]:
    """One prompt after the other, all steps in one graph, inputs detached; C⊥ + ω ηV from the definitions.

    What is random: for all the first step and then the crop's place, and each row's noise.
    """
    torch.manual_seed(seed)
    draws = Draws.now(len(PROMPTS))
    common, own = draws.common(), draws.rows(len(PROMPTS))
    count = len(objective.solver)
    first = int(torch.randint(count, (), generator=common))
    crop_seed = int(torch.randint(2**31, (), generator=common))
    steps = {(first + i * count) // 2 for i in range(2)}
    objective.denoiser.module.zero_grad()
    total = torch.zeros(())
    for members, text in objective.encode(PROMPTS):
        noise = torch.stack([torch.randn(4, 16, 16, generator=own[m]) for m in members])
        for row, member in enumerate(members):

            def predict(i: int, x: Tensor, t: Tensor, of: Any = text[row]) -> Tensor:
                with torch.set_grad_enabled(i in steps):
                    with_text, without = (
                        objective.denoiser(x.detach(), t, of, negative=n) for n in (False, True)
                    )
                    return without + 3.0 * (with_text - without)

            x0 = objective.solver.sample(predict, noise[row : row + 1])
            pixels = (objective.pipe.vae.decode(x0 / 0.18215).sample / 2 + 0.5).clamp(0, 1)
            pixels = crop(pixels, 7 / 8, torch.Generator().manual_seed(crop_seed))
            for reward in objective.rewards:
                assert reward.model.decomposition is not None
                c = reward.model.text_mean([PROMPTS[member]])[0].detach()
                v = reward.model.decomposition.V.float()
                text_side = (c - (c @ v) * v) + reward.omega * (c @ v) * v
                total = total + reward.weight * (1 - reward.model.image(pixels)[0] @ text_side)
    loss = total / len(PROMPTS) / (2 if half else 1)
    loss.backward()
    return loss.detach(), gradient(objective)


def test_final_clean_ends_with_the_last_clean_prediction() -> None:
    """What the section `reward` says reaches the solver; recipes that say nothing keep the scheduler's own end."""
    pipe = tiny_sd15()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=False)  # as published
    own, clean = (
        RewardSampler(pipe, RewardSettings(steps=4, gradient_steps=2, spacing="own", final=final))
        for final in ("scheduler", "clean")
    )
    t = own.solver.timesteps[-1]
    p, q = own.denoiser.x0_weights(t, torch.zeros((), dtype=torch.float64))
    last = own.solver.inputs[-1]
    torch.testing.assert_close(clean.solver.c[-1], q, rtol=1e-5, atol=0)
    torch.testing.assert_close(clean.solver.a, float(p * last[0]), rtol=1e-5, atol=0)
    assert abs(float(own.solver.c[-1] - q)) > 1e-4
    assert RewardSettings().final == "scheduler"
    finals = {
        name: found.settings.final
        for name in recipe_names()
        if isinstance((found := read_recipe(name)).settings, RewardSettings)
    }
    assert [name for name, end in finals.items() if end == "clean"] == [
        "sd15-lcm-reward",
        "sd15-reward",
        "sdxl-reward",
    ]
    assert finals["stickers-reward"] == finals["stickers-lcm-reward"] == "scheduler"


@pytest.mark.parametrize("half", [False, True], ids=["whole", "half"])
def test_loss_and_gradient_are_those_of_the_equation(half: bool) -> None:
    """L = Σ_k w_k (1 − C_X·(C⊥ + ω ηV)), the mean over prompts of two padded lengths; halved as released."""
    one, two = scorers()
    objective = make([Reward("one", one, 2.0, 0.3), Reward("two", two, 0.5, 0.0)], half=half)
    assert sorted(len(members) for members, _ in objective.encode(PROMPTS)) == [1, 2]
    metrics, found = run(objective)
    loss, wanted = plainly(objective, half)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert float(wanted.norm()) > 1e-6
    assert float((found - wanted).norm() / wanted.norm()) < 1e-3
    assert float(metrics["reward"]) == pytest.approx(
        2.0 * float(metrics["reward_one"]) + 0.5 * float(metrics["reward_two"]), rel=1e-5
    )


def test_few_pictures_at_once_change_nothing() -> None:
    all_at_once, one_by_one = run(make()), run(make(pictures_at_once=1))
    assert float(one_by_one[0]["loss"]) == pytest.approx(float(all_at_once[0]["loss"]), rel=1e-6)
    torch.testing.assert_close(one_by_one[1], all_at_once[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        *({"method": method} for method in ("draft", "alignprop", "refl")),
        {"solver": "lcm"},
        {"solver": "unipc", "split_guidance": True},
    ],
    ids=str,
)
def test_every_method_gives_a_gradient(changes: dict[str, Any]) -> None:
    metrics, found = run(make(**changes))
    assert torch.isfinite(found).all() and float(found.norm()) > 0
    assert 0 < float(metrics["loss"]) < 2


def test_gradient_reaches_the_lora_and_nothing_else() -> None:
    objective = make()
    run(objective)
    with_gradient = {n for n, p in objective.denoiser.module.named_parameters() if p.grad is not None}
    assert with_gradient and all(".lora_" in name for name in with_gradient)
    others = [objective.pipe.vae, objective.pipe.text_encoder, objective.rewards[0].model.clip]
    assert not any(p.requires_grad for part in others for p in part.parameters())


def test_v_of_the_batch() -> None:
    """V is the batch's mean direction. Of one prompt it is the prompt itself: C⊥ = 0, and ω·C_P is left."""
    model = tiny_model()
    reward = Reward("clip", model, omega=0.3, v="batch")
    several, plain = reward.embed(PROMPTS, accelerator())
    wanted = Decomposition.fit(plain).reweight(plain, 0.3)
    torch.testing.assert_close(several, wanted)
    one, plain = reward.embed(["A fox is in the middle."], accelerator())
    torch.testing.assert_close(one, 0.3 * plain)


def test_omega_one_needs_no_v_and_changes_nothing() -> None:
    reweighted, plain = Reward("clip", tiny_model(), omega=1.0).embed(PROMPTS, accelerator())
    assert torch.equal(reweighted, plain)
    with pytest.raises(LongalignError, match="'clip' has no V beside it"):
        Reward("clip", tiny_model(), omega=0.3)


def test_single_reads_the_first_tokens_alone() -> None:
    model = tiny_model()
    long = "A fox is in the middle. " * 20
    single = Reward("clip", model, omega=1.0, text="single").plain([long])
    torch.testing.assert_close(single, model.text([long], truncate=True))
    assert not torch.allclose(single, Reward("clip", model, omega=1.0).plain([long]), atol=1e-3)


def test_crop_is_random_in_training_and_fixed_without_a_generator() -> None:
    """7/8 of 32 px is 28: it begins at 0 … 4, and at 2 when it is fixed."""
    objective = make(crop=7 / 8)
    pixels = torch.arange(32.0).expand(1, 3, 32, 32)  # each column holds its number
    starts = {int(objective.cropped(pixels, seed)[0, 0, 0, 0]) for seed in range(60)}
    assert starts == {0, 1, 2, 3, 4}
    assert torch.equal(objective.cropped(pixels, None), crop(pixels, 7 / 8))
    assert int(objective.cropped(pixels, None)[0, 0, 0, 0]) == 2


def test_evaluation_by_others_and_by_the_oracle() -> None:
    """Scores and distances by hand from the same pictures; the oracle's share is one of all sentences; figures do not
    change, and pictures are kept to be shown.
    """
    one, two = scorers()
    objective = make([Reward("one", one, 2.0)], evaluate_at_once=2, sample_pictures=2)
    objective.model = ModelSettings(oracle="stickers", length=20)
    prompts = load_prompts("stickers", split="validation", count=3, objects=(1, 2))
    objective.held_out = HeldOut(prompts, 3, [Reward("two", two, omega=1.0)])
    found = objective.evaluate(accelerator())
    assert set(found) == {"score_two", "reward", "diversity", "true", "looks", "fid", "cmmd"}
    texts = [prompts[i] for i in range(3)]
    pixels = drawn(objective, texts)
    with without_lora(objective.denoiser.module, "reward"):
        before = drawn(objective, texts)
    with torch.no_grad():
        images = [model.image(crop(pixels, 7 / 8)) for model in (one, two)]
        by_hand = [
            100 * float((image * model.text_mean(texts)).sum(-1).mean())
            for image, model in zip(images, (one, two), strict=True)
        ]
    assert found["reward"] == pytest.approx(2 * by_hand[0], rel=1e-4)
    assert found["score_two"] == pytest.approx(by_hand[1], rel=1e-4)
    alike = images[1] @ images[1].T
    assert found["diversity"] == pytest.approx(1 - float((alike.sum() - 3) / 6), abs=1e-5)
    with torch.no_grad():
        first = two.image(crop(before, 7 / 8))
    assert found["fid"] == pytest.approx(fid(images[1], first), rel=1e-3) and found["fid"] > 1e-4
    assert found["cmmd"] == pytest.approx(cmmd(images[1], first), rel=1e-2)
    assert 0 <= found["true"] <= 1 and found["looks"] <= 0
    shown = objective.samples(accelerator())
    assert [text for text, _ in shown] == texts[:2]
    for (_, image), picture in zip(shown, to_images(pixels), strict=False):
        assert np.abs(np.asarray(image).astype(int) - np.asarray(picture)).max() <= 1
    torch.manual_seed(77)
    assert objective.evaluate(accelerator()) == found


def drawn(objective: RewardObjective, prompts: list[str]) -> Tensor:
    """(B, 3, H, W): pictures of held-out prompts, as evaluations draw them."""
    found: dict[int, Tensor] = {}
    for members, text in objective.encode(prompts):
        found |= zip(members, objective.sample(text, [20_000 + m for m in members]), strict=True)
    return torch.stack([found[i] for i in range(len(prompts))])


def test_processes_share_the_held_out_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three prompts the first process fills rows 0 and 2, the second row 1; together what one would."""
    import longalign.objectives.reward.held_out as evaluation

    tables: list[Tensor] = []

    def shared(rows: Tensor, _: Any) -> Tensor:
        tables.append(rows.clone())
        rows[:, -1] += 1e-3  # features that are all zero have no direction
        return rows

    monkeypatch.setattr(evaluation, "_shared", shared)
    objective = make(distance_to="none")
    objective.held_out = HeldOut(load_prompts("stickers", split="validation", count=3), 5)
    for index, count in ((0, 1), (0, 2), (1, 2)):
        objective.context = BuildContext(torch.device("cpu"), 0, index, count)
        assert set(objective.evaluate(accelerator())) == {"reward", "diversity"}
    whole, first, second = tables
    assert len(whole) == 3 and not first[1].any() and not second[[0, 2]].any()
    torch.testing.assert_close(first + second, whole, rtol=1e-4, atol=1e-4)


def test_distances_from_what_the_prompts_are_captions_of(tmp_path: Path) -> None:
    """The scenes themselves, by the first judge; of prompts in a file nobody knows them."""
    one, _ = scorers()
    objective = make([Reward("one", one)], distance_to="pictures")
    prompts = load_prompts("stickers", split="validation", count=3)
    objective.held_out = HeldOut(prompts, 3)
    found = objective.evaluate(accelerator())
    scenes = torch.stack([to_pixels(StickerScenes(3, "validation").picture(i)) for i in range(3)])
    with torch.no_grad():
        pixels = drawn(objective, [prompts[i] for i in range(3)])
        mine, theirs = one.image(crop(pixels, 7 / 8)), one.image(crop(scenes, 7 / 8))
    assert found["fid"] == pytest.approx(fid(mine, theirs), rel=1e-3)
    assert found["cmmd"] == pytest.approx(cmmd(mine, theirs), rel=1e-2)
    (tmp_path / "prompts.txt").write_text("A cat.\n")
    data = RewardDataSettings(held_out=str(tmp_path / "prompts.txt"))
    with pytest.raises(LongalignError, match=r"reward\.distance_to: .* has no reference pictures"):
        load_held_out(objective.settings, data, "cpu")


def test_the_base_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = make()
    monkeypatch.delattr("longalign.weights.lora.fingerprint")
    objective.save(tmp_path)
    assert LoraFile.read(tmp_path).base == objective.base


def recipe(**reward: Any) -> Recipe:
    return Recipe.from_mapping(
        {
            "objective": "reward",
            "model": "stickers",
            "data": {"objects": [1, 2], "count": 50, "held_out": "stickers", "held_out_count": 2},
            "reward": {"v": "batch", "steps": 2, "gradient_steps": 1, "rank": 2, **reward},
            "train": {"steps": 2, "batch_size": 2, "lr": 1e-3, "log_every": 1, "max_grad_norm": 0.3},
        }
    )


def test_training_on_the_embedded_model_ends_in_a_lora_for_diffusers(tmp_path: Path) -> None:
    """Two steps of the loop; what is saved is not zero, and a plain pipeline loads it. A second stage stacks on it."""
    result = fit(recipe(), tmp_path / "run")
    assert {"reward", "diversity", "true"} <= set(result.evaluation)
    assert {"loss", "reward", "first_step"} <= set(result.metrics)
    assert result.model is not None
    pipe = load_pipeline("stickers", device="cpu", dtype="float32")
    pipe.load_lora_weights(result.model)
    ups = [p for n, p in pipe.unet.named_parameters() if "lora_B" in n]
    assert any(float(p.detach().abs().max()) > 0 for p in ups)
    second = recipe(start_from=[str(result.model)], evaluate_with=["stickers/clip"])
    task = RewardObjective.build("stickers", second.settings, second.data, CPU)  # type: ignore[arg-type]
    assert isinstance(task.objective, RewardObjective)
    assert lora.attached(task.objective.denoiser.module) == ["stage_0", "reward"]
    trainable = {n for n, p in task.objective.denoiser.module.named_parameters() if p.requires_grad}
    assert trainable and all(".reward." in n for n in trainable)
    task.objective.save(tmp_path / "both")
    assert LoraFile.read(tmp_path / "both").rank == 4  # both stages, of rank 2 each


def test_sticker_prompts_are_captions_of_the_same_scenes() -> None:
    """One sticker and nine in turn; with sentences that refer, where that is asked for."""
    ranges = ((1, 1), (9, 9))
    prompts = load_prompts("stickers", count=4, objects=ranges, referring=1.0)
    scenes = StickerScenes(4, objects=ranges, referring=1.0)
    assert [prompts[i] for i in range(4)] == [scenes[i].text for i in range(4)]
    assert min(len(prompts[1]), len(prompts[3])) > 3 * max(len(prompts[0]), len(prompts[2]))
    assert prompts[1] != load_prompts("stickers", count=4, objects=ranges)[1]
    assert (
        load_prompts("stickers", count=4, objects=(9, 9))[3]
        == load_prompts("stickers", count=4, objects=ranges)[3]
    )
    settings = RewardDataSettings.model_validate({"objects": [7, 9], "referring": True})
    assert (settings.objects, settings.referring) == (((7, 9),), 1.0)


def test_prompts_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "A cat."}\n{"caption": "A dog."}\n')
    prompts = load_prompts(str(tmp_path / "prompts.jsonl"))
    assert [prompts[i] for i in range(len(prompts))] == ["A cat.", "A dog."]  # type: ignore[arg-type]
    assert load_prompts("stickers", count=5)[3] == load_prompts("stickers", count=9)[3]
    assert load_prompts("stickers", count=5)[3] != load_prompts("stickers", split="validation", count=5)[3]
    with pytest.raises(LongalignError, match=r"no-such\.txt: no such file"):
        load_prompts(str(tmp_path / "no-such.txt"))


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("reward", {"solver": "dimm"}, "reward.solver: should be one of auto, own, unipc"),
        ("reward", {"spacing": "wide"}, "reward.spacing: should be one of"),
        ("reward", {"steps": 4, "gradient_steps": 5}, r"gradient_steps should be at most steps \(4\)"),
        ("reward", {"rewards": []}, "reward.rewards: "),
        ("reward", {"method": "drtuna"}, "reward.method: "),
        ("reward", {"omga": 1}, "did you mean reward.omega"),
        ("data", {"objects": [5, 2]}, "data.objects: should be least and most"),
    ],
)
def test_wrong_recipes_are_refused(section: str, values: dict[str, Any], message: str) -> None:
    given = {"objective": "reward", "model": "stickers", section: values}
    with pytest.raises(LongalignError, match=message):
        Recipe.from_mapping({**given, "train": {"steps": 1, "batch_size": 1, "lr": 1e-4}})


def test_defaults_are_the_papers() -> None:
    """DRTune with 5 of 50 DDIM steps, ω = 0.3; LCM with all of its four, and no guidance (FACTS §1.5)."""
    settings = RewardSettings()
    assert (settings.resolved_steps, settings.resolved_gradient_steps, settings.omega) == (50, 5, 0.3)
    lcm = RewardSettings(solver="lcm")
    assert (lcm.resolved_steps, lcm.resolved_gradient_steps) == (4, 4)
    objective = make(solver="lcm", steps=None, gradient_steps=None, guidance=None)
    assert objective.guidance == 1.0
    assert objective.solver.timesteps.tolist() == [999, 749, 499, 249]
    assert RewardDataSettings().prompts == "stickers"
