"""Repair: what is kept, what is accepted, how many calls it takes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from scripted_scorer import ScriptedScorer
from tiny import tiny_sd3, tiny_sd15, tiny_sdxl

import longalign
from longalign import LongalignError, PreferenceModel, encode
from longalign.backbones import denoising_module
from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.sampling import sample, set_scheduler
from longalign.repairing import Repaired, RepairSettings
from longalign.repairing.guide import preference_guide
from longalign.repairing.redraw import redraw
from longalign.repairing.regions import region_of

PROMPT = "A red cat sits. A dog runs. A house stands."
made = cache(lambda make: make())  # no test changes a pipeline


def ready(make: Callable[[], Any]) -> Any:
    pipe = made(make)
    set_scheduler(pipe)
    return pipe


def mended(pipe: Any, *script: Any, calibrated: bool = True, **options: Any) -> Repaired:
    scorer: Any = ScriptedScorer(*script, calibrated=calibrated)
    given = {"steps": 2, "guidance": 2.0, "size": (16, 16), "strategy": "clip-cat", "length": 24, **options}
    found = longalign.repair(pipe, PROMPT, scorer=scorer, **given)
    assert not scorer.script  # no more pictures, and no fewer
    return found


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sdxl, tiny_sd3])
def test_outside_of_the_region_latents_are_kept_to_the_bit(make: Callable[[], Any]) -> None:
    """And where the whole picture is drawn again from noise alone, it is the picture that the pipeline draws."""
    pipe = ready(make)
    conditioning = encode(pipe, PROMPT, strategy="clip-cat", length=24)
    latents: dict[int, Any] = {}
    options: Any = {"steps": 4, "guidance": 2.0}
    for seed in (1, 2):
        sample(
            pipe,
            conditioning,
            [seed],
            size=(16, 16),
            on_latents=lambda _, x, s=seed: latents.update({s: x}),
            **options,
        )
    region = torch.zeros(latents[1].shape[-2:], dtype=torch.bool)
    region[:3, 2:5] = True
    for start in (1.0, 0.5):
        found = redraw(pipe, latents[1], region, conditioning, 2, start=start, **options)
        assert torch.equal(found[:, ~region], latents[1][:, ~region])
        assert (found[:, region] != latents[1][:, region]).float().mean() > 0.9
    again = redraw(pipe, latents[1], torch.ones_like(region), conditioning, 2, **options)
    torch.testing.assert_close(again, latents[2], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sd3])
def test_calls_are_those_of_the_model(make: Callable[[], Any]) -> None:
    """Best of 2 with 2 steps, then a round of 2 and one of 2: 8 calls. With guidance each has two rows."""
    pipe = ready(make)
    rows: list[int] = []

    def count(_module: Any, args: Any, kwargs: Any) -> None:
        rows.append(len(args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))))

    handle = denoising_module(pipe).register_forward_pre_hook(count, with_kwargs=True)
    steps: list[int] = []
    script = [(0.1, 1, 1), (1, 0.2, 1), (1, 0.3, 1), (1, 1, 1)]
    # Random weights look everywhere: of the region only the very greatest is taken.
    found = mended(pipe, *script, best_of=2, rounds=3, level=1.0, on_step=steps.append)
    handle.remove()
    assert sum(rows) == 2 * found.calls == 16 and sum(steps) == 8
    assert [a.turn for a in found.attempts] == [0, 0, 1, 2]  # the third round had nothing to do
    assert found.first == 1 and found.chosen == 3 and found.image is found.after.image
    assert [a.doubtful for a in found.attempts] == [(), (), (1,), (1,)]
    assert found.maps is not None and found.maps.shape[0] == 3
    outside = ~found.after.region  # type: ignore[operator]
    assert outside.any() and found.after.mask().size == (16, 16)  # type: ignore[union-attr]
    assert found.to_json()["attempts"][3]["of"] == 2


def test_a_repair_that_spoils_another_sentence_is_not_accepted() -> None:
    """The mean rises from 0.63 to 0.8, but the third sentence becomes false. Then one that is better is accepted."""
    found = mended(ready(tiny_sd15), (0, 0.9, 1), (1, 1, 0.4), (0.9, 0.8, 0.96), rounds=2)
    assert [a.accepted for a in found.attempts] == [True, False, True]
    assert found.attempts[1].spoiled == (2,) and found.attempts[2].of == 0
    assert found.before is found.attempts[0]
    nothing = mended(ready(tiny_sd15), (1, 0.96, 1), rounds=2)
    assert nothing.calls == 2 and nothing.chosen == nothing.first == 0


def test_choice_and_redraw() -> None:
    """(0.1, 1, 1) has the better mean, (0.6, 0.6, 0.6) the better lowest. `redraw` draws new pictures in its rounds."""
    script = [(0.1, 1, 1), (0.6, 0.6, 0.6)]
    assert mended(ready(tiny_sd15), *script, best_of=2, rounds=0).chosen == 0
    assert mended(ready(tiny_sd15), *script, best_of=2, rounds=0, choice="lowest").chosen == 1
    drawn = mended(ready(tiny_sd15), *script, (1, 1, 0.5), rounds=2, method="redraw")
    assert drawn.chosen == 2 and drawn.calls == 6 and all(a.region is None for a in drawn.attempts)
    assert len({a.seed for a in drawn.attempts}) == 3


def test_scores_without_a_calibration() -> None:
    """The lowest sentence is repaired. One that costs another sentence more than a point is not accepted."""
    found = mended(ready(tiny_sd15), (20, 25, 30), (28, 25, 28), (24, 25, 29.5), calibrated=False, rounds=2)
    assert [a.doubtful for a in found.attempts[1:]] == [(0,), (0,)]
    assert [a.accepted for a in found.attempts] == [True, False, True] and not found.probable


def test_regions() -> None:
    """At 0.7 of the greatest: the 1.0 and the 0.8 of the first sentence; level 0 is all; a sentence that was cut off
    has none. On a fine grid ragged attention is smoothed first."""
    maps = torch.zeros(2, 2, 2)
    maps[0] = torch.tensor([[1.0, 0.8], [0.6, 0.0]])
    assert region_of(maps, [0], (4, 4)).tolist() == [[True] * 4] * 2 + [[False] * 4] * 2
    assert region_of(maps, [0], (2, 2), 0.0).all() and not region_of(maps, [1], (2, 2)).any()
    fine = torch.zeros(1, 32, 32)
    fine[0, 4:20:2, 4:20] = 1  # every second line
    assert region_of(fine, [0], (32, 32), 0.3)[5:18, 6:18].all()


def test_guidance_lowers_the_loss() -> None:
    """x̂_0 moves by a tenth of its length, against the gradient: P(true) rises. Outside of its steps nothing changes."""
    pipe = longalign.load_pipeline("stickers", device="cpu")
    denoiser, scorer = Denoiser.of(pipe), PreferenceModel.from_pretrained("stickers", device="cpu")
    texts = ["There is a fox in the middle.", "The background is navy."]
    guide = preference_guide(denoiser, scorer, texts, [0])
    x, f = torch.randn(2, 1, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    assert guide(0, 10, x, f, 900.0) is f
    moved = guide(5, 10, x, f, 500.0)
    before, after = (denoiser.x0(x, of, 500.0) for of in (f, moved))
    assert float((after - before).norm()) == pytest.approx(0.1 * float(before.norm()), rel=1e-3)
    with torch.no_grad():
        said = scorer.score(denoiser.decode(torch.cat([before, after])), " ".join(texts)).segments
    assert said[1][0].late > said[0][0].late  # type: ignore[operator]


@pytest.mark.parametrize("model", ["stickers", "stickers-sd3"])
def test_a_sticker_scene(model: str) -> None:
    """Whole repairs with the embedded scorer, by name and with the gradient: P(true) does not fall."""
    pipe = longalign.load_pipeline(model, device="cpu")
    set_scheduler(pipe)
    prompt = "The background is navy. A fox is in the top left. There is a frog in the middle."
    found = longalign.repair(
        pipe, prompt, scorer="stickers", rounds=1, steps=3, method="region+weights+gradient", length=77
    )
    assert found.probable and found.after.verdicts.rank("mean") >= found.before.verdicts.rank("mean")
    for attempt in found.attempts[1:]:
        assert attempt.doubtful and attempt.region is not None and attempt.calls == 3


def test_what_is_refused() -> None:
    pipe: Any = ready(tiny_sd15)
    scorer: Any = ScriptedScorer()
    for options, says in (
        ({"scorer": None}, "needs a preference model that says which sentences are false"),
        ({"best_of": 0}, "best of at least 1 picture"),
        ({"rounds": -1}, "rounds of repair are 0 or more"),
        ({"method": "regoin"}, "did you mean 'region'"),
        ({"choice": "best"}, "choice 'best' is unknown"),
        ({"weight": float("nan")}, "a weight must be a number"),
        ({"level": 2.0}, "level of a region is from 0 to 1"),
        ({"start": 0.0}, "start is more than 0"),
        ({"prompt": " … "}, "has no sentence"),
        ({"prompt": "a (red:1.2) fox", "syntax": "a1111"}, "do not go with the notation of A1111"),
    ):
        given = {"prompt": PROMPT, "scorer": scorer, "steps": 1, **options}
        with pytest.raises(LongalignError, match=says):
            longalign.repair(pipe, **given)
    with pytest.raises(LongalignError, match="region is empty"):
        region = torch.zeros(8, 8, dtype=torch.bool)
        redraw(pipe, torch.zeros(4, 8, 8), region, encode(pipe, "A fox."), 0, steps=1)
    assert (
        RepairSettings(method="weights").weight_in(2) == 1.5
        and RepairSettings(method="region").weight_in(2) == 1
    )
