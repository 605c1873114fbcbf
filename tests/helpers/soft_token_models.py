"""Tiny models of the three backbones, tokens for them, and what the tokens do, written by hand."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from tiny_denoiser import POOLED, SIDE, TEXT, tiny_transformer
from torch import Tensor, nn

from longalign.soft_tokens import SoftTokenConfig, SoftTokens

FAMILIES = ["sd15", "sdxl", "sd3"]
STAGES = ("down", "mid", "up")
LENGTH = 5  # of the text


def three_stage_unet(sdxl: bool = False) -> UNet2DConditionModel:
    """Cross-attention in all three stages, and a block without any on either side."""
    torch.manual_seed(5)
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 2,
        "projection_class_embeddings_input_dim": POOLED + 6 * 2,
    }
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=2,
        out_channels=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=TEXT,
        **(added if sdxl else {}),
    )


def model_of(family: str) -> Any:
    return tiny_transformer() if family == "sd3" else three_stage_unet(family == "sdxl")


def tokens_for(module: nn.Module, **changes: Any) -> SoftTokens:
    """With values as large as the text's, so that they matter."""
    tokens = SoftTokens(SoftTokenConfig.of(module, **changes))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for p in tokens.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return tokens


def inputs(family: str, rows: int = 2, t: Any = None) -> dict[str, Any]:
    """Of a model of the family, by name. Times differ between the rows unless given."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(rows, 2, SIDE, SIDE, generator=generator)
    text = torch.randn(rows, LENGTH, TEXT, generator=generator)
    pooled = torch.randn(rows, POOLED, generator=generator)
    times = torch.tensor([431.0, 57.0, 999.0, 0.0])[:rows] if t is None else t
    common = {"encoder_hidden_states": text, "timestep": times, "return_dict": False}
    if family == "sd3":
        return {"hidden_states": x, "pooled_projections": pooled, **common}
    if family == "sdxl":
        common["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.ones(rows, 6)}
    return {"sample": x, **common}


def inserted(text: Tensor, tokens: SoftTokens, times: Any) -> Tensor:
    """[y_0, s(t), y_1, …], row by row."""
    rows = []
    for y, t in zip(text, torch.as_tensor(times).expand(len(text)), strict=True):
        own = tokens.tokens[0] + (0 if tokens.time is None else tokens.time[int(t) // 10, 0])
        rows.append(torch.cat([y[:1], own, y[1:]]))
    return torch.stack(rows)


def sd3_by_hand(
    model: Any, tokens: SoftTokens, hidden_states: Tensor, timestep: Tensor, **given: Any
) -> Tensor:
    """SD3's forward pass with the tokens before every block k < L and without them after it."""
    h = model.pos_embed(hidden_states)
    temb = model.time_text_embed(timestep, given["pooled_projections"])
    text = model.context_embedder(given["encoder_hidden_states"])
    n, layers = tokens.config.count, tokens.config.layers
    for k, block in enumerate(model.transformer_blocks):
        if k < layers:
            table = torch.stack([tokens.time[min(int(t) // 10, 99), k] for t in timestep])  # (B, D)
            text = torch.cat([tokens.tokens[k] + table[:, None], text], dim=1)
        text, h = block(h, text, temb)
        if k < layers and text is not None:
            text = text[:, n:]
    h = model.proj_out(model.norm_out(h, temb))
    p, side = model.config.patch_size, hidden_states.shape[-1] // model.config.patch_size
    return h.reshape(len(h), side, side, p, p, -1).permute(0, 5, 1, 3, 2, 4).reshape(hidden_states.shape)


def by_hand(family: str, model: Any, tokens: SoftTokens, given: dict[str, Any]) -> Tensor:
    if family == "sd3":
        return sd3_by_hand(model, tokens, **{k: v for k, v in given.items() if k != "return_dict"})
    text = inserted(given["encoder_hidden_states"], tokens, given["timestep"])
    return model(**{**given, "encoder_hidden_states": text})[0]


def everywhere(family: str) -> dict[str, Any]:
    """Where tokens stand all the way, so that `by_hand` can put them into the text beforehand."""
    return {} if family == "sd3" else {"stages": STAGES}


def near(a: Tensor, b: Tensor, atol: float = 1e-5) -> bool:
    return torch.allclose(a, b, atol=atol)
