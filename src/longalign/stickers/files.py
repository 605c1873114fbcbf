"""The sticker world on disk: scenes as an image folder, trained parts as one pipeline folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from longalign.errors import LongalignError
from longalign.plugins import unknown
from longalign.runs import atomic_path, atomic_write_text, json_line
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import CELL_PX, MAX_OBJECTS, SCENE_PX, SPLITS, render, scene

# The embedded SD3 knows its captions without much guidance, so the papers' 3.5 and 13.5 (of 4) overshoot, and where the
# two texts' guidance differs the whole picture drifts (LOG.md).
STICKER_FLOWEDIT = {"start": 0.8, "source_guidance": 2.0, "target_guidance": 2.0}


_SCENE_FILE = re.compile(r"\d{6}\.png")


def parse_range(text: str) -> tuple[int, int]:
    """``"1-5"`` or ``"9"`` → (1, 5) or (9, 9)."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not 0 <= low <= high <= MAX_OBJECTS:
        raise LongalignError(f"objects must be a range within 0-{MAX_OBJECTS}, such as 1-5, not {text!r}")
    return low, high


def render_folder(
    out: Path,
    count: int,
    objects: str = "1-5",
    *,
    split: str = "train",
    seed: int = 0,
    referring: bool = False,
    scale: int = 1,
    overwrite: bool = False,
) -> int:
    """Writes scenes as PNG files and `metadata.jsonl` with `file_name`, `text` and the facts; returns how many.

    Args:
        overwrite: remove an earlier set of scenes in `out` first.

    Raises:
        LongalignError: an option is wrong; or `out` holds an earlier set that is not to be overwritten, or files of
            another kind, which would be mixed with this set.
    """
    low_high = parse_range(objects)
    if split not in SPLITS:
        raise LongalignError(unknown("split", split, SPLITS))
    _make_room(out, overwrite)
    lines = []
    for i in range(count):
        drawn = scene(i, objects=low_high, split=split, seed=seed)
        said = caption(drawn, i, referring=referring)
        name = f"{i:06d}.png"
        with atomic_path(out / name) as temporary:
            render(drawn, CELL_PX * scale).save(temporary, format="PNG")
        sentences = [{"text": s.text, **{k: getattr(s.fact, k) for k in s.fact.__slots__}} for s in said]
        lines.append(json_line({"file_name": name, "text": text_of(said), "sentences": sentences}))
    atomic_write_text(out / "metadata.jsonl", "".join(lines))
    return count


def _make_room(out: Path, overwrite: bool) -> None:
    """An empty folder for `render_folder`, or none yet."""
    if out.exists() and not out.is_dir():
        raise LongalignError(f"{out} is a file; scenes need a folder. Choose another name.")
    there = sorted(out.iterdir()) if out.is_dir() else []
    if not there:
        return
    others = [f.name for f in there if not (f.name == "metadata.jsonl" or _SCENE_FILE.fullmatch(f.name))]
    if others:
        raise LongalignError(
            f"{out} holds other files ({others[0]}), which are left alone. Choose another folder."
        )
    if not overwrite:
        raise LongalignError(f"{out} already holds scenes. Choose another folder, or --overwrite.")
    for file in there:
        file.unlink()


