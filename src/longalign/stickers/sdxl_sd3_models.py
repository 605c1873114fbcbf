"""What SDXL and SD3 need beyond the SD1.5 of this world, from its trained parts wherever that is possible.

| part | SDXL | SD3 |
|---|---|---|
| `text_encoder` | the CLIP's text tower and an idle layer: its own last states are read | the same, with projection |
| `text_encoder_2` | the CLIP's text tower with projection; its states before the last layer are read | the same |
| `text_encoder_3` | – | the T5, widened by zeros so that both CLIPs' states fit beside its own |
| denoiser | the UNet, on a linear map of both CLIPs' states | `SD3Transformer2DModel`, from nothing |
| `vae`, tokenizers | as they are | as they are |
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from longalign.encoding import TextParts
from longalign.stickers.models import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    TEXT_WIDTH,
    text_encoder_of,
)

CLIPS_WIDTH = 2 * TEXT_WIDTH  # both CLIPs' states side by side
POOLED_WIDTH = 128  # of one CLIP
JOINT_WIDTH = 384  # both CLIPs' 256 channels and T5's 96; four times T5's, see `widened_t5`
TIME_IDS, TIME_ID_WIDTH = 6, 8

# Of SDXL's UNet, what is not SD1.5's: K and V read wider states, and V's constant part sits in the bias behind them.
OWN = re.compile(r"^add_embedding\.|\.attn2\.(to_k\.weight|to_v\.weight|to_out\.0\.bias)$")


def text_parts(family: str, base: Path) -> TextParts:
    """The tokenizers and text encoders of ``sdxl`` or ``sd3``, in float32, made from the SD1.5 folder `base`."""
    clip = CLIPModel.from_pretrained(base / "clip", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    first = text_encoder_of(clip, idle_layers=1, projection=family == "sd3").eval()
    second = text_encoder_of(clip, projection=True).eval()
    if family == "sdxl":
        return TextParts("sdxl", (tokenizer, tokenizer), (first, second), zero_negative=True)
    t5 = widened_t5(T5EncoderModel.from_pretrained(base / "t5", dtype=torch.float32)).eval()
    t5_tokenizer = T5Tokenizer.from_pretrained(base / "t5_tokenizer")
    return TextParts("sd3", (tokenizer, tokenizer, t5_tokenizer), (first, second, t5))


# RMSNorm over n channels of which m are not zero: x/√(Σx²/n + ε) = √(n/m) · x/√(Σx²/m + ε n/m).
# So with n = 4 m: half the norms' weights and a quarter of their ε leave everything as it was, to the bit in fp16.
def widened_t5(t5: T5EncoderModel, width: int = JOINT_WIDTH) -> T5EncoderModel:
    """The same encoder with states of `width` channels: its own are the last ones, the others are zero.

    SD3 fills CLIP's states up to T5's width with zeros, so T5 must be at least as wide as both CLIPs; and here the
    transformer reads the two from different channels.
    """
    own = t5.config.d_model
    config = copy.deepcopy(t5.config)
    config.d_model = width
    config.layer_norm_epsilon = t5.config.layer_norm_epsilon * own / width
    wide = T5EncoderModel(config)
    narrow = t5.state_dict()
    for name, value in wide.state_dict().items():
        value.zero_()
        at = tuple(
            slice(big - small, None) for big, small in zip(value.shape, narrow[name].shape, strict=True)
        )
        scale = (own / width) ** 0.5 if "layer_norm" in name else 1.0
        value[at] = narrow[name] * scale
    return wide


def sdxl_unet(unet: UNet2DConditionModel, map_weight: Tensor, map_bias: Tensor) -> UNet2DConditionModel:
    """SDXL's UNet that says of states s what SD1.5's says of ``map_weight · s + map_bias``, whatever else it is told.

    K = W_k (A s + b): b adds the same to a query's product with every key, which the softmax ignores.
    V = W_v (A s + b): attention weights sum to one, so W_v b goes through W_out into its bias.

    Args:
        unet: SD1.5's.
        map_weight: A, (128, 256).
        map_bias: b, (128,).
    """
    config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    wide = UNet2DConditionModel(
        **{
            **config,
            "cross_attention_dim": map_weight.shape[1],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": TIME_ID_WIDTH,
            "projection_class_embeddings_input_dim": POOLED_WIDTH + TIME_IDS * TIME_ID_WIDTH,
        }
    )
    narrow = unet.state_dict()
    for name, value in wide.state_dict().items():
        if name.startswith("add_embedding."):
            if ".linear_2." in name:  # the pooled vector and the time ids say nothing yet
                value.zero_()
        elif OWN.search(name) and name.endswith("to_out.0.bias"):
            w_out = narrow[name.replace(".bias", ".weight")]
            w_v = narrow[name.replace("to_out.0.bias", "to_v.weight")]
            value.copy_(narrow[name] + w_out @ (w_v @ map_bias))
        elif OWN.search(name):
            value.copy_(narrow[name] @ map_weight)
        else:
            value.copy_(narrow[name])
    return wide


@torch.no_grad()
def map_between(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The linear map with least squared error from (N, D) states to (N, E) wanted ones: (E, D), (E,)."""
    ones = torch.ones(len(states), 1, dtype=torch.float64)
    solved = torch.linalg.lstsq(torch.cat([states.double(), ones], dim=1), wanted.double()).solution
    return solved[:-1].T.float().contiguous(), solved[-1].float()


def make_transformer() -> SD3Transformer2DModel:
    """Four joint blocks of width 96 on 6 × 6 latents; at first it predicts zero.

    Position embeddings are a fixed table of sines in diffusers, of which most hardly vary over six places. The table
    is saved with the weights, so it may hold any numbers: here it is drawn, and trained with the rest.
    """
    model = SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=1,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=4,
        attention_head_dim=24,
        num_attention_heads=4,
        joint_attention_dim=JOINT_WIDTH,
        caption_projection_dim=96,
        pooled_projection_dim=2 * POOLED_WIDTH,
        pos_embed_max_size=LATENT_SIZE,
    )
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    for name, layer in model.named_modules():
        # adaLN-Zero (Peebles and Xie, §3.2), but with gates ajar: the run is short.
        if name.endswith((".norm1.linear", ".norm1_context.linear", "norm_out.linear")) or name == "proj_out":
            nn.init.zeros_(layer.weight)
            if layer.out_features == 6 * model.inner_dim:
                layer.bias.detach().view(6, -1)[[2, 5]] = 0.2
    rows, columns = torch.randn(2, LATENT_SIZE, model.inner_dim) / 2**0.5
    model.pos_embed.pos_embed.copy_((rows[:, None] + columns[None]).flatten(0, 1)[None])
    return model


def trainable_places(model: SD3Transformer2DModel) -> SD3Transformer2DModel:
    """Makes the table of position embeddings a parameter, under its own name."""
    embed: Any = model.pos_embed
    table = embed.pos_embed
    del embed.pos_embed
    embed.pos_embed = nn.Parameter(table)
    return model


def make_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """SD3's. A shift of 3, as there, for another reason: what is where is decided while there is much noise."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
