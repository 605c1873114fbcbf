"""Sampling: conditionings → images, each from its own seed, in batches."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from longalign.backbones.base import Pipeline
from longalign.encoding import Conditioning, encode_groups
from longalign.errors import LongalignError
from longalign.plugins import unknown
from longalign.soft_tokens.loading import guided_rows

# name → class in diffusers. `auto` is UniPC; for flow models it is the model's own solver
SCHEDULERS = {
    "unipc": "UniPCMultistepScheduler",
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
}
PIXEL_SETTINGS = ("clip_sample", "thresholding")


def set_scheduler(pipe: Pipeline, name: str = "auto") -> str:
    """Gives the pipeline another solver with the same noise schedule, and returns the name of the solver's class.

    Raises:
        LongalignError: an unknown name, or a diffusion solver for a flow model.
    """
    import diffusers

    flow = "FlowMatch" in type(pipe.scheduler).__name__
    if name == "auto":
        name = "own" if flow else "unipc"
    if name == "own":
        if any(pipe.scheduler.config.get(key) for key in PIXEL_SETTINGS):
            pipe.scheduler = latent_scheduler(type(pipe.scheduler), pipe.scheduler.config)
        return type(pipe.scheduler).__name__
    if name not in SCHEDULERS:
        raise LongalignError(unknown("scheduler", name, ["auto", "own", *SCHEDULERS]))
    if flow:
        raise LongalignError(f"scheduler {name!r} does not fit a flow model: use auto")
    # Without Runge-Kutta steps, as the published pipelines use it.
    changes = {"skip_prk_steps": True} if name == "pndm" else {}
    pipe.scheduler = latent_scheduler(getattr(diffusers, SCHEDULERS[name]), pipe.scheduler.config, **changes)
    return SCHEDULERS[name]


def latent_scheduler(kind: Any, config: Mapping[str, Any], **changes: Any) -> Any:
    """A scheduler of another kind with the same noise schedule, for latents: it neither clips nor thresholds.

    Both are meant for pixels, which have a range. Latents have none, so clipping them to [−1, 1] changes the picture.
    diffusers' DDIM and LCM clip where a published configuration says nothing of `clip_sample`.

    Args:
        kind: a class of diffusers' schedulers.
        config: the configuration of the model's own scheduler.
        changes: settings to change. They win over the configuration's.
    """
    # Keywords, because `from_config` ignores keys that the old configuration lists among its defaults.
    known = inspect.signature(kind.__init__).parameters
    off = {key: False for key in PIXEL_SETTINGS if key in known}
    return kind.from_config(config, **{**off, **changes})


def sample(
    pipe: Pipeline,
    conditioning: Conditioning,
    seeds: Sequence[int],
    *,
    steps: int = 25,
    guidance: float | None = None,
    size: tuple[int, int] | None = None,
    batch_size: int = 16,
    on_step: Callable[[int], None] = lambda pictures: None,
    on_image: Callable[[int, Image.Image], None] = lambda row, image: None,
    there: Callable[[int], bool] = lambda row: False,
    on_latents: Callable[[int, torch.Tensor], None] | None = None,
) -> list[Image.Image]:
    """One image for each prompt of a conditioning.

    The noise of each image comes from a CPU generator of its own. So an image depends on its seed and prompt alone,
    not on the rest of the batch or on the device. Soft tokens on the model learn which rows are conditional
    (`guided_rows`).

    Args:
        pipe: a diffusers text-to-image pipeline.
        conditioning: of B prompts.
        seeds: B seeds.
        steps: sampling steps.
        guidance: classifier-free guidance scale; None leaves the pipeline its default.
        size: (width, height) in pixels; None for the model's own size.
        batch_size: most images at once.
        on_step: called after each step with the number of images in the batch.
        on_image: called with each row and its image when its batch is done.
        there: as of `sample_groups`.
        on_latents: called with each row and its (C, h, w) clean latents before its batch is decoded.

    Raises:
        LongalignError: the arguments are wrong, or an image has NaN in it.
    """
    if len(seeds) != len(conditioning):
        raise LongalignError(f"{len(conditioning)} prompts need as many seeds, not {len(seeds)}")
    if steps < 1 or batch_size < 1:
        raise LongalignError(f"steps and batch size must be at least 1, not {steps} and {batch_size}")
    kwargs: dict[str, Any] = {"num_inference_steps": steps, "output_type": "pt"}
    if guidance is not None:
        kwargs["guidance_scale"] = guidance
    if size is not None:
        kwargs["width"], kwargs["height"] = size
    pictures: list[Image.Image] = []
    for start in range(0, len(seeds), batch_size):
        stop = min(start + batch_size, len(seeds))
        if all(map(there, range(start, stop))):
            for _ in range(steps):
                on_step(stop - start)
            continue

        def after_step(
            _pipe: Any, step: int, _t: Any, state: Any, start: int = start, stop: int = stop
        ) -> Any:
            on_step(stop - start)
            if on_latents is not None and step == len(pipe.scheduler.timesteps) - 1:
                for row, of_row in enumerate(state["latents"], start):
                    on_latents(row, of_row)
            return state

        with guided_rows(pipe, guidance), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*`callback_on_step_end`.*")
            pixels = pipe(
                **conditioning[start:stop].pipeline_kwargs(),
                generator=[torch.Generator("cpu").manual_seed(s) for s in seeds[start:stop]],
                callback_on_step_end=after_step,
                **kwargs,
            ).images  # (b, 3, H, W) in [0, 1]
        for row, image in enumerate(to_images(pixels), start):
            on_image(row, image)
            pictures.append(image)
    return pictures


def sample_groups(
    pipe: Pipeline,
    groups: Sequence[tuple[Sequence[int], Conditioning]],
    seeds: Sequence[int],
    *,
    on_image: Callable[[int, Image.Image], None] = lambda index, image: None,
    there: Callable[[int], bool] = lambda index: False,
    **sampling: Any,
) -> list[Image.Image]:
    """`sample` for the result of `longalign.encode_groups`: one image a prompt, in the order of the prompts.

    Args:
        groups: places of the prompts and their conditioning.
        seeds: one a prompt, in the order of the prompts.
        on_image: called with each prompt's place and its image when its batch is done.
        there: whether the image of a prompt is there already: a batch of such images is not drawn, and left out of the
            result. (A batch is drawn as a whole: which images share one decides their last bits.)
        sampling: further arguments of `sample`.
    """
    images: dict[int, Image.Image] = {}

    for members, conditioning in groups:

        def done(row: int, image: Image.Image, members: Sequence[int] = members) -> None:
            images[members[row]] = image
            on_image(members[row], image)

        def known(row: int, members: Sequence[int] = members) -> bool:
            return there(members[row])

        sample(pipe, conditioning, [seeds[i] for i in members], on_image=done, there=known, **sampling)
    return [images[i] for i in sorted(images)]


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [0, 1] → PIL images.

    Raises:
        LongalignError: there is NaN or infinity among the pixels.
    """
    if not torch.isfinite(pixels).all():
        raise LongalignError("the image has NaN in it: try --dtype float32, or another VAE")
    array = pixels.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(a) for a in array]


def draw(
    pipe: Pipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    sampling: Mapping[str, Any],
    **encoding: Any,
) -> list[Image.Image]:
    """Encodes prompts and samples one image for each.

    Args:
        prompts, seeds: as many of one as of the other.
        sampling: arguments of `longalign.diffusion.sampling.sample`.
        encoding: arguments of `longalign.encode`.
    """
    groups = encode_groups(pipe, list(prompts), **encoding)
    return sample_groups(pipe, groups, seeds, **sampling)
