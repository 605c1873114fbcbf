"""The pipelines' own encoding of the first 77 tokens, the baseline of the other encodings.

Every tensor goes through the operations of ``pipe.encode_prompt`` in the same order and batch shape, so the
results are equal to the last bit, as long as the prompts make one batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from longalign.encoding.t5 import T5Encoder
from longalign.encoding.text_parts import TextParts
from longalign.encoding.tokens import Ids, pad_ids
from longalign.encoding.towers import Tower
from longalign.errors import LongalignError


def encode_plain(
    parts: TextParts,
    towers: Sequence[Tower],
    t5: T5Encoder | None,
    texts: Sequence[Sequence[Ids]],
    t5_texts: Sequence[Ids],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Encodes one batch of token ids.

    Args:
        texts: for each CLIP, each prompt's token ids, cut to the window.
        t5_texts: each prompt's for T5, likewise; empty without T5.

    Returns:
        (B, L, D) embeddings and, for SDXL and SD3, (B, P) pooled vectors. L is the window, for SD3 256 more.
    """
    backbone = parts.backbone
    states, vectors = [], []
    for tower, of_prompts in zip(towers, texts, strict=True):
        ids, mask = pad_ids(of_prompts, tower.window, tower.tokenizer.pad_token_id)
        hidden, vector = tower.call(ids, mask)
        states.append(hidden)
        vectors.append(vector)
    pooled = [vector for i in backbone.pooled_clips if (vector := vectors[i]) is not None]
    if len(pooled) < len(backbone.pooled_clips):
        raise LongalignError(f"{backbone.title} needs CLIPs with a projection, which give pooled vectors")
    along = [torch.cat(states, dim=-1)] if backbone.clip_tokens else []  # (B, 77, D1 + D2)
    if t5 is not None:
        along.append(t5.call(t5_texts, backbone.t5_length))  # (B, 256, D3)
    elif backbone.t5 is not None:
        assert parts.joint_width is not None  # TextParts checks this
        along.append(along[0].new_zeros(len(along[0]), backbone.t5_length, parts.joint_width))
    dtype = towers[-1].model.dtype if towers else along[-1].dtype
    return backbone.join(along, dtype), torch.cat(pooled, dim=-1) if pooled else None
