"""SDXL and SD3 folders, put together on first use: the embedded SD1.5's parts and their own (`weights/<name>`).

An assembled folder lies in the user's cache (or, where there is none to write to, in a temporary folder of this
process) under a name that is a hash of all that it is made of. Files that stay as they are, are linked where the system
allows it. It gets its name when it is whole, so any number of processes may assemble at once.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

LAYOUT = 2  # raise it when this file or `sdxl_sd3_models.py` makes other folders of the same weights
CONTENTS = "assembled.json"  # the files of a whole folder
BASE = "base.json"  # beside own weights: hashes of what they were trained on
WEIGHTS = "diffusion_pytorch_model.safetensors"
OWN_WEIGHTS = "own.safetensors"
# The parts of SD1.5 that go into each, and those among them that its denoiser was trained on.
SHARED = {
    "sdxl": ("clip", "scheduler", "tokenizer", "unet", "vae"),
    "sd3": ("clip", "t5", "t5_tokenizer", "tokenizer", "vae"),
}
TRAINED_ON = {"sdxl": ("clip", "tokenizer", "unet"), "sd3": ("clip", "t5", "t5_tokenizer", "tokenizer")}


def assembled(name: str, weights: Path) -> Path:
    """The whole diffusers folder of ``sdxl`` or ``sd3``; made if it is not there yet, or has been damaged.

    Args:
        weights: the folder with ``sd15`` and ``<name>`` in it. It is only read.
    """
    title = f"{name}-{digest(name, weights)}"
    try:
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        return _placed(cache / title, lambda out: _assemble(name, weights, out))
    except OSError:  # no such place, no permission, no room
        return _placed(temporary_folder() / title, lambda out: _assemble(name, weights, out))


def cache_folder() -> Path:
    """Where assembled folders are kept: ``$XDG_CACHE_HOME/longalign/stickers``, by default below ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "longalign" / "stickers"


