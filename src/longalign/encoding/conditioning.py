"""`Conditioning`, the result of an encoding: tensors for the denoiser, segments, and text that was cut."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from longalign.backbones import backbone_named
from longalign.encoding.segments import Segment
from longalign.errors import LongalignError

_SHOWN_CHARACTERS = 300  # of one cut text in the warning; `Conditioning.truncation` has the whole text


class TruncationWarning(UserWarning):
    """A part of a prompt did not fit and was left out."""


@dataclass(frozen=True, slots=True)
class Truncation:
    """One piece of text that was left out of the encoding.

    ``prompt_index`` is the prompt's place in the list given to `encode`, from 0; ``text`` is ``prompt[start:end]``
    (of the negative prompt where ``negative``; of ``prompt_2`` where the encoder got that); ``where`` names the
    component whose limit cut it, or ``max_length``.
    """

    prompt_index: int
    text: str
    start: int
    end: int
    where: str
    negative: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Conditioning:
    """B encoded prompts of one padded length L, each with its negative prompt.

    Attributes:
        embeds: (B, L, D) token states for cross-attention (SD, SDXL) or joint attention (SD3).
        pooled: (B, P) pooled text vectors; None for a backbone that takes none (Stable Diffusion 1 and 2).
        segment_of: (B, L) int64, the index in ``segments`` of each position's segment. −1 for positions without a
            segment: pads, T5's end token, and the start and end tokens of ``plain``, which belong to the
            prompt as a whole.
        negative_embeds, negative_pooled, negative_segment_of: the same for the negative prompts.
        truncation: one tuple for each prompt; empty if nothing of it and of its negative prompt was cut.
        segments: one tuple of segments for each prompt.
        family: name of the backbone in `longalign.backbones.BACKBONES`.
        frames: (B, 4) int64, in pixels: height and width of the picture that each prompt is about, and what was cut off
            at its top and left. SDXL is told so in training. None: an uncropped picture of the size of the latents.
    """

    embeds: torch.Tensor
    pooled: torch.Tensor | None
    segment_of: torch.Tensor
    negative_embeds: torch.Tensor
    negative_pooled: torch.Tensor | None
    negative_segment_of: torch.Tensor
    truncation: tuple[tuple[Truncation, ...], ...]
    segments: tuple[tuple[Segment, ...], ...]
    family: str
    frames: torch.Tensor | None = None

    def pipeline_kwargs(self, num_images_per_prompt: int = 1) -> dict[str, torch.Tensor]:
        """Arguments for the family's diffusers pipelines: ``pipe(**conditioning.pipeline_kwargs())``.

        Args:
            num_images_per_prompt: each prompt is repeated so often, one after the other, as diffusers orders pictures.
                Give it here, not to the pipeline: SD3's repeats only prompts that it encoded itself.

        Raises:
            LongalignError: the number is below 1.
        """
        if num_images_per_prompt < 1:
            raise LongalignError(f"num_images_per_prompt must be 1 or more, not {num_images_per_prompt}")
        rows = [i for i in range(len(self)) for _ in range(num_images_per_prompt)]
        chosen = self if num_images_per_prompt == 1 else self[rows]
        return backbone_named(self.family).pipeline_kwargs(chosen)

    def to(
        self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None
    ) -> Conditioning:
        """The same on another device, or with the floating-point tensors in another precision, or both.

        As with tensors, ``to("cuda")``, ``to(torch.float16)`` and ``to("cuda", torch.float16)`` work.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        changed: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                changed[name] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        return replace(self, **changed)

    def __repr__(self) -> str:
        """The sizes, in one line."""
        n, length, width = self.embeds.shape
        cut = sum(bool(of_prompt) for of_prompt in self.truncation)
        segments = sum(map(len, self.segments))
        return (
            f"Conditioning({self.family}: {n} prompt{'s' * (n != 1)}, {segments} segment{'s' * (segments != 1)}, "
            f"{length} tokens of width {width}, {'nothing' if not cut else f'text of {cut}'} cut, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
        )

    @property
    def device(self) -> torch.device:
        return self.embeds.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embeds.dtype

    def __len__(self) -> int:
        return len(self.embeds)

    def __getitem__(self, which: int | slice | Sequence[int]) -> Conditioning:
        """The chosen prompts. A single index keeps the batch dimension."""
        order = range(len(self))
        if isinstance(which, int):
            rows = [order[which]]  # IndexError beyond the end, so that iteration stops
        elif isinstance(which, slice):
            rows = list(order[which])
        else:
            rows = [order[i] for i in which]
        chosen: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                chosen[name] = value[rows]
            elif isinstance(value, tuple):
                chosen[name] = tuple(value[i] for i in rows)
        return replace(self, **chosen)


def warn_of_cuts(truncation: Sequence[Sequence[Truncation]], stacklevel: int) -> None:
    """Gives one `TruncationWarning` with all text that was cut, or none if nothing was cut."""
    cuts = [cut for of_prompt in truncation for cut in of_prompt]
    if not cuts:
        return
    lines = []
    for cut in cuts:
        text = cut.text
        if len(text) > _SHOWN_CHARACTERS:
            text = f"{text[:_SHOWN_CHARACTERS]}… ({len(text):,} characters)"
        which = "negative prompt" if cut.negative else "prompt"
        lines.append(f"{which} {cut.prompt_index + 1}, by {cut.where}: {text!r}")
    prompts = sum(bool(of_prompt) for of_prompt in truncation)
    message = f"{prompts} of {len(truncation)} prompts did not fit; left out:\n" + "\n".join(lines)
    warnings.warn(message, TruncationWarning, stacklevel=stacklevel + 1)
