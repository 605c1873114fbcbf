"""Edits of pictures by two texts: `edit` and `edit_many`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from longalign import soft_tokens
from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.pipelines import ModelSettings, settings_of
from longalign.diffusion.sampling import to_images
from longalign.editing import pictures
from longalign.editing.methods import OnStep, guided
from longalign.editing.options import EditOptions, EditSettings
from longalign.editing.schedule import edit_times
from longalign.encoding import Conditioning, Truncation, encode_groups
from longalign.encoding.encode import fits
from longalign.errors import LongalignError
from longalign.preference.images import ImageLike, load_image, to_pixels, to_rgb

_GUIDANCE = 7.5  # of a family without a usual scale
Place = tuple[int, int]  # which group of `encode_groups`, and which row of it


@dataclass(frozen=True)
class EditResult:
    """An edited picture.

    Attributes:
        image: after the edit.
        before: the picture that was edited, at the model's size.
        difference: where the two differ (`pictures.difference`).
        source, target: the texts.
        options: how the edit was done.
        truncation: the text that was cut off from the source, and from the target.
    """

    image: Image.Image
    before: Image.Image
    difference: Image.Image
    source: str
    target: str
    options: EditOptions
    truncation: tuple[tuple[Truncation, ...], tuple[Truncation, ...]] = ((), ())


def edit(
    pipe: Any,
    image: ImageLike,
    source: str,
    target: str,
    *,
    method: str = "auto",
    steps: int | None = None,
    start: float | None = None,
    source_guidance: float | None = None,
    target_guidance: float | None = None,
    finish: float = 0.0,
    samples: int = 1,
    iterations: int = 1,
    guidance: float | None = None,
    seed: int = 0,
    resize: bool = False,
    on_step: OnStep = lambda pictures: None,
    **encoding: Any,
) -> EditResult:
    """Change a picture that `source` describes into one that `target` describes, and leave the rest alone.

    Soft tokens and LoRAs that are on the model take part. Same arguments, same picture.

    Args:
        pipe: a diffusers pipeline of Stable Diffusion 1.x, 2.x, XL or 3.
        image: a PIL picture, or the file of one.
        source, target: of any length.
        method: ``flowedit`` (flow models), ``flowedit-x0`` (its idea carried over to all models) or ``ddim`` (inversion
            under the source, then sampling under the target); ``auto`` is flowedit for flow models, else flowedit-x0.
        steps, start, source_guidance, target_guidance, finish, samples, iterations: see `EditSettings`.
        guidance: the model's own scale for drawing, from which those of the edit follow where they are not given.
        seed: of the noise.
        resize: bring a picture of another size to the model's.
        on_step: called after each step with 1.
        encoding: arguments of `longalign.encode`.

    Raises:
        LongalignError: source and target are the same text; another size than the model's; options out of range;
            input that `longalign.encode` or `load_image` refuses.
    """
    settings = own_settings(pipe)
    options = options_for(
        pipe,
        settings if guidance is None else replace(settings, guidance=guidance),
        method=method,
        steps=steps,
        start=start,
        source_guidance=source_guidance,
        target_guidance=target_guidance,
        finish=finish,
        samples=samples,
        iterations=iterations,
    )
    encoding = {"length": settings.length, **encoding}
    [made] = edit_many(
        pipe, [image], [source], [target], [seed], options, resize=resize, on_step=on_step, **encoding
    )
    return made


def own_settings(pipe: Any) -> ModelSettings:
    """`settings_of` a pipeline by the folder that it was loaded from; one that was put together has its family's."""
    return settings_of(pipe.name_or_path or os.devnull, pipe)


def options_for(
    pipe: Any, settings: ModelSettings | None = None, asked: EditSettings | None = None, **given: Any
) -> EditOptions:
    """`EditOptions.choose` for a pipeline and its soft tokens.

    Args:
        pipe: a diffusers pipeline.
        settings: the model's; None is `own_settings`.
        asked, given: as in `EditOptions.choose`.
    """
    denoiser = Denoiser.of(pipe)
    settings = own_settings(pipe) if settings is None else settings
    guidance = _GUIDANCE if settings.guidance is None else settings.guidance
    with_tokens = soft_tokens.attached(denoiser.module) is not None
    return EditOptions.choose(
        denoiser, guidance, flowedit=settings.flowedit, soft_tokens=with_tokens, asked=asked, **given
    )


