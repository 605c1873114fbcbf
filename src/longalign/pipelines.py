"""Pipelines by name: ``stickers``, ``stickers-sdxl``, ``stickers-sd3`` (embedded), a folder, or a hub name."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longalign.errors import LongalignError

if TYPE_CHECKING:
    import torch

STICKERS = "stickers"
SETTINGS_FILE = "longalign.json"  # what a model folder or a LoRA's may say about itself
LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name
DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class ModelSettings:
    """Defaults that suit a model. A folder's `longalign.json` may state them; else they follow its family.

    Attributes:
        guidance: classifier-free guidance scale; None keeps the pipeline's own default.
        length: padded length in tokens of one encoder's text (240 in the published models).
        oracle: name of the judge that knows the truth of sentences about the model's pictures, or None.
        flowedit: any of `start`, `source_guidance` and `target_guidance` of FlowEdit; the papers' for the rest.
    """

    guidance: float | None = None
    length: int = 240
    oracle: str | None = None
    flowedit: Mapping[str, float] | None = None


# FACTS §1.7, §2.2: what the papers sample with.
_FAMILY_GUIDANCE = {
    "StableDiffusionPipeline": 7.5,
    "StableDiffusionXLPipeline": 7.0,
    "StableDiffusion3Pipeline": 4.0,
}


def resolve(name: str) -> str:
    """The folder or hub name that a model name stands for.

    Raises:
        LongalignError: it begins like an embedded model's name and is none.
    """
    if name == STICKERS or (name.startswith(f"{STICKERS}-") and "/" not in name and not Path(name).exists()):
        from longalign.stickers import MODELS, folder

        return str(folder(MODELS.get(name, name.removeprefix(f"{STICKERS}-"))))
    return name


def resolve_lora(name: str | os.PathLike[str]) -> Path:
    """The folder or file that the name of a LoRA stands for: ``stickers/sft`` and other embedded ones by name.

    Of a run folder of `longalign train`, the ``model`` in it.

    Raises:
        LongalignError: there is no embedded LoRA of this name.
    """
    told = os.fspath(name)
    if told.startswith(f"{STICKERS}/"):
        from longalign.stickers import lora_folder

        return lora_folder(told.removeprefix(f"{STICKERS}/"))
    path = Path(told)
    trained = path / "model"
    return trained if (trained / LORA_FILE).is_file() and not (path / LORA_FILE).is_file() else path


def settings_of(name: str, pipe: Any = None) -> ModelSettings:
    """The defaults of a model, from its folder or its family."""
    path = Path(resolve(name)) / SETTINGS_FILE
    if path.is_file():
        return ModelSettings(**json.loads(path.read_text()))
    return ModelSettings(guidance=_FAMILY_GUIDANCE.get(type(pipe).__name__))


def strategy_for(strategy: str, loras: Sequence[str | os.PathLike[str]] = ()) -> str:
    """A text encoding's name; for ``auto`` what the last LoRA that says so was trained with, else ``clip-cat``.

    Args:
        loras: stages on the model, as for `load_pipeline`.
    """
    if strategy != "auto":
        return strategy
    said = (resolve_lora(name) / SETTINGS_FILE for name in reversed(loras))
    return next(
        (str(json.loads(file.read_text())["strategy"]) for file in said if file.is_file()), "clip-cat"
    )


def pick_device(device: str = "auto") -> str:
    """``auto``: CUDA, else Apple's MPS, else the CPU."""
    import torch

    if device != "auto":
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise LongalignError(
                f"device {device!r} cannot be used here: {str(error).splitlines()[0]}"
            ) from None
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """``auto``: float16 on CUDA (what the published models are used in), float32 elsewhere."""
    import torch

    if dtype not in DTYPES:
        raise LongalignError(f"dtype {dtype!r} is unknown; one of {', '.join(DTYPES)}")
    if dtype == "auto":
        return torch.float16 if device.startswith("cuda") else torch.float32
    return getattr(torch, dtype)


