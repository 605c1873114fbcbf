"""A minute CLIP with random weights and the sticker world's tokenizer, for tests of preference models."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from longalign.preference import PreferenceModel, Preprocess
from longalign.stickers.tokenizers import make_clip_tokenizer

WIDTH = 24
IMAGE_PX = 32

tokenizer = cache(make_clip_tokenizer)


def tiny_clip(seed: int = 0, hidden_act: str = "quick_gelu", **text: Any) -> CLIPModel:
    """Widths 32 (text, 4 heads) and 48 (vision, 3 heads), 2 layers each, 32 px in patches of 8, embeddings of 24.

    Its weights are large enough for texts to differ clearly.
    """
    torch.manual_seed(seed)
    towers = {
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "projection_dim": WIDTH,
        "hidden_act": hidden_act,
    }
    words = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 32,
        "num_attention_heads": 4,
        "bos_token_id": tokenizer().bos_token_id,
        "eos_token_id": tokenizer().eos_token_id,
        "pad_token_id": tokenizer().pad_token_id,
        "initializer_factor": 3.0,
    }
    vision = {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "image_size": IMAGE_PX,
        "patch_size": 8,
        "initializer_factor": 3.0,
    }
    config = CLIPConfig(
        text_config={**towers, **words, **text}, vision_config={**towers, **vision}, projection_dim=WIDTH
    )
    clip = CLIPModel(config).eval()
    with torch.no_grad():  # transformers starts biases at 0 and norms at 1, which would hide swapped ones
        for p in clip.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
    return clip


def tiny_model(seed: int = 0) -> PreferenceModel:
    return PreferenceModel(tiny_clip(seed), tokenizer(), Preprocess(IMAGE_PX))