def edit_many(
    pipe: Any,
    images: Sequence[ImageLike],
    sources: Sequence[str],
    targets: Sequence[str],
    seeds: Sequence[int],
    options: EditOptions,
    *,
    resize: bool = False,
    batch_size: int = 16,
    on_step: OnStep = lambda pictures: None,
    **encoding: Any,
) -> list[EditResult]:
    """`edit` for B pictures, in batches; each result depends only on its own picture, texts and seed.

    Args:
        images, sources, targets, seeds: B of each.
        batch_size: most pictures at once.
        on_step: called after each step with the number of pictures in the batch, `options.calls` times for each.
    """
    if not len(images) == len(sources) == len(targets) == len(seeds):
        raise LongalignError(
            f"{len(images)} pictures, {len(sources)} sources, {len(targets)} targets and {len(seeds)} seeds: an edit "
            "needs one of each"
        )
    for source, target in zip(sources, targets, strict=True):
        check_texts(source, target)
    if encoding.get("strategy", "auto") == "auto":
        return _edit_by_length(
            pipe,
            images,
            sources,
            targets,
            seeds,
            options,
            resize=resize,
            batch_size=batch_size,
            on_step=on_step,
            **encoding,
        )
    denoiser = Denoiser.of(pipe)
    side_px = denoiser.side * denoiser.vae_factor
    before = [_at_size(image, side_px, resize) for image in images]
    times = edit_times(pipe.scheduler, options.steps)
    texts = [encode_groups(pipe, list(part), **encoding) for part in (sources, targets)]
    places = [_places(groups) for groups in texts]
    together: dict[tuple[int, int], list[int]] = {}
    for i in range(len(images)):
        together.setdefault((places[0][i][0], places[1][i][0]), []).append(i)

    after: dict[int, Image.Image] = {}
    for (a, b), rows in together.items():
        for part in (rows[k : k + batch_size] for k in range(0, len(rows), batch_size)):
            edited = _edit_batch(
                denoiser,
                torch.stack([to_pixels(before[i]) for i in part]),
                texts[0][a][1][[places[0][i][1] for i in part]],
                texts[1][b][1][[places[1][i][1] for i in part]],
                [seeds[i] for i in part],
                options,
                times,
                on_step,
            )
            after.update(zip(part, edited, strict=True))

    def cut(which: int, i: int) -> tuple[Truncation, ...]:
        group, row = places[which][i]
        return texts[which][group][1].truncation[row]

    return [
        EditResult(
            image=after[i],
            before=before[i],
            difference=pictures.difference(before[i], after[i]),
            source=sources[i],
            target=targets[i],
            options=options,
            truncation=(cut(0, i), cut(1, i)),
        )
        for i in range(len(images))
    ]


def _edit_by_length(
    pipe: Any,
    images: Sequence[ImageLike],
    sources: Sequence[str],
    targets: Sequence[str],
    seeds: Sequence[int],
    options: EditOptions,
    **others: Any,
) -> list[EditResult]:
    """`edit_many` with the strategy ``auto``: source and target of an edit have to be encoded in the same way.

    ``plain`` if both fit the window, else ``clip-cat`` for both.
    """
    reading = {k: v for k, v in others.items() if k not in ("resize", "batch_size", "on_step", "strategy")}
    whole = [
        a and b for a, b in zip(fits(pipe, sources, **reading), fits(pipe, targets, **reading), strict=True)
    ]
    found: dict[int, EditResult] = {}
    for strategy, fitting in (("plain", True), ("clip-cat", False)):
        rows = [i for i, fit in enumerate(whole) if fit == fitting]
        if rows:
            results = edit_many(
                pipe,
                [images[i] for i in rows],
                [sources[i] for i in rows],
                [targets[i] for i in rows],
                [seeds[i] for i in rows],
                options,
                **{**others, "strategy": strategy},
            )
            found |= zip(rows, results, strict=True)
    return [found[i] for i in range(len(images))]


def check_texts(source: str, target: str) -> None:
    """Raises LongalignError: one of the texts is empty, or they are the same but for blanks."""
    for name, text, shows in (("source", source, "shows"), ("target", target, "should show")):
        if not text.strip():
            raise LongalignError(f"the {name} is empty: write what the picture {shows}")
    if source.split() == target.split():
        raise LongalignError(
            f"source and target are the same text, so there is nothing to change: {source!r}. "
            "Write into the target what should be different"
        )


def _at_size(image: ImageLike, side_px: int, resize: bool) -> Image.Image:
    if isinstance(image, Image.Image):
        return pictures.fit(to_rgb(image), side_px, resize=resize)
    return pictures.fit(load_image(image), side_px, resize=resize, name=str(image))


def _places(groups: Sequence[tuple[Sequence[int], Conditioning]]) -> dict[int, Place]:
    return {i: (g, row) for g, (members, _) in enumerate(groups) for row, i in enumerate(members)}


@torch.inference_mode()
def _edit_batch(
    denoiser: Denoiser,
    pixels: Tensor,
    source: Conditioning,
    target: Conditioning,
    seeds: Sequence[int],
    options: EditOptions,
    times: list[Any],
    on_step: OnStep,
) -> list[Image.Image]:
    """(B, 3, H, W) in [0, 1] → B pictures."""
    z = denoiser.encode_pixels(pixels)  # (B, C, h, w)
    z = options.run(
        denoiser,
        z,
        guided(denoiser, source, options.source_guidance),
        guided(denoiser, target, options.target_guidance),
        times,
        noise_of(seeds, z),
        on_step,
    )
    return to_images(denoiser.decode(z).float())


def noise_of(seeds: Sequence[int], like: Tensor) -> Callable[[], Tensor]:
    """(B, …) of new noise at each call. Each row has its own CPU generator, so batch and device do not matter."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def fresh() -> Tensor:
        return torch.stack([torch.randn(like.shape[1:], generator=g) for g in generators]).to(like)

    return fresh
