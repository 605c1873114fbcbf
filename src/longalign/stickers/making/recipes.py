"""Recipes of the tiny models' training, which `longalign stickers train PART` runs.

    longalign stickers train all --out runs/stickers

Each part is a run of `longalign.training.fit` in ``<out>/runs/<part>``. When it is complete, its model folders are
copied to ``<out>`` and its metrics to ``<out>/<part>.jsonl``, for later parts and for `longalign stickers pack`.
The same command resumes a run that was stopped. Parts see scenes of the ``train`` split whose captions fit 77 tokens
(1–5 stickers); the VAE reads no captions and sees 2–9. ``sdxl``,
``sd3`` and ``denscore`` are trained on the embedded model's parts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from longalign.plugins import Table
from longalign.training.loop import fit
from longalign.training.progress import FitResult
from longalign.training.recipe import Recipe
from longalign.worlds import DEFAULT

PARTS = Table(
    "sticker part",
    {
        "vae": "longalign.stickers.making.parts:VAE",
        "clip": "longalign.stickers.making.parts:CLIP",
        "t5": "longalign.stickers.making.parts:T5",
        "unet": "longalign.stickers.making.denoising:UNet",
        "adapter": "longalign.stickers.making.denoising:Adapter",
        "sdxl": "longalign.stickers.making.sdxl_sd3:SDXL",
        "sd3": "longalign.stickers.making.sdxl_sd3:SD3",
        "denscore": "longalign.stickers.making.denscore_part:Denscore",
    },
)
SD15_PARTS = (
    "vae",
    "clip",
    "t5",
    "unet",
    "adapter",
)  # in the order of training: later ones need earlier ones

# Steps of a part's training, unless others are asked for.
STEPS: dict[str, int] = {
    "vae": 6000,
    "clip": 1500,
    "t5": 800,
    "unet": 3000,
    "adapter": 600,
    "sdxl": 600,
    "sd3": 2500,
    "denscore": 4000,  # for a GPU; on a CPU 1,000 steps bring almost as much
}


class StickerPartSettings(BaseModel):
    """The section ``sticker_part`` of a recipe.

    The recipe's ``model`` is the folder with the parts that were trained before, or ``stickers`` for sdxl, sd3
    and denscore.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    part: str = Field(description="vae, clip, t5, unet, adapter, sdxl, sd3 or denscore")
    steps: int = Field(gt=0, description="steps that the part's curriculum takes: train.steps")


class SceneSettings(BaseModel):
    """The section ``data`` of a recipe: sticker scenes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(1_000_000, gt=0, description="number of scenes")


def part_recipe(part: str, out: Path, *, steps: int, seed: int = 0) -> Recipe:
    """The recipe of one part.

    Args:
        part: a name in `PARTS`.
        out: folder with the parts that were trained before.
        steps: updates of the weights.
        seed: of initial weights, scenes and noise.

    Raises:
        LongalignError: no such part.
    """
    kind = PARTS[part]
    return Recipe.from_mapping(
        {
            "objective": "sticker_part",
            "model": str(out) if part in SD15_PARTS else DEFAULT,
            "seed": seed,
            "sticker_part": {"part": part, "steps": steps},
            "data": {"count": steps * kind.batch_size},  # each scene once
            "train": {
                "steps": steps,
                "batch_size": kind.batch_size,
                "lr": kind.learning_rate,
                "betas": [0.9, 0.98],
                "schedule": "cosine",
                "min_lr": kind.learning_rate / 100,
                "warmup_steps": round(0.02 * steps),
                "ema": 0.998,
                "log_every": 50,
                "evaluate_every": -(-steps // kind.evaluations) if kind.evaluations else 0,
                "checkpoint_every_s": 120.0,
                "tracker": "none",
            },
        }
    )


def train_part(
    part: str,
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    cpu: bool = False,
    on_step: Callable[[int, Mapping[str, Any]], None] = lambda step, row: None,
) -> FitResult:
    """Train one part, or resume its training, and put the trained model into ``out``.

    Args:
        part: a name in `PARTS`.
        out: folder of the trained parts, and of the run folders in ``runs/``.
        steps: updates of the weights; None: `STEPS` of the part.
        seed: of initial weights, scenes and noise.
        cpu: train on the CPU, also where there is a GPU.
        on_step: as in `longalign.training.fit`.

    Raises:
        LongalignError: no such part, a part that it needs is missing, or ``out`` holds a run of other settings.
    """
    recipe = part_recipe(part, out, steps=steps or STEPS[part], seed=seed)
    result = fit(recipe, out / "runs" / part, cpu=cpu, on_step=on_step)
    if result.model is not None:
        shutil.copytree(result.model, out, dirs_exist_ok=True)
        shutil.copy(result.folder / "metrics.jsonl", out / f"{part}.jsonl")
    return result