def pack(source: Path, out: Path, *, guidance: float | None = None) -> int:
    """Puts trained parts together as one `StableDiffusionPipeline` folder in fp16; returns its size in bytes.

    Beside the pipeline's own parts go `clip`, `t5`, `t5_tokenizer` and `adapter`, the training curves, and
    `longalign.json` with the defaults that suit the model.

    Raises:
        LongalignError: a part has not been trained yet (it is named).
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, T5EncoderModel

    from longalign.encoding.adapter import TextAdapter
    from longalign.preference import PreferenceModel, Preprocess
    from longalign.preference.decomposition import FILE_NAME, fit_prompts

    parts = ("vae", "clip", "text_encoder", "tokenizer", "unet", "scheduler", "t5", "t5_tokenizer", "adapter")
    missing = [p for p in parts if not (source / p).is_dir()]
    if missing:
        raise LongalignError(
            f"{source}: not trained yet: {', '.join(missing)} (longalign stickers train all --out …)"
        )
    half = torch.float16
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(source / "vae").to(half),
        text_encoder=CLIPTextModel.from_pretrained(source / "text_encoder").to(half),
        tokenizer=CLIPTokenizer.from_pretrained(source / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(source / "unet").to(half),
        scheduler=DDIMScheduler.from_pretrained(source / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    out.mkdir(parents=True, exist_ok=True)
    pipe.save_pretrained(out)
    CLIPModel.from_pretrained(source / "clip").to(half).save_pretrained(out / "clip")
    # `parts.pixels` is what it was trained on: [−1, 1], not CLIP's own mean and deviation.
    processor = Preprocess(SCENE_PX, mean=(0.5,) * 3, std=(0.5,) * 3).to_config()
    atomic_write_text(out / "clip" / "preprocessor_config.json", json.dumps(processor, indent=2) + "\n")
    fit_prompts(PreferenceModel.from_pretrained(out), _v_prompts()).save(out / "clip" / FILE_NAME)
    T5EncoderModel.from_pretrained(source / "t5").to(half).save_pretrained(out / "t5")
    TextAdapter.from_pretrained(source / "adapter").to(half).save_pretrained(out / "adapter")
    shutil.copytree(source / "t5_tokenizer", out / "t5_tokenizer", dirs_exist_ok=True)
    (out / "curves").mkdir(exist_ok=True)
    for curve in sorted(source.glob("*.jsonl")):
        shutil.copy(curve, out / "curves" / curve.name)
    return _finish(out, guidance)


def pack_denoiser(name: str, source: Path, out: Path, *, guidance: float | None = None) -> int:
    """Packs what SDXL or SD3 has of its own, in fp16, as `assembly.py` wants it; returns its size in bytes.

    Args:
        name: ``sdxl`` or ``sd3``.
        source: where `stickers train` wrote.
        out: the folder to make, `weights/<name>`.

    Raises:
        LongalignError: it has not been trained yet, or the embedded model has since got other parts.
    """
    import torch
    from diffusers import SD3Transformer2DModel
    from safetensors.torch import load_file, save_file

    from longalign.stickers import folder
    from longalign.stickers.assembly import BASE, OWN_WEIGHTS, trained_on

    trained = source / name
    if not (trained / BASE).is_file():
        raise LongalignError(
            f"{source}: no {name} in it yet (longalign stickers train {name} --out {source})"
        )
    base, now = json.loads((trained / BASE).read_text()), trained_on(name, folder())
    if changed := [part for part in now if base.get(part) != now[part]]:
        raise LongalignError(
            f"{trained}: was trained beside another {', '.join(changed)} than the embedded one; train it again"
        )
    out.mkdir(parents=True, exist_ok=True)
    if name == "sdxl":
        (out / "unet").mkdir(exist_ok=True)
        shutil.copy(trained / "config.json", out / "unet" / "config.json")
        own = {k: v.to(torch.float16) for k, v in load_file(trained / OWN_WEIGHTS).items()}
        with atomic_path(out / "unet" / OWN_WEIGHTS) as temporary:
            save_file(own, temporary)
    else:
        model = SD3Transformer2DModel.from_pretrained(trained / "transformer", torch_dtype=torch.float16)
        model.save_pretrained(out / "transformer")
        shutil.copytree(trained / "scheduler", out / "scheduler", dirs_exist_ok=True)
    shutil.copy(trained / BASE, out / BASE)
    shutil.copy(source / f"{name}.jsonl", out / "curve.jsonl")
    return _finish(out, guidance)


def _finish(out: Path, guidance: float | None) -> int:
    """Cleans the configurations, adds the settings; the folder's size in bytes."""
    from longalign.stickers.assembly import draw_in_float32

    for config in out.glob("*/config.json"):
        # diffusers notes where it read the weights, which is nobody's business
        kept = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}
        atomic_write_text(config, json.dumps(kept, indent=2) + "\n")
    if (out / "text_encoder").is_dir():
        draw_in_float32(out / "text_encoder")
    settings: dict[str, Any] = {"guidance": guidance, "length": 77, "oracle": "stickers"}
    if (out / "transformer").is_dir():  # a flow model
        settings["flowedit"] = STICKER_FLOWEDIT
    atomic_write_text(out / "longalign.json", json.dumps(settings, indent=2) + "\n")
    return sum(f.stat().st_size for f in out.rglob("*") if f.is_file())


def _v_prompts(count: int = 4096) -> list[str]:
    """What the embedded CLIP's V is made of: captions of the `train` split."""
    return [text_of(caption(scene(i, objects=(1, 9)), i)) for i in range(count)]
