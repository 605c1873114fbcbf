"""Pictures from conditionings: seeds, batches, solvers, NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import longalign
from longalign.diffusion.sampling import (
    SCHEDULERS,
    draw,
    sample,
    set_scheduler,
    to_images,
)
from longalign.errors import LongalignError
from longalign.weights.stack import (
    load_pipeline,
)

PROMPTS = [
    "A fox is in the top left. The background is navy.",
    "There is a star on a red disc in the middle. Everything is on a white background.",
    "The background is pink. " + "A frog is in the top right. " * 12,
]


@pytest.fixture(scope="module")
def pipe():
    pipe = load_pipeline("stickers", device="cpu")
    set_scheduler(pipe, "unipc")
    return pipe


def drawn(pipe, prompts: list[str], seeds: list[int], **sampling) -> list[Image.Image]:
    return draw(pipe, prompts, seeds, length=77, sampling=sampling)


def levels_apart(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


def test_same_seed_and_prompt_same_picture_whatever_is_beside_it(pipe) -> None:
    """Alone, in a batch, in another order, and beside a prompt of another padded length: within 2 of 255 levels."""
    alone = [drawn(pipe, [p], [5], steps=6)[0] for p in PROMPTS]
    together = drawn(pipe, PROMPTS, [5, 5, 5], steps=6)
    backwards = drawn(pipe, PROMPTS[::-1], [5, 5, 5], steps=6, batch_size=2)[::-1]
    for i in range(3):
        assert levels_apart(alone[i], together[i]) <= 2
        assert levels_apart(alone[i], backwards[i]) <= 2


def test_another_seed_is_another_picture(pipe) -> None:
    first, second = drawn(pipe, [PROMPTS[0]] * 2, [0, 1], steps=3)
    assert levels_apart(first, second) > 20


def test_on_step_counts_pictures_times_steps(pipe) -> None:
    counted: list[int] = []
    drawn(pipe, PROMPTS, [0, 1, 2], steps=4, batch_size=2, on_step=counted.append)
    assert sum(counted) == 12


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_solver_draws(name: str) -> None:
    pipe = load_pipeline("stickers", device="cpu")
    assert set_scheduler(pipe, name) == SCHEDULERS[name] == type(pipe.scheduler).__name__
    conditioning = longalign.encode(pipe, PROMPTS[0], length=77)
    [picture] = sample(pipe, conditioning, [0], steps=3, guidance=2.0)
    assert picture.size == (96, 96)


def test_unknown_solver_and_wrong_numbers(pipe) -> None:
    with pytest.raises(LongalignError, match=r"scheduler 'magic' is unknown; There are auto.*unipc"):
        set_scheduler(pipe, "magic")
    conditioning = longalign.encode(pipe, PROMPTS[0], length=77)
    with pytest.raises(LongalignError, match="1 prompts need as many seeds, not 2"):
        sample(pipe, conditioning, [0, 1])
    with pytest.raises(LongalignError, match="steps"):
        sample(pipe, conditioning, [0], steps=0)


def test_nan_is_said_and_not_drawn() -> None:
    pixels = torch.zeros(1, 3, 4, 4)
    pixels[0, 0, 0, 0] = torch.nan
    with pytest.raises(LongalignError, match=r"NaN.*float32"):
        to_images(pixels)


def test_to_images_rounds_and_clamps() -> None:
    """0.5·255 = 127.5 rounds to 128 (to even); −1 and 2 are clamped."""
    pixels = torch.tensor([-1.0, 0.5, 2.0]).reshape(1, 3, 1, 1)
    assert to_images(pixels)[0].getpixel((0, 0)) == (0, 128, 255)
