"""Text-to-image pipelines of other families with random weights and minute sizes. They run, and draw noise of 32 px."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderDC,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    KandinskyV22CombinedPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    PriorTransformer,
    SanaPipeline,
    SanaTransformer2DModel,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from tiny import WIDTH, clip_tokenizer, t5_encoder, t5_tokenizer, text_encoder, tiny_vae
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Gemma2Config,
    Gemma2Model,
)

from longalign.stickers import folder


def tiny_pixart() -> PixArtAlphaPipeline:
    """Its own sizes are sorted into bins only from 256 px on: call it with ``use_resolution_binning=False``."""
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        sample_size=16,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=WIDTH,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
    )
    pipe = PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(),
        vae=tiny_vae(4),
        transformer=transformer,
        scheduler=DDIMScheduler(clip_sample=False),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_flux() -> FluxPipeline:
    """Two latents a side are one token of the transformer."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(4),
        text_encoder=text_encoder(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sana() -> SanaPipeline:
    """A Gemma 2 of one layer reads the tokens of the tiny T5's tokenizer; a deep-compression autoencoder draws."""
    torch.manual_seed(0)
    tokenizer = t5_tokenizer()
    text_model = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
    ).eval()
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=16,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )
    pipe = SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=text_model,
        vae=vae,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_kandinsky_prior() -> KandinskyV22PriorPipeline:
    """A text → the embedding of a picture. Its tokenizer is the sticker world's, which is written and read quickly."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(folder() / "tokenizer")
    text_model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_factor=3.0,  # so that texts differ
        )
    ).eval()
    prior = PriorTransformer(num_attention_heads=2, attention_head_dim=8, embedding_dim=WIDTH, num_layers=1)
    prior.clip_std.data.fill_(1.0)  # from nothing every prompt would have one embedding
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
            projection_dim=WIDTH,
        )
    ).eval()
    return KandinskyV22PriorPipeline(
        prior=prior,
        image_encoder=image_encoder,
        text_encoder=text_model,
        tokenizer=tokenizer,
        scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            clip_sample_range=10.0,
        ),
        image_processor=CLIPImageProcessorPil(size=32, crop_size=32),
    )


def tiny_kandinsky_decoder() -> KandinskyV22Pipeline:
    """The embedding of a picture → the picture; it takes no prompt."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=16,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
    )
    movq = VQModel(
        block_out_channels=(32, 32),  # its norms have 32 groups
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    return KandinskyV22Pipeline(
        unet=unet, scheduler=DDPMScheduler(clip_sample=False, variance_type="fixed_small"), movq=movq
    )


def tiny_kandinsky() -> KandinskyV22CombinedPipeline:
    """Prior and decoder in one."""
    parts = {f"prior_{name}": part for name, part in tiny_kandinsky_prior().components.items()}
    pipe = KandinskyV22CombinedPipeline(**tiny_kandinsky_decoder().components, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe
