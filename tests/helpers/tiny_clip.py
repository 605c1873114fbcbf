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


def tiny_clip_h() -> CLIPModel:
    """`tiny_clip` with 16 heads in each tower, as ViT-H-14 has."""
    clip = tiny_clip(hidden_act="gelu")
    config = clip.config
    config.text_config.num_attention_heads = config.vision_config.num_attention_heads = 16
    again = CLIPModel(config).eval()
    again.load_state_dict(clip.state_dict())
    return again


def open_clip_layout(clip: CLIPModel) -> dict[str, torch.Tensor]:
    """The same weights under open_clip's names: fused q, k, v, and projections that multiply from the right."""
    ours = clip.state_dict()
    state = {
        "positional_embedding": ours["text_model.embeddings.position_embedding.weight"],
        "text_projection": ours["text_projection.weight"].T.clone(),
        "logit_scale": ours["logit_scale"],
        "token_embedding.weight": ours["text_model.embeddings.token_embedding.weight"],
        "visual.class_embedding": ours["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": ours["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": ours["visual_projection.weight"].T.clone(),
        "visual.conv1.weight": ours["vision_model.embeddings.patch_embedding.weight"],
    }
    norms = {
        "ln_final": "text_model.final_layer_norm",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
    }
    for their_tower, tower in (("", "text_model"), ("visual.", "vision_model")):
        for i in range(2):
            theirs, layer = f"{their_tower}transformer.resblocks.{i}", f"{tower}.encoder.layers.{i}"
            norms |= {
                f"{theirs}.ln_1": f"{layer}.layer_norm1",
                f"{theirs}.ln_2": f"{layer}.layer_norm2",
                f"{theirs}.mlp.c_fc": f"{layer}.mlp.fc1",
                f"{theirs}.mlp.c_proj": f"{layer}.mlp.fc2",
                f"{theirs}.attn.out_proj": f"{layer}.self_attn.out_proj",
            }
            for kind in ("weight", "bias"):
                state[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(
                    [ours[f"{layer}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
                )
    for theirs, name in norms.items():
        state |= {f"{theirs}.{kind}": ours[f"{name}.{kind}"] for kind in ("weight", "bias")}
    return state
