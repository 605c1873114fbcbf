"""The tiny models: ordinary diffusers and transformers classes with small configurations.

Together they make a `StableDiffusionPipeline` folder with the usual subfolders, and beside them (diffusers does
not look there) `clip` (the whole CLIP, for preference models), `t5`, `t5_tokenizer` and `adapter`. What SDXL and SD3
need beyond them is in `sdxl_sd3_models.py`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from longalign.encoding.adapter import TextAdapter
from longalign.stickers.tokenizers import CLIP_WINDOW, make_clip_tokenizer, make_t5_tokenizer
from longalign.stickers.world import SCENE_PX

LATENT_CHANNELS = 8
LATENT_SIZE = 6  # 96 px / 16: each cell of the grid is exactly 2 × 2 latents
TEXT_WIDTH = 128
T5_WIDTH = 96


def make_vae() -> AutoencoderKL:
    """f16 autoencoder with 8 channels. No attention: what a cell looks like depends on its surroundings only."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        block_out_channels=(16, 32, 48, 64, 96),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=LATENT_CHANNELS,
        sample_size=SCENE_PX,
        mid_block_add_attention=False,
    )


def make_clip() -> CLIPModel:
    """CLIP with a 3-layer text tower of width 128 and a 4-layer ViT of width 160, patch 16."""
    tokenizer = make_clip_tokenizer()
    # Without these ids the text tower pools at id 49407, which this vocabulary does not have.
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": CLIP_WINDOW,
        "projection_dim": 128,
        **ids,
    }
    vision = {
        "hidden_size": 160,
        "intermediate_size": 640,
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
        "image_size": SCENE_PX,
        "patch_size": 16,
        "projection_dim": 128,
    }
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
    # Flat colours make patch embeddings many times larger than position embeddings of the usual deviation, 0.02;
    # where a sticker stands is then never seen (LOG.md, 2026-11-21).
    torch.nn.init.normal_(clip.vision_model.embeddings.position_embedding.weight, std=0.5)
    return clip


def text_encoder_of(
    clip: CLIPModel, *, idle_layers: int = 0, projection: bool = False
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """The text tower alone, as diffusers' pipelines want it.

    Args:
        idle_layers: layers behind the tower's own that add nothing to the residual stream. SDXL and SD3 read the states
            before the last layer; behind one idle layer these are what the tower's own last layer says.
        projection: with CLIP's projection, for a pooled vector.
    """
    config = copy.deepcopy(clip.config.text_config)
    own = config.num_hidden_layers
    config.num_hidden_layers += idle_layers
    text = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    weights = {f"text_model.{k}": v for k, v in clip.text_model.state_dict().items()}
    weights["text_projection.weight"] = clip.text_projection.weight.detach()
    state = text.state_dict()
    for name, value in state.items():
        whole = name if name in weights else f"text_model.{name}"
        if whole in weights:
            value.copy_(weights[whole])
        elif ".out_proj." in name or ".fc2." in name:  # what a layer's two halves end with
            value.zero_()
    assert len(text_layers(text)) == own + idle_layers
    return text


def text_layers(text: Any) -> Any:
    """The layers of a text tower, with or without projection."""
    return getattr(text, "text_model", text).encoder.layers


def make_unet() -> UNet2DConditionModel:
    """Two levels (6 × 6 and 3 × 3 latents), cross-attention at both."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(128, 128),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # in this class: the number of heads
        norm_num_groups=16,
    )


def make_scheduler(**changes: Any) -> DDIMScheduler:
    """SD's noise schedule, rescaled to zero terminal SNR, with v-prediction.

    SD's own schedule leaves signal at t = 999, from which brightness drifts in so small a world.
    """
    settings: dict[str, Any] = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,  # without effect on trailing timesteps; pipelines warn of any other value
    }
    return DDIMScheduler(**{**settings, **changes})


def make_t5() -> T5ForConditionalGeneration:
    """A 3-layer T5 of width 96; its decoder serves span denoising and is left behind afterwards."""
    tokenizer = make_t5_tokenizer()
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=T5_WIDTH,
            d_kv=24,
            d_ff=256,
            num_layers=3,
            num_decoder_layers=1,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=tokenizer.pad_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            dropout_rate=0.0,
            tie_word_embeddings=True,
        )
    )


def encoder_of(t5: T5ForConditionalGeneration) -> T5EncoderModel:
    """The encoder alone."""
    encoder = T5EncoderModel(t5.config)
    weights = t5.state_dict()
    encoder.load_state_dict({k: weights[k] for k in encoder.state_dict()})
    return encoder


def make_adapter() -> TextAdapter:
    """T5 → UNet text adapter, two blocks as LaVi-Bridge's: 96 → 112 → 128."""
    adapter: TextAdapter = TextAdapter(T5_WIDTH, (T5_WIDTH + TEXT_WIDTH) // 2, TEXT_WIDTH)
    return adapter


def count(module: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())