@lru_cache(maxsize=1)
def temporary_folder() -> Path:
    """Of this process, which removes it when it ends."""
    made = Path(tempfile.mkdtemp(prefix="longalign-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def digest(name: str, weights: Path) -> str:
    """Changes with every byte of every part, and with the place of the parts, since they are linked."""
    hashed = hashlib.blake2b(f"{LAYOUT} {weights.resolve()}".encode(), digest_size=8)
    hashed.update(_digest_files([weights / name, *(weights / "sd15" / part for part in SHARED[name])]))
    return hashed.hexdigest()


def trained_on(name: str, sd15: Path) -> dict[str, str]:
    """Hashes of the parts that a denoiser depends on: it is of no use beside others."""
    return {part: _digest_files([sd15 / part]).hex() for part in TRAINED_ON[name]}


def _digest_files(folders: list[Path]) -> bytes:
    hashed = hashlib.blake2b(digest_size=8)
    for folder in folders:
        for file in sorted(f for f in folder.rglob("*") if f.is_file()):
            data = file.read_bytes()
            hashed.update(f"{folder.name}/{file.relative_to(folder).as_posix()} {len(data)}\n".encode())
            hashed.update(data)
    return hashed.digest()


def _placed(final: Path, make: Callable[[Path], None]) -> Path:
    """Makes a folder under a temporary name beside `final`; whoever renames first has made it."""
    if _is_whole(final):
        return final
    made = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        make(made)
        files = sorted(f.relative_to(made).as_posix() for f in made.rglob("*") if not f.is_dir())
        (made / CONTENTS).write_text(json.dumps(files))
        try:
            made.rename(final)
        except OSError:
            if not _is_whole(final):  # not another process's work, but something that has lost a file
                damaged = Path(tempfile.mkdtemp(prefix=".damaged-", dir=final.parent))
                final.rename(damaged / final.name)
                shutil.rmtree(damaged, ignore_errors=True)
                made.rename(final)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return final


def _is_whole(folder: Path) -> bool:
    try:
        return all((folder / name).exists() for name in json.loads((folder / CONTENTS).read_text()))
    except (OSError, ValueError):
        return False


def _link(source: Path, out: Path) -> None:
    """A file, or every file of a folder, linked or else copied."""
    for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
        if file.is_dir():
            continue
        place = out / file.relative_to(source) if source.is_dir() else out
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            place.symlink_to(file.resolve())
        except OSError:
            shutil.copyfile(file, place)


def _assemble(name: str, weights: Path, out: Path) -> None:
    """Writes all parts, and the index last."""
    import diffusers
    import torch

    from longalign.diffusion.pipelines import SETTINGS_FILE
    from longalign.runtime import quiet

    sd15, own = weights / "sd15", weights / name
    # Encoders draw initial weights before they are loaded: a training's random numbers must not depend on whether the
    # folder was there already.
    with quiet(), torch.random.fork_rng(devices=[]):
        text = _write_text_parts(name, sd15, out)
    if name == "sdxl":
        _link(sd15 / "vae", out / "vae")
        _link(sd15 / "scheduler", out / "scheduler")
        _link(own / "unet" / "config.json", out / "unet" / "config.json")
        _merge(sd15 / "unet", own / "unet", out / "unet")
        parts = {
            "unet": ("diffusers", "UNet2DConditionModel"),
            "scheduler": ("diffusers", "DDIMScheduler"),
        }
        more = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    else:
        _link(own / "transformer", out / "transformer")
        _link(own / "scheduler", out / "scheduler")
        _link(sd15 / "vae" / WEIGHTS, out / "vae" / WEIGHTS)
        config = json.loads((sd15 / "vae" / "config.json").read_text())
        # SD3's pipeline adds the shift, and SD1.5's autoencoder has None there.
        (out / "vae" / "config.json").write_text(json.dumps({**config, "shift_factor": 0.0}, indent=2))
        parts = {
            "transformer": ("diffusers", "SD3Transformer2DModel"),
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        }
        more = {"_class_name": "StableDiffusion3Pipeline"}
    _link(own / SETTINGS_FILE, out / SETTINGS_FILE)
    parts |= {"vae": ("diffusers", "AutoencoderKL"), **text}
    none = dict.fromkeys(("feature_extractor", "image_encoder"), (None, None))
    index = {**more, "_diffusers_version": diffusers.__version__, **parts, **none}
    (out / "model_index.json").write_text(json.dumps(index, indent=2))


def _write_text_parts(name: str, sd15: Path, out: Path) -> dict[str, tuple[str, str]]:
    """Text encoders in fp16 and their tokenizers; their classes, as the index states them."""
    import torch

    from longalign.stickers.sdxl_sd3_models import text_parts

    parts = text_parts(name, sd15)
    classes = {}
    for part, tokenizer, encoder in zip(parts.names, parts.tokenizers, parts.text_encoders, strict=True):
        encoder.to(torch.float16).save_pretrained(out / part)
        draw_in_float32(out / part)
        own = part.replace("text_encoder", "tokenizer")
        _link(sd15 / ("t5_tokenizer" if part == "text_encoder_3" else "tokenizer"), out / own)
        classes[part] = ("transformers", type(encoder).__name__)
        classes[own] = ("transformers", type(tokenizer).__name__)
    return classes


def draw_in_float32(text_encoder: Path) -> None:
    """Lets a text encoder be loaded in float32, whatever its file is in, as diffusers loads UNet and VAE.

    transformers takes the precision from `config.json`. In float16 beside a UNet in float32 the folder could not draw.
    """
    config = text_encoder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float32"}, indent=2) + "\n")


def _merge(shared: Path, own: Path, out: Path) -> None:
    """SD1.5's tensors, with `own` ones in their place or beside them."""
    from safetensors.torch import load_file, save_file

    tensors = {**load_file(shared / WEIGHTS), **load_file(own / OWN_WEIGHTS)}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
