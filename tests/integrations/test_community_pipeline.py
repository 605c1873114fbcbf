"""The files of integrations/diffusers, loaded by diffusers as ``custom_pipeline``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import dynamic_modules_utils

import longalign
from longalign.errors import LongalignError
from longalign.stickers import folder

FILES = Path(__file__).resolve().parents[2] / "integrations" / "diffusers"
LONG = "The background is navy. " + "".join(
    f"A {what} is in the {where}. "
    for what, where in (("fox", "top left"), ("frog", "top right"), ("bee", "middle"), ("owl", "bottom left"))
    for _ in range(4)
)


def custom(name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pipeline of an embedded model. diffusers copies the file into a folder of this test."""
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    for module in [m for m in sys.modules if m.startswith("diffusers_modules")]:
        monkeypatch.delitem(sys.modules, module)
    pipe = DiffusionPipeline.from_pretrained(
        folder(name), custom_pipeline=str(FILES / file), trust_remote_code=True, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, *args: Any, **kwargs: Any) -> list[Any]:
    images = pipe(*args, num_inference_steps=1, generator=torch.Generator().manual_seed(0), **kwargs).images
    return [np.asarray(image) for image in images]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sd15", "longalign_pipeline.py"),
        ("sdxl", "longalign_sdxl_pipeline.py"),
        ("sd3", "longalign_sd3_pipeline.py"),
    ],
)
def test_the_pictures_are_those_of_encode_and_pipeline(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, two pictures of a long prompt, with an option of each kind."""
    pipe = custom(name, file, tmp_path, monkeypatch)
    plain = DiffusionPipeline.from_pretrained(folder(name), local_files_only=True)
    plain.set_progress_bar_config(disable=True)
    cond = longalign.encode(plain, LONG, "blurry", length=160)
    wanted = drawn(plain, **cond.pipeline_kwargs(2), guidance_scale=3.0)
    found = drawn(
        pipe, LONG, negative_prompt="blurry", num_images_per_prompt=2, length=160, guidance_scale=3.0
    )
    assert len(found) == 2 and all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert len(pipe.conditioning.segments[0]) == 17 and pipe.conditioning.truncation == ((),)
    if name == "sd15":
        _the_rest(pipe, cond, wanted)


def _the_rest(pipe: Any, cond: Any, wanted: list[Any]) -> None:
    """Embeddings go through; a short prompt is the pipeline's own; errors are those of `encode`."""
    found = drawn(pipe, **cond.pipeline_kwargs(2), guidance_scale=3.0)
    assert np.array_equal(found[0], wanted[0]) and pipe.conditioning is None
    with pytest.raises(LongalignError, match="pad_together=True"):
        drawn(pipe, ["A fox is here.", LONG * 2], strategy="clip-cat")
    assert len(drawn(pipe, ["A fox is here.", LONG * 2], pad_together=True)) == 2
    with pytest.raises(LongalignError, match="'lenght' is unknown; did you mean 'length'"):
        drawn(pipe, LONG, lenght=160)
