"""Where in the picture each sentence of a prompt is looked at, while a pipeline draws it.

`longalign.diffusion.attention_maps` gives the attention A of every position to every token. A sentence s with the
tokens T_s has the map, and the density over the positions p,

    a_s(p) = Σ_{k∈T_s} A(p, k)        m_s(p) = a_s(p) / Σ_q a_s(q)

Densities compare sentences of different lengths. The share of a sentence at a position is m_s(p) / Σ_r m_r(p).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from longalign.backbones.base import Pipeline
from longalign.diffusion.attention_maps import AttentionMaps, attention_maps, heatmap
from longalign.encoding.conditioning import Conditioning
from longalign.errors import LongalignError
from longalign.soft_tokens.loading import guided_rows

Columns = Sequence[Sequence[Sequence[int]]]  # of each prompt, of each sentence: positions along L


@dataclass(frozen=True, eq=False)
class Attended:
    """Pictures, and where each sentence of their prompts was looked at.

    Attributes:
        images: B pictures, as the pipeline gives them.
        maps: of each prompt (S, h, w) float32 on the CPU: the densities of its S sentences, which sum to 1 each. That
            of a sentence that was cut off is 0. (h, w) is the finest resolution at which the model attends to text.
    """

    images: list[Image.Image]
    maps: tuple[Tensor, ...]

    def shares(self, prompt: int = 0) -> Tensor:
        """(S, h, w): the share of each sentence of a prompt at each position; these sum to 1 over the sentences.

        Args:
            prompt: its number.
        """
        return shares(self.maps[prompt])

    def heatmap(self, prompt: int, sentence: int, opacity: float = 0.5) -> Image.Image:
        """The picture of a prompt with the density of one sentence over it, from blue (least) to red (most).

        Args:
            prompt, sentence: their numbers.
            opacity: of the colours, from 0 to 1.
        """
        return heatmap(self.images[prompt], self.maps[prompt][sentence], opacity)


def attend(
    pipe: Pipeline,
    conditioning: Conditioning,
    *,
    columns: Columns | None = None,
    steps: Collection[int] | None = None,
    **call: Any,
) -> Attended:
    """Draws prompts and says where in the pictures each of their sentences was looked at::

        conditioning = longalign.encode(pipe, prompt)
        seen = longalign.attend(pipe, conditioning, num_inference_steps=25)
        seen.heatmap(0, 2).save("third-sentence.png")

    The pictures are those without maps, to the bit. One map a sentence is kept, so memory does not grow with the steps.

    Args:
        pipe: a pipeline of SD 1.x, 2.x, XL or 3.
        conditioning: of B prompts.
        columns: of each prompt, of each sentence, its positions along L, as of
            `longalign.encoding.word_columns.span_columns`. None: the sentences are the segments of the conditioning.
        steps: which calls of the model count, from 0; None: all.
        call: further arguments of the pipeline, such as ``num_inference_steps``, ``guidance_scale`` and ``generator``.

    Raises:
        LongalignError: the model belongs to no known family, columns do not fit, or no chosen step has come.
    """
    with (
        attending(pipe, conditioning, columns=columns, steps=steps) as maps,
        guided_rows(pipe, call.get("guidance_scale")),
    ):
        images = pipe(**conditioning.pipeline_kwargs(), **call).images
    return Attended(list(images), densities(maps.result(), columns_of(conditioning, columns)))


@contextmanager
def attending(
    pipe: Pipeline,
    conditioning: Conditioning,
    *,
    columns: Columns | None = None,
    steps: Collection[int] | None = None,
) -> Iterator[AttentionMaps]:
    """Collects one map a sentence while the pipeline draws the conditioning; for `densities`.

    Args:
        pipe, conditioning, columns, steps: as of `attend`.

    Raises:
        LongalignError: as of `attend`.
    """
    length = conditioning.embeds.shape[1]
    told = columns_of(conditioning, columns)
    if len(told) != len(conditioning):
        raise LongalignError(f"columns of {len(told)} prompts do not go with {len(conditioning)} prompts")
    groups = torch.zeros(len(told), max(map(len, told)), length)
    for of_prompt, group in zip(told, groups, strict=True):
        for positions, row in zip(
            of_prompt, group, strict=False
        ):  # prompts have different numbers of sentences
            if not all(0 <= column < length for column in positions):
                raise LongalignError(f"columns must be from 0 to {length - 1}, not {list(positions)}")
            row[list(positions)] = 1
    used = groups.sum((0, 1)).nonzero().flatten()
    if not len(used):
        raise LongalignError("no sentence has a token in the conditioning: nothing can be looked at")
    with attention_maps(pipe, used.tolist(), steps=steps, groups=groups[..., used]) as maps:
        yield maps


def columns_of(conditioning: Conditioning, columns: Columns | None = None) -> Columns:
    """The positions of each sentence of each prompt: those given, else those of its segments.

    Args:
        conditioning: of the prompts.
        columns: as of `attend`.
    """
    if columns is not None:
        return columns
    return [
        [(of == k).nonzero().flatten().tolist() for k in range(len(segments))]
        for of, segments in zip(conditioning.segment_of, conditioning.segments, strict=True)
    ]


# m_s(p) = a_s(p) / Σ_q a_s(q)
def densities(maps: Tensor, columns: Columns) -> tuple[Tensor, ...]:
    """(B, S, h, w) maps → of each prompt (S, h, w) that sum to 1 each.

    Args:
        maps: of `attending`.
        columns: of `columns_of`.
    """
    total = maps.sum((-2, -1), keepdim=True)
    each = torch.where(total > 0, maps / total.clamp(min=1e-12), torch.zeros_like(maps))
    return tuple(of_prompt[: len(told)] for of_prompt, told in zip(each, columns, strict=True))


# m_s(p) / Σ_r m_r(p)
def shares(maps: Tensor) -> Tensor:
    """(S, h, w) densities → (S, h, w) shares, which sum to 1 over the sentences.

    Args:
        maps: the densities.
    """
    return maps / maps.sum(0, keepdim=True).clamp(min=1e-12)
