"""The pipelines' own encoding: the first 77 tokens and no more. It is what the others are compared with.

Every tensor goes through the operations of ``pipe.encode_prompt`` in the same order and batch shape, so the
results are equal to the last bit, as long as the prompts make one batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from longalign.encoding.t5 import T5Encoder
from longalign.encoding.text_parts import TextParts
from longalign.encoding.tokens import Ids, pad_ids
from longalign.encoding.towers import Tower

SD3_T5_LENGTH = 256  # `max_sequence_length` of StableDiffusion3Pipeline


def encode_plain(
    parts: TextParts,
    towers: Sequence[Tower],
    t5: T5Encoder | None,
    texts: Sequence[Sequence[Ids]],
    t5_texts: Sequence[Ids],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Encodes one batch.

    Args:
        texts: for each CLIP, each prompt's token ids, cut to the window.
        t5_texts: each prompt's for T5, likewise; empty without T5.

    Returns:
        (B, L, D) embeddings and, for SDXL and SD3, (B, P) pooled vectors. L is the window, for SD3 256 more.
    """
    states, pooled = [], []
    for tower, of_prompts in zip(towers, texts, strict=True):
        ids, mask = pad_ids(of_prompts, tower.window, tower.tokenizer.pad_token_id)
        hidden, vectors = tower.call(ids, mask)
        states.append(hidden)
        pooled += [vectors] if vectors is not None else []
    if parts.family == "sd15":
        return states[0], None
    embeds = torch.cat(states, dim=-1)  # (B, 77, D1 + D2)
    if parts.family == "sdxl":
        return embeds.to(towers[-1].model.dtype), pooled[0]
    if t5 is not None:
        rest = t5.call(t5_texts, SD3_T5_LENGTH)  # (B, 256, D3)
    else:
        assert parts.joint_width is not None  # TextParts sees to it
        rest = embeds.new_zeros(len(embeds), SD3_T5_LENGTH, parts.joint_width)
    embeds = pad(embeds, (0, rest.shape[-1] - embeds.shape[-1]))  # (B, 77, D3)
    return torch.cat([embeds, rest], dim=-2), torch.cat(pooled, dim=-1)
