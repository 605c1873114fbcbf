"""Any text-to-image pipeline of diffusers, with its own encoding, guidance and size: baselines of an evaluation.

PixArt, Kandinsky 2.2, Playground, SD3.5, Flux, Sana and others are called as they are published. longalign's encoding,
LoRAs and soft tokens are for the families in `longalign.backbones` (`longalign.diffusion.sampling`).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from PIL import Image

from longalign.diffusion.pipelines import check_folder, open_pipeline
from longalign.diffusion.sampling import to_images
from longalign.errors import LongalignError
from longalign.hub import BROKEN_FILES, reason_of
from longalign.plugins import nearest
from longalign.runtime import quiet
from longalign.worlds import resolve_model

FILTERED = "longalign-filtered"  # key of `image.info`
# what `draw_any` itself says, and the option that says it
_OWN = {
    "prompt": "prompts",
    "generator": "seeds",
    "num_images_per_prompt": "one prompt and seed for each picture",
    "output_type": "",
    "return_dict": "",
}
# pictures that a pipeline can start from; it has None for them where it checks itself whether they are there
_PICTURES = ("image", "mask_image", "control_image")


def open_any(name: str | os.PathLike[str], device: str = "auto", dtype: str = "auto") -> Any:
    """A text-to-image pipeline of any class in diffusers, on its device, quiet, with weights from safetensors only.

    A model that is published as one half of a pair (the decoders of Kandinsky 2.2, Würstchen, Stable Cascade) is opened
    together with its other half, which the model's card names.

    Args:
        name: an embedded model such as ``stickers``, a folder, or a hub name.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        dtype: ``auto`` (float16 on CUDA, else float32), ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        LongalignError: there is no such model, it cannot be loaded, or it is no text-to-image pipeline.
    """
    import diffusers

    where = resolve_model(name)
    local = check_folder(where)
    try:
        with quiet():
            config = diffusers.DiffusionPipeline.load_config(where, local_files_only=local)
        kind = getattr(diffusers, str(config.get("_class_name")), None)
    except BROKEN_FILES as error:
        raise LongalignError(f"model {os.fspath(name)!r} cannot be loaded: {reason_of(error)}") from error
    if kind is None or ("prompt" in _parameters(kind) and not _without_default(kind)):
        return open_pipeline(name, device=device, dtype=dtype)
    try:
        return open_pipeline(name, device=device, dtype=dtype, kind=diffusers.AutoPipelineForText2Image)
    except LongalignError as error:
        if "AutoPipeline" in str(error):  # diffusers knows no other half of it
            check_call(kind, {})
        raise


def check_call(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """Check that a pipeline draws pictures of prompts with these further arguments, before it is called.

    Args:
        pipe: the pipeline, or its class.
        arguments: what its call gets besides the prompt.

    Raises:
        LongalignError: the pipeline takes no prompt; it needs something that is not among the arguments; or it does not
            know one of them (the message names the nearest that it knows).
    """
    kind = pipe if isinstance(pipe, type) else type(pipe)
    parameters = _parameters(kind)
    if "prompt" not in parameters:
        raise LongalignError(
            f"{kind.__name__} takes no prompt (it takes {', '.join(list(parameters)[:6])}, …): it is no text-to-image "
            "pipeline. Where it is one part of a pair, name the folder of both, or the hub's model"
        )
    open_ended = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(kind.__call__).parameters.values())
    # The further arguments of diffusers' own pipelines are old names alone.
    if kind.__module__.startswith("diffusers.") or not open_ended:
        for key in arguments:
            if key not in parameters:
                near = nearest(key, parameters)
                raise LongalignError(
                    f"{kind.__name__} has no argument {key!r}"
                    + (f"; did you mean {near!r}?" if near else f" (it has {', '.join(parameters)})")
                )
    missing = [key for key in _without_default(kind) if arguments.get(key) is None]
    missing += [key for key in _pictures_needed(kind) if arguments.get(key) is None]
    if missing:
        raise LongalignError(
            f"{kind.__name__} needs {' and '.join(dict.fromkeys(missing))}, which nobody gave: it draws not from a "
            "prompt alone. Name a text-to-image pipeline, or give it as an argument"
        )


def draw_any(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    width: int | None = None,
    height: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    batch_size: int = 4,
    on_image: Callable[[int, Image.Image], None] = lambda row, image: None,
) -> list[Image.Image]:
    """One picture for each prompt, by the pipeline's own call.

    The noise of each picture comes from a CPU generator of its own, so a picture depends on its seed and prompt alone
    and not on the rest of the batch. What is None here is left to the pipeline's default. The pipeline encodes prompts
    as it is published, and may cut them. What it logs of this is shown for the first batch alone.

    Args:
        pipe: as of `open_any`.
        prompts: B prompts.
        seeds: B seeds.
        steps: sampling steps.
        guidance: the pipeline's `guidance_scale`. For a distilled model (Flux) it is what the model itself reads.
        width, height: in pixels.
        arguments: further arguments of the pipeline's call, such as `negative_prompt` or `max_sequence_length`. Texts
            are repeated for each prompt.
        batch_size: most pictures at once.
        on_image: called with each row and its picture when its batch is done.

    Returns:
        B pictures, RGB. `filtered` says which of them were blackened by a safety checker, or are black.

    Raises:
        LongalignError: what `check_call` refuses; wrong arguments; a result that is no picture or has NaN in it.
    """
    if len(seeds) != len(prompts):
        raise LongalignError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
    if batch_size < 1:
        raise LongalignError(f"the batch size must be at least 1, not {batch_size}")
    given = dict(arguments or {})
    for key, by in _OWN.items():
        if key in given:
            raise LongalignError(f"{key} cannot be given as an argument{f': give {by}' if by else ''}")
    named = {"num_inference_steps": steps, "guidance_scale": guidance, "width": width, "height": height}
    for key, value in named.items():
        if value is not None:
            if key in given:
                raise LongalignError(f"{key} is given twice: by its option and as an argument")
            given[key] = value
    check_call(pipe, given)
    parameters = _parameters(type(pipe))
    images: list[Image.Image] = []
    for start in range(0, len(prompts), batch_size):
        of_batch = list(prompts[start : start + batch_size])
        call = {
            key: [value] * len(of_batch) if isinstance(value, str) and "prompt" in key else value
            for key, value in given.items()
        }
        if "generator" in parameters:
            call["generator"] = [
                torch.Generator("cpu").manual_seed(seed) for seed in seeds[start : start + len(of_batch)]
            ]
        if "output_type" in parameters:
            call["output_type"] = "pt"  # floats: NaN can be seen in them, and not in a PIL image
        with quiet() if start else nullcontext():  # what the pipeline logs, such as cut prompts, is said once
            drawn = _pictures(pipe, of_batch, call)
        for image in drawn:
            on_image(len(images), image)
            images.append(image)
    return images


def filtered(image: Image.Image) -> str | None:
    """Why a picture of `draw_any` shows nothing: ``safety checker`` or ``all black``; None for an ordinary picture.

    Args:
        image: the picture, before it was written to a file: files do not keep the mark.
    """
    return image.info.get(FILTERED)


def _pictures(pipe: Any, prompts: list[str], call: Mapping[str, Any]) -> list[Image.Image]:
    """The pictures of one call, with marks on those that show nothing."""
    name = type(pipe).__name__
    try:
        with torch.no_grad():
            output = pipe(prompt=prompts, **call)
    except LongalignError:
        raise
    except ValueError as error:  # the pipeline's own check of its arguments
        raise LongalignError(f"{name} refuses its arguments: {reason_of(error)}") from error
    found = getattr(output, "images", None)
    if found is None or len(found) != len(prompts):
        gives = ", ".join(output.keys()) if hasattr(output, "keys") else type(output).__name__
        raise LongalignError(
            f"{name} gives {gives} instead of {len(prompts)} pictures: it is no text-to-image pipeline"
        )
    images = _to_pil(found)
    unsafe = getattr(output, "nsfw_content_detected", None) or [False] * len(images)
    for image, is_unsafe in zip(images, unsafe, strict=True):
        if is_unsafe:
            image.info[FILTERED] = "safety checker"
        elif image.getbbox() is None:  # the box of what is not black
            image.info[FILTERED] = "all black"
    return images


def _to_pil(found: Any) -> list[Image.Image]:
    """Pictures from tensors (B, 3, H, W) or arrays (B, H, W, 3) in [0, 1], or PIL images."""
    if isinstance(found, np.ndarray):
        found = torch.from_numpy(found).permute(0, 3, 1, 2)
    if isinstance(found, torch.Tensor):
        return to_images(found.float())  # in half precision 255 levels would be rounded twice
    return [image.convert("RGB") for image in found]


def _parameters(kind: type) -> list[str]:
    """Names of what a pipeline's call takes, without ``self`` and collections of further arguments."""
    parameters = list(inspect.signature(kind.__call__).parameters.values())[1:]
    return [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def _without_default(kind: type) -> list[str]:
    """Names of what a pipeline's call needs besides the prompt."""
    parameters = inspect.signature(kind.__call__).parameters
    return [
        key
        for key in _parameters(kind)
        if key != "prompt" and parameters[key].default is inspect.Parameter.empty
    ]


def _pictures_needed(kind: type) -> list[str]:
    """The pictures that a pipeline starts from, where it is not one that can do without.

    Pipelines of text alone, and those that take a picture if there is one, are in diffusers' table of text-to-image
    pipelines. ControlNets are in it, too, and do need one.
    """
    taken = [key for key in _PICTURES if key in _parameters(kind)]
    if not taken:
        return []
    of_text = _text_to_image_kinds()
    return [] if kind in of_text and "Control" not in kind.__name__ else taken


def _text_to_image_kinds() -> list[type]:
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    return list(AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values())