def load_pipeline(
    name: str = STICKERS,
    *,
    device: str = "auto",
    dtype: str = "auto",
    loras: Sequence[str | os.PathLike[str]] = (),
    check_base: bool = True,
    fuse: bool | None = None,
) -> Any:
    """A diffusers pipeline, on its device, quiet, with weights from safetensors only.

    Args:
        name: ``stickers``, ``stickers-sdxl``, ``stickers-sd3``, a folder, or a hub name.
        loras: LoRA stages in the order of their training: folders that `longalign train` wrote, other LoRAs in
            diffusers' layout, ``stickers/…``. Text adapters in them are `longalign.generate.t5_branch`'s affair.
        check_base: refuse a LoRA that was trained on other weights.
        fuse: add the LoRAs to the weights, which makes them cost nothing at sampling, or leave them on as they are. By
            default they are added, except in bfloat16, whose weights are too coarse for small changes.

    Raises:
        LongalignError: the folder is no pipeline, or lacks a part (which is named), or the hub has no such model; a
            LoRA is none, or belongs to another model.
    """
    from diffusers import DiffusionPipeline

    where = resolve(name)
    check_folder(where)
    device = pick_device(device)
    kind = pick_dtype(dtype, device)
    try:
        with quiet():
            pipe = DiffusionPipeline.from_pretrained(where, torch_dtype=kind, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LongalignError(f"model {name!r} cannot be loaded: {reason}") from error
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    if loras:
        import torch

        from longalign import lora
        from longalign.stages.stack import backbone, put_on

        put_on(pipe, [os.fspath(f) for f in loras], check_base=check_base, base_name=name)
        if fuse if fuse is not None else kind != torch.bfloat16:
            for module in (backbone(pipe), *lora.clips_of(pipe).values()):
                if lora.attached(module):
                    lora.merge(module)
    return pipe


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without bars and advice: neither says anything that a user of this package can act on."""
    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    before = of_diffusers.get_verbosity(), of_transformers.get_verbosity()
    of_diffusers.set_verbosity_error()
    of_transformers.set_verbosity_error()
    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # `torch_dtype` is what diffusers 0.36 knows; 0.42 would rather have it called `dtype`.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        of_diffusers.enable_progress_bar()
        of_transformers.enable_progress_bar()
        of_diffusers.set_verbosity(before[0])
        of_transformers.set_verbosity(before[1])


def check_folder(where: str) -> None:
    """Says of a local folder which part of the pipeline is missing, if one is.

    Raises:
        LongalignError: `where` looks like a path and is none, or is a folder without `model_index.json`, or without one
            of the parts that this file lists.
    """
    folder = Path(where)
    if not folder.is_dir():
        if folder.exists() or where.startswith((".", "/", "~")) or where.count("/") > 1:
            raise LongalignError(f"{where}: no such model folder")
        return  # a hub name
    index = folder / "model_index.json"
    if not index.is_file():
        raise LongalignError(f"{where}: no model_index.json, so this is no diffusers pipeline folder")
    try:
        parts = json.loads(index.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LongalignError(f"{index}: is no JSON: {error}") from None
    for part, entry in parts.items():
        if part.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        if not (folder / part).is_dir() or not any((folder / part).iterdir()):
            raise LongalignError(f"{where}: the part {part!r} ({entry[1]}) is missing; the pipeline needs it")


def load_tokenizer(name: str = STICKERS) -> Any:
    """The (first) tokenizer of a model, without its weights.

    Raises:
        LongalignError: there is none.
    """
    from transformers import AutoTokenizer

    where = resolve(name)
    check_folder(where)
    try:
        return AutoTokenizer.from_pretrained(where, subfolder="tokenizer")
    except (OSError, ValueError) as error:
        raise LongalignError(f"no tokenizer of {name!r}: {str(error).strip().splitlines()[0]}") from error
