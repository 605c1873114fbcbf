"""The sticker world: the embedded default of every command, and a test bed where the truth about a picture is known.

| file | holds |
|---|---|
| `world.py` | scenes on a 3 × 3 grid, and their pictures |
| `captions.py` | sentences with the facts that they state, false facts, and parsing of sentences |
| `changes.py` | scenes that differ in one fact |
| `described.py` | the scene that sentences describe |
| `oracle.py` | reads pixels: is a fact true, false, or unclear? |
| `looks.py`, `raters.py` | degraded pictures, and simulated raters who weigh truth against looks |
| `scene_source.py`, `scene_pairs.py` | scenes as training data, and as pairs for retrieval and scoring |
| `share_true.py` | the share of sentences that are true of a model's pictures |
| `tokenizers.py` | real CLIP and T5 tokenizers over the words of this world |
| `models.py`, `sdxl_sd3_models.py` | the tiny models: their configurations, and what SDXL and SD3 add |
| `assembly.py` | SDXL and SD3 folders, assembled on first use |
| `files.py` | scenes and models on disk |
| `as_world.py` | the sticker world as an entry of `longalign.worlds` |
| `making/` | how the tiny models were trained and packed |
| `weights/` | the trained models in float16, with their training curves |
"""

from __future__ import annotations

from pathlib import Path

from longalign.errors import LongalignError

MODELS = {"stickers": "sd15", "stickers-sdxl": "sdxl", "stickers-sd3": "sd3"}  # names elsewhere, and here


def folder(name: str = "sd15") -> Path:
    """An embedded model, as an ordinary diffusers folder.

    Args:
        name: ``sd15``, which is in the package as it is; ``sdxl`` or ``sd3``, which are assembled on first use.

    Raises:
        LongalignError: there is none of this name, or not in this version.
    """
    weights = Path(__file__).parent / "weights"
    if name == "sd15":
        return weights / name
    told = f"stickers-{name}"
    if told not in MODELS:
        raise LongalignError(f"there is no embedded model {told}; there are {', '.join(MODELS)}")
    if not (weights / name / "longalign.json").is_file():
        raise LongalignError(
            f"{told} is not shipped in this version; train it (longalign stickers train {name} --out DIR) and pack it "
            f"(longalign stickers pack DIR {weights / name} --model {name})"
        )
    from longalign.stickers.assembly import assembled

    return assembled(name, weights)


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


LORAS = ("sft", "reward", "sft-context")  # stages of training; the last two each stand on the first


def lora_names() -> list[str]:
    """The embedded LoRAs of this version, by the names that follow `stickers/`, in the order of training."""
    return [name for name in LORAS if (_weights(name) / "pytorch_lora_weights.safetensors").is_file()]


def lora_folder(name: str) -> Path:
    """An embedded LoRA of the embedded model.

    Raises:
        LongalignError: there is none of this name, or not in this version.
    """
    if name not in LORAS:
        raise LongalignError(
            f"there is no embedded LoRA stickers/{name}; there are {', '.join(f'stickers/{n}' for n in LORAS)}"
        )
    if name not in lora_names():
        raise LongalignError(
            f"stickers/{name} is not shipped in this version; train it (longalign train stickers-{name}) "
            "and name the run folder"
        )
    return _weights(name)


def token_names(model: str = "stickers") -> list[str]:
    """The embedded soft tokens of an embedded model, by the names that follow `MODEL/`: SoftREPA's own first.

    Args:
        model: of `MODELS`; another one has none.
    """
    there = (
        [file.parent.name for file in _weights("tokens").glob(f"{MODELS[model]}/*/soft_tokens.safetensors")]
        if model in MODELS
        else []
    )
    return sorted(there, key=lambda name: (name != "softrepa", name))


def token_folder(name: str, model: str = "stickers") -> Path:
    """One of `token_names`: a folder that `SoftTokens.from_pretrained` reads.

    Args:
        name: of the tokens, such as ``softrepa``.
        model: the embedded model that they belong to, one of `MODELS`.

    Raises:
        LongalignError: there is none of this name in this version.
    """
    if name not in (names := token_names(model)):
        there = ", ".join(f"{model}/{n}" for n in names) or f"none for {model}"
        raise LongalignError(
            f"there are no embedded soft tokens {model}/{name}; this version ships {there}. Train some (longalign "
            f"train stickers-softrepa model={model}) and name the run folder; a folder of your own is "
            f"./{model}/{name}"
        )
    return _weights("tokens") / MODELS[model] / name


def _weights(name: str) -> Path:
    return folder().parent / name
