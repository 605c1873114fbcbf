"""open_clip's checkpoints (HPSv2 is one) → transformers' `CLIPModel`: the same network under other names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.runtime import quiet
from longalign.safe_files import read_pickle

_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # so spelled in transformers
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
# open_clip multiplies by these from the right, a Linear by its transposed weight.
_TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_IN_PROJECTION = re.compile(r"((?:visual\.)?transformer\.resblocks\.\d+\.attn)\.in_proj_(weight|bias)")
_QKV = ("q_proj", "k_proj", "v_proj")
_UNUSED = ("attn_mask", "logit_bias")


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's state dict → `CLIPModel`'s.

    The fused projection ``attn.in_proj`` (3·W, W) holds q, k and v one below the other.

    Raises:
        LongalignError: a key that open_clip's plain ViT models do not have (it is named).
    """
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in _UNUSED:
            continue
        if key in _NAMES:
            converted[_NAMES[key]] = value
        elif key in _TRANSPOSED:
            converted[_TRANSPOSED[key]] = value.T.contiguous()
        elif found := _IN_PROJECTION.fullmatch(key):
            for name, part in zip(_QKV, value.chunk(3), strict=True):
                converted[f"{_layer(found[1])}.self_attn.{name}.{found[2]}"] = part.contiguous()
        elif (found := _BLOCK.fullmatch(key)) and found[3] in _IN_BLOCK:
            converted[f"{_layer(key)}.{_IN_BLOCK[found[3]]}.{found[4]}"] = value
        else:
            raise LongalignError(
                f"{key!r} is in no ViT model of open_clip: a checkpoint of another architecture?"
            )
    return converted


def _layer(key: str) -> str:
    tower = "vision_model" if key.startswith("visual.") else "text_model"
    number = key.split("resblocks.")[1].split(".")[0]
    return f"{tower}.encoder.layers.{number}"


def config_of(state: Mapping[str, Tensor], vision_heads: int = 16, text_heads: int = 16) -> Any:
    """The `CLIPConfig` of a converted state dict. All but the numbers of heads shows in the shapes.

    The defaults are ViT-H-14's (widths 1280 and 1024). The end token is the one of highest id, as in open_clip.
    """
    from transformers import CLIPConfig

    def layers(tower: str) -> int:
        return len(
            {key for key in state if re.fullmatch(rf"{tower}\.encoder\.layers\.\d+\.mlp\.fc1\.bias", key)}
        )

    patch = state["vision_model.embeddings.patch_embedding.weight"]  # (W, 3, p, p)
    positions = state["vision_model.embeddings.position_embedding.weight"]  # (1 + n², W)
    vocabulary, text_width = state["text_model.embeddings.token_embedding.weight"].shape
    width = state["text_projection.weight"].shape[0]
    text = {
        "vocab_size": vocabulary,
        "hidden_size": text_width,
        "intermediate_size": len(state["text_model.encoder.layers.0.mlp.fc1.bias"]),
        "num_hidden_layers": layers("text_model"),
        "num_attention_heads": text_heads,
        "max_position_embeddings": len(state["text_model.embeddings.position_embedding.weight"]),
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
        "hidden_act": "gelu",
    }
    vision = {
        "hidden_size": patch.shape[0],
        "intermediate_size": len(state["vision_model.encoder.layers.0.mlp.fc1.bias"]),
        "num_hidden_layers": layers("vision_model"),
        "num_attention_heads": vision_heads,
        "patch_size": patch.shape[-1],
        "image_size": patch.shape[-1] * round((len(positions) - 1) ** 0.5),
        "hidden_act": "gelu",
    }
    for part in (text, vision):
        part["projection_dim"] = width
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)


def clip_of(
    checkpoint: Mapping[str, Any], vision_heads: int = 16, text_heads: int = 16, name: str = ""
) -> Any:
    """A `CLIPModel` in evaluation mode from what an open_clip checkpoint file holds.

    Args:
        checkpoint: a state dict, or one under ``state_dict``; keys may begin with ``module.``.
        name: of the file, for messages.

    Raises:
        LongalignError: it is none of open_clip's ViT models.
    """
    from transformers import CLIPModel

    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise LongalignError(f"{name}: holds no state dict of open_clip")
    try:
        weights = convert({key.removeprefix("module."): value for key, value in state.items()})
        config = config_of(weights, vision_heads, text_heads)
        with torch.device("meta"):
            wanted = CLIPModel(config).state_dict()
        wrong = sorted(key for key in wanted if key not in weights or weights[key].shape != wanted[key].shape)
        wrong += sorted(weights.keys() - wanted.keys())
        if wrong:
            raise LongalignError(f"{len(wrong)} tensors missing or of another shape, such as {wrong[0]!r}")
    except KeyError as error:
        raise LongalignError(f"{name}: is no ViT model of open_clip: {error} is missing") from None
    except LongalignError as error:
        raise LongalignError(f"{name}: is no ViT model of open_clip: {error}") from None
    with quiet():
        return CLIPModel.from_pretrained(None, config=config, state_dict=weights).eval()


def read_checkpoint(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The tensors of a ``.pt`` file, without running code that it may hold.

    Raises:
        LongalignError: no such file, damaged, or a pickle that holds more than tensors (refused).
    """
    checkpoint = read_pickle(path)
    if not isinstance(checkpoint, Mapping):
        raise LongalignError(f"{path}: holds no state dict")
    return checkpoint
