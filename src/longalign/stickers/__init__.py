"""The sticker world: the embedded default of every command, and the test bed of every claim.

| file | holds |
|---|---|
| `world.py` | scenes on a 3 × 3 grid and their pictures |
| `captions.py` | sentences with the facts they state, lies, and the way back from text |
| `oracle.py` | reads pixels: is a fact true, false, or unclear? |
| `tokenizers.py` | real CLIP and T5 tokenizers over the words of this world |
| `models.py` | the tiny models, by their configurations |
| `patch_code.py` | the latent code of the VAE |
| `parts.py`, `denoising.py`, `readout.py` | what each tiny model learns from |
| `training.py` | the loop that made the weights |
| `looks.py`, `raters.py` | spoilt pictures, and simulated raters who weigh truth against looks |
| `files.py`, `cli.py` | scenes and models on disk; `longalign stickers …` |
| `check.py` | how far the oracle and the models can be trusted |
| `weights/` | the trained models, in fp16, with their curves |
"""

from __future__ import annotations

from pathlib import Path

from longalign.errors import LongalignError


def folder() -> Path:
    """The embedded model: a diffusers `StableDiffusionPipeline` folder."""
    return Path(__file__).parent / "weights" / "sd15"


def preference_names() -> list[str]:
    """The embedded preference models, by the names that follow `stickers/`: the plain CLIP first, Denscore last."""
    others = (file.parent.name for file in folder().parent.glob("*/preprocessor_config.json"))
    return ["clip", *sorted(others, key=lambda name: (name == "denscore", name))]


def preference_folder(name: str = "denscore") -> Path:
    """One of `preference_names`: a `CLIPModel` folder; its tokenizer is the embedded pipeline's.

    Raises:
        LongalignError: there is none of this name.
    """
    if name not in (names := preference_names()):
        there = ", ".join(f"stickers/{n}" for n in names)
        raise LongalignError(f"there is no embedded preference model stickers/{name}; there are {there}")
    return folder() / "clip" if name == "clip" else folder().parent / name
