"""Pipelines of every family with random weights and minute sizes, for tests. They run, and draw noise.

The CLIP tokenizer is the true one (49,408 entries, window 77); widths are 32, depths 2, images 32 px.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from clip_vocab import real_clip_tokenizer
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from longalign.encoding import T5Branch
from longalign.encoding.adapter import TextAdapter

WIDTH = 32
VOCABULARY = "a an the on in at cat dog red blue sits runs stands disc house tree of and is with near ground"


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's own; SDXL's and SD3's second one pads with ``!``, which is token 0 and also a word."""
    tokenizer = copy.deepcopy(real_clip_tokenizer())
    tokenizer.pad_token = pad_token
    return tokenizer


def text_encoder(
    width: int = WIDTH, projection: int | None = None, seed: int = 0, max_position_embeddings: int = 77
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A CLIP text model of two layers. Its weights are large enough for texts to differ clearly."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=max_position_embeddings,
        projection_dim=projection or width,
        bos_token_id=49_406,
        eos_token_id=49_407,
        pad_token_id=49_407,
        initializer_factor=3.0,
    )
    return (CLIPTextModel(config) if projection is None else CLIPTextModelWithProjection(config)).eval()


def t5_tokenizer(model_max_length: int = 512) -> T5Tokenizer:
    """A unigram tokenizer with a few words and all of ASCII; a word that it has is one token."""
    letters = [chr(c) for c in range(33, 127)]
    pieces = [
        ("▁", -2.0),
        *((f"▁{w}", -2.0) for w in VOCABULARY.split() if w != "a"),
        *((c, -10.0) for c in letters),
        ("▁a", -2.0),
    ]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces]
    return T5Tokenizer(vocab=vocab, extra_ids=4, model_max_length=model_max_length)


def t5_encoder(width: int = WIDTH, seed: int = 3) -> T5EncoderModel:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def t5_branch(out_dim: int = WIDTH) -> T5Branch:
    """T5 of width 24 and an adapter 24 → 28 → ``out_dim``."""
    encoder = t5_encoder(width=24)
    torch.manual_seed(4)
    return T5Branch(t5_tokenizer(), encoder, TextAdapter(24, 28, out_dim).eval())


def save_t5_branch(branch: T5Branch, folder: Path) -> None:
    """In the layout that `T5Branch.from_pretrained` reads."""
    branch.tokenizer.save_pretrained(folder / "t5_tokenizer")
    branch.encoder.save_pretrained(folder / "t5")
    branch.adapter.save_pretrained(folder / "adapter")


def tiny_vae(channels: int) -> AutoencoderKL:
    torch.manual_seed(5)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=32,
        shift_factor=0.0,
    )


def _unet(cross_attention_dim: int, **changes: object) -> UNet2DConditionModel:
    torch.manual_seed(6)
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=cross_attention_dim,
        **changes,
    )


def tiny_sd15() -> StableDiffusionPipeline:
    """CLIP of width 32."""
    pipe = StableDiffusionPipeline(
        vae=tiny_vae(4),
        text_encoder=text_encoder(),
        tokenizer=clip_tokenizer(),
        unet=_unet(WIDTH),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sdxl(force_zeros_for_empty_prompt: bool = True) -> StableDiffusionXLPipeline:
    """CLIPs of widths 32 and 40, pooled vectors of 24."""
    projection, time_width = 24, 8
    pipe = StableDiffusionXLPipeline(
        vae=tiny_vae(4),
        text_encoder=text_encoder(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=text_encoder(40, projection, seed=1),
        tokenizer_2=clip_tokenizer(pad_token="!"),
        unet=_unet(
            WIDTH + 40,
            addition_embed_type="text_time",
            addition_time_embed_dim=time_width,
            projection_class_embeddings_input_dim=projection + 6 * time_width,
        ),
        scheduler=EulerDiscreteScheduler(),
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sd3(with_t5: bool = True) -> StableDiffusion3Pipeline:
    """CLIPs of widths 32 and 40, T5 of width 80, pooled vectors of 32 + 24."""
    joint_width = 80
    torch.manual_seed(7)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=joint_width,
        caption_projection_dim=32,
        pooled_projection_dim=WIDTH + 24,
        out_channels=4,
        pos_embed_max_size=16,
    )
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(4),
        text_encoder=text_encoder(projection=WIDTH),
        tokenizer=clip_tokenizer(),
        text_encoder_2=text_encoder(40, 24, seed=1),
        tokenizer_2=clip_tokenizer(pad_token="!"),
        text_encoder_3=t5_encoder(joint_width) if with_t5 else None,
        tokenizer_3=t5_tokenizer() if with_t5 else None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
