"""Checks of the sticker world: the oracle on clean and degraded pictures, the base model on held-out scenes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from longalign.report import CLUSTERED, Estimate, Table, wilson
from longalign.stickers.captions import facts, lie
from longalign.stickers.oracle import read
from longalign.stickers.share_true import share_true
from longalign.stickers.world import Scene, render, scene

Spoil = Callable[[Image.Image, np.random.Generator], Image.Image]


def noise(image: Image.Image, rng: np.random.Generator, deviation: float = 16.0) -> Image.Image:
    """Gaussian noise with this standard deviation in grey levels."""
    values = np.asarray(image) + rng.normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def blur(image: Image.Image, rng: np.random.Generator, radius_px: float = 1.0) -> Image.Image:
    """Gaussian blur."""
    return image.filter(ImageFilter.GaussianBlur(radius_px))


def jpeg(image: Image.Image, rng: np.random.Generator, quality: int = 40) -> Image.Image:
    """JPEG compression."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


SPOILS: dict[str, Spoil] = {
    "clean": lambda image, rng: image,
    "blurred (1 px)": blur,
    "noisy (σ = 16/255)": noise,
    "JPEG (quality 40)": jpeg,
}


def _scenes(count: int) -> Iterator[Scene]:
    for i in range(count):
        yield scene(i, objects=(1, 9), split="validation")


def _through_vae(model: str) -> Spoil:
    """Encode and decode with the model's VAE (posterior mean)."""
    import torch

    from longalign.diffusion.sampling import to_images
    from longalign.weights.stack import (
        load_pipeline,
    )

    vae = load_pipeline(model, device="cpu", dtype="float32").vae

    @torch.no_grad()
    def spoil(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        decoded = vae.decode(vae.encode(x).latent_dist.mean).sample
        return to_images((decoded / 2 + 0.5).clamp(0, 1))[0]

    return spoil


def check_oracle(
    sentences: int = 10_000,
    *,
    model: str | None = "stickers",
    on_step: Callable[[int], None] = lambda steps: None,
) -> Table:
    """Accuracy of the oracle on true and on false sentences, and how often it calls a sentence unclear.

    Args:
        sentences: at least this many true ones, and as many false ones, for each kind of degradation.
        model: one kind of degradation is encoding and decoding by the VAE of this model; None leaves it out.
    """
    spoils = dict(SPOILS)
    if model is not None:
        spoils["through the VAE"] = _through_vae(model)
    rows: list[list[str | Estimate]] = []
    for name, spoil in spoils.items():
        rng = np.random.default_rng(0)
        right = {True: 0, False: 0}
        called = {True: 0, False: 0}
        asked = 0
        for drawn in _scenes(sentences):
            reading = read(spoil(render(drawn), rng))
            for fact in facts(drawn):
                for truth, stated in ((True, fact), (False, lie(drawn, fact, rng))):
                    verdict = reading.judge(stated)
                    called[truth] += verdict != "unclear"
                    right[truth] += verdict == str(truth).lower()
            asked += len(facts(drawn))
            if asked >= sentences:
                break
        both = called[True] + called[False]
        rows.append(
            [
                name,
                wilson(right[True], called[True], format=".2%"),
                wilson(right[False], called[False], format=".2%"),
                wilson(right[True] + right[False], both, format=".2%"),
                wilson(2 * asked - both, 2 * asked, format=".2%"),
            ]
        )
        on_step(1)
    return Table(
        "The oracle on pictures whose truth is known",
        ["pictures", "right, true sentences", "right, lies", "right, of those called", "unclear"],
        rows,
        note=f"At least {sentences} true sentences and as many lies a row; 95 % Wilson intervals.",
    )


def check_model(
    scenes: int = 200,
    *,
    model: str = "stickers",
    objects: tuple[int, int] = (1, 4),
    guidance: float | None = None,
    strategies: tuple[str, ...] | None = None,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> Table:
    """Share of true sentences in pictures of held-out scenes by the base model (25 steps; UniPC, or Euler for flows).

    Args:
        scenes: how many.
        model: name of the model.
        objects: least and greatest number of stickers.
        guidance: None is the model's own.
        strategies: None is `strategies_of(model)`.
    """
    from longalign.diffusion.pipelines import settings_of
    from longalign.weights.stack import (
        load_pipeline,
        t5_branch,
    )

    pipe = load_pipeline(model, device="cpu", dtype="float32")
    settings = settings_of(model)
    strategies = strategies_of(model) if strategies is None else strategies
    row: list[str | Estimate] = [f"{objects[0]}–{objects[1]} stickers"]
    for strategy in strategies:
        true, chance = share_true(
            pipe,
            scenes,
            objects=objects,
            strategy=strategy,
            t5=t5_branch(model, strategy, pipe),
            length=settings.length,
            guidance=settings.guidance if guidance is None else guidance,
            on_step=on_step,
        )
        row.append(true)
    return Table(
        "Sentences that are true of pictures by the base model",
        ["held-out scenes", *strategies, "chance"],
        [[*row, chance]],
        note=f"{scenes} scenes; unclear counts as not true; 95 % {CLUSTERED.format('scene')}.",
    )


def strategies_of(model: str) -> tuple[str, ...]:
    """The encodings that a model folder has all parts for."""
    from longalign.worlds import resolve_model

    has_branch = (Path(resolve_model(model)) / "adapter").is_dir()
    return ("plain", "clip-cat", "t5-mlp") if has_branch else ("plain", "clip-cat")
