"""The pipelines' own encoding of the first 77 tokens, the baseline of the other encodings.

Every tensor goes through the operations of ``pipe.encode_prompt`` in the same order and batch shape, so the
results are equal to the last bit, as long as the prompts make one batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from longalign.encoding.reading import Reading
from longalign.encoding.source import Marks
from longalign.encoding.syntax import Syntax
from longalign.encoding.t5 import T5Encoder
from longalign.encoding.text_parts import TextParts
from longalign.encoding.tokens import Ids, pad_ids
from longalign.encoding.towers import Tower
from longalign.encoding.weighting import Weights, weigh
from longalign.errors import LongalignError


def encode_plain(
    parts: TextParts,
    towers: Sequence[Tower],
    t5: T5Encoder | None,
    readings: Sequence[Reading],
    syntax: Syntax,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Encodes one batch of prompts.

    Args:
        readings: the prompts, cut to the windows.
        syntax: their notation; it decides how the weights of words act.

    Returns:
        (B, L, D) embeddings and, for SDXL and SD3, (B, P) pooled vectors. L is the window, for SD3 256 more.
    """
    backbone = parts.backbone
    states, vectors = [], []
    for k, tower in enumerate(towers):
        rows = [reading.clips[k].whole[k].ids for reading in readings]
        hidden, vector = tower.call(*pad_ids(rows, tower.window, tower.tokenizer.pad_token_id))
        marks = [reading.clips[k].whole_marks[k] for reading in readings]
        states.append(_weighted(tower, rows, hidden, marks, 1, syntax))
        vectors.append(vector)
    pooled = [vector for i in backbone.pooled_clips if (vector := vectors[i]) is not None]
    if len(pooled) < len(backbone.pooled_clips):
        raise LongalignError(f"{backbone.title} needs CLIPs with a projection, which give pooled vectors")
    along = [torch.cat(states, dim=-1)] if backbone.clip_tokens else []  # (B, 77, D1 + D2)
    if t5 is not None:
        texts = [reading.t5.ids for reading in readings if reading.t5 is not None]
        hidden = t5.call(texts, backbone.t5_length)  # (B, 256, D3)
        along.append(_weighted(t5, texts, hidden, [reading.t5_marks for reading in readings], 0, syntax))
    elif backbone.t5 is not None:
        assert parts.joint_width is not None  # TextParts checks this
        along.append(along[0].new_zeros(len(along[0]), backbone.t5_length, parts.joint_width))
    dtype = towers[-1].model.dtype if towers else along[-1].dtype
    return backbone.join(along, dtype), torch.cat(pooled, dim=-1) if pooled else None


def _weighted(
    encoder: Tower | T5Encoder,
    rows: Sequence[Ids],
    hidden: torch.Tensor,
    marks: Sequence[Marks | None],
    first: int,
    syntax: Syntax,
) -> torch.Tensor:
    """(B, L, D) states with the weights of those rows that have some; ``first``: place of a row's first word."""
    if not any(marks):
        return hidden
    return torch.stack(
        [
            states if of is None else weigh(encoder, ids, states, Weights(syntax, of, first))
            for ids, states, of in zip(rows, hidden, marks, strict=True)
        ]
    )
